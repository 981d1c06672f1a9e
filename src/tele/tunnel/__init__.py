"""How are nodes reached that cannot be dialled? Through tunnels, SSH connections that they open."""
