"""The ``tele`` command."""
