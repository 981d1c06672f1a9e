"""Backups of auth: one sealed file of what cannot be made again."""
