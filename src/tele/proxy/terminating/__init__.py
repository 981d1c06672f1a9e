"""The recording proxy: it ends the SSH of clients, and makes connections of its own to targets."""
