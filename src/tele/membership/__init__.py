"""The membership of a host in a cluster: it joins, announces itself, renews certificates."""
