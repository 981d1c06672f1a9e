"""Which version is this?"""

from __future__ import annotations

import click

from tele._version import VERSION


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"tele {VERSION}")
