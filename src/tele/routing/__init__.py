"""How a client gets to a node: which nodes there are, the best route, and how it is dialled."""
