"""How does a client get to a node? The index of nodes, the plan of routes, and the dialer."""
