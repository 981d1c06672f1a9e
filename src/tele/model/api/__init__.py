"""The API of auth: one table of operations, and their requests and responses."""
