"""Frozen values that cross rooms, and their JSON form."""
