"""The pages for browsers that a proxy serves, and the byte streams that they open."""
