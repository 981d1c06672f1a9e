"""The event stream: appended once, chained by hash, queried, followed, handed to sinks."""
