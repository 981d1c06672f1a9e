"""Export of recordings: as text, JSON lines, asciicast."""
