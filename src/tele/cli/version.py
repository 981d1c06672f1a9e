"""``tele version``: print the version."""

from __future__ import annotations

import click

from tele._version import VERSION
from tele.cli.output import format_option, print_text, show_data


@click.command()
@format_option()
def version(form: str) -> None:
    """Print the version."""
    if form == "text":
        print_text(f"tele {VERSION}")
    else:
        show_data(form, {"version": VERSION})
