"""Sessions: what a client asks for, and the program that runs (RFC 4254, section 6)."""
