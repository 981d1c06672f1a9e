"""The audit: events appended once, chained by hash, queried, followed, delivered to sinks."""
