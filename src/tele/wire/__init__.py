"""SSH bytes: fields, packets per direction, ciphers, negotiation, strict key exchange."""
