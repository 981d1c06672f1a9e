"""Auth: the only part with state, and the only one that holds a CA key."""
