"""The recording format: frames in chunks, chained by hash, closed by a signed manifest."""
