"""Conch's own avatars, checkers and clients on this engine."""
