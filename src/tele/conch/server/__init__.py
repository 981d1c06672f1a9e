"""The server: login, admission, and the end of a connection."""
