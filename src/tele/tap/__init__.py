"""One module for each service of twistd."""
