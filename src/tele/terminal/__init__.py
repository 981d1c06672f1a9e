"""A terminal emulator in memory, and a parser of keys.

Recorded output is untrusted. It is interpreted here; only the resulting screen reaches the terminal
of the viewer.
"""
