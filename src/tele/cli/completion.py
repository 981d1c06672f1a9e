"""``tele completion``: print a completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tele.cli.output import print_text
from tele.errors import TeleError


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a completion script.

    Add this line to the start-up file of your shell: eval "$(tele completion bash)".
    For fish: tele completion fish | source
    """
    from tele.cli.main import tele

    found = get_completion_class(shell)
    if found is None:
        raise TeleError(f"there is no completion for {shell}")
    print_text(found(tele, {}, "tele", "_TELE_COMPLETE").source())
