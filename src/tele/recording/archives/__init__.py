"""Where auth stores recordings."""
