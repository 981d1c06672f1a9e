"""What clients do to files, read from the protocols as they pass."""
