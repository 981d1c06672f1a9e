"""The proxy: one port for SSH, HTTPS and TLS to auth, which the first bytes tell apart."""
