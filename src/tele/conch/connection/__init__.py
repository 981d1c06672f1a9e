"""Channels on a connection (RFC 4254)."""
