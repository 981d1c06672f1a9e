"""A page for each service of twistd."""
