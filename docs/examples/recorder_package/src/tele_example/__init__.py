"""A recorder and an archive for tele."""
