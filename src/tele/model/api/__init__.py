"""The API of auth: one table of operations, and the values that they take and give."""
