"""One end of an SSH transport (RFC 4253)."""
