"""Limits of sources, users and machines: shares, rates and queues."""
