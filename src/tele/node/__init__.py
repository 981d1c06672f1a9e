"""The SSH server on a machine: who may come in, and what runs for them."""
