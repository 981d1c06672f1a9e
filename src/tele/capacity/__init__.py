"""Resources of the machine: file descriptors, disk space, memory."""
