"""The API of auth over HTTPS: JSON, TLS 1.3, client certificates, one table of operations."""
