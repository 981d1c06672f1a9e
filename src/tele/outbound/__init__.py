"""Connections that leave this machine: directly, or through a proxy of its network."""
