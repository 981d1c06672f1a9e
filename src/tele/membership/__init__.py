"""A machine's life in a cluster: it joins, says that it lives, and stays trusted."""
