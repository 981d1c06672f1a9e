"""Conch, hardened: transports, userauth, connection, channels, client."""
