"""How does a command with many parts start fast? Each part is imported when it is called.

Invariants:

* The help of a group and the completion of its names import no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is (``module:attribute``), and its line in the help of its group."""

    where: str
    help: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def __init__(self, *, lazy: Mapping[str, Lazy], **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]  # click's own keywords, handed on
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return names in the order in which they were given."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.where.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self._lazy.items()])

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete names from the table alone."""
        names = [
            click.shell_completion.CompletionItem(name, help=lazy.help)
            for name, lazy in self._lazy.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)
