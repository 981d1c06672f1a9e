"""Forwarded ports and sockets (RFC 4254, section 7)."""
