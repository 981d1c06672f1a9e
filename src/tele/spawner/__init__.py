"""The root program that starts sessions: the standard library and this package, nothing else."""
