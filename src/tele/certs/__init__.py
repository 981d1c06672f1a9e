"""SSH certificates and X.509 identities: read strictly, checked in order, issued by rules."""
