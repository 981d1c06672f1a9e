"""What a part counts and measures while it runs, under the names that monitoring knows."""
