"""The cluster's store: ordered keys, revisions, leases, watches; in memory or in SQLite."""
