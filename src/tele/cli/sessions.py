"""Which sessions run now?"""

from __future__ import annotations

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import all_pages
from tele.cli.output import Column, format_option, show_list
from tele.cli.recordings import begun
from tele.cli.session import Where, open_authority, where_options

_COLUMNS = (
    Column("ID", lambda s: s["id"]),
    Column("USER", lambda s: s["user"]),
    Column("LOGIN", lambda s: s["login"]),
    Column("NODE", lambda s: s["node"]),
    Column("FROM", lambda s: s["remote_addr"]),
    Column("STARTED", begun),
)


@click.group(cls=LazyGroup, lazy={"ls": Lazy("tele.cli.sessions:ls", "List sessions that run.")})
def sessions() -> None:
    """Show sessions that run."""


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List sessions that run: all of them, or your own, as your roles allow."""
    from tele.model.api.people import Paged
    from tele.model.api.table import LIST_SESSIONS

    with open_authority(where) as authority:
        found = all_pages(lambda after: authority.perform(LIST_SESSIONS, Paged(after=after)))
    show_list(form, found, _COLUMNS, name=lambda s: s["id"])
