"""The cluster's one door: told apart by first bytes, then TLS for auth, HTTPS, or SSH."""
