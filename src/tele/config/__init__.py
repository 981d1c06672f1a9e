"""The configuration file: YAML in, frozen values out, all mistakes at once."""
