"""SSH access to a fleet of machines without a long-lived key on any of them."""
