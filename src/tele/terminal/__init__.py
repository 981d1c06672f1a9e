"""A terminal in memory: what output looks like on a screen, and which keys a person presses.

Recorded output is somebody else's text. It is interpreted here, and only what this package makes
of it reaches the terminal of the person who looks.
"""
