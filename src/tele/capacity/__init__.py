"""What of the machine is kept free for the process's own work: descriptors and disk space."""
