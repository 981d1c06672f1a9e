"""Sockets of our own below Twisted's protocols, and the buffers that they read into."""
