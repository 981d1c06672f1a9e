"""Which sessions run now, and how does one of them end?"""

from __future__ import annotations

from typing import Any

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import pages
from tele.cli.output import Column, ago, format_option, show_pages, started_ago
from tele.cli.session import Where, open_authority, where_options
from tele.errors import InvalidInput


def _known(session: Any) -> str:
    """Return whether a session runs, as far as auth knows."""
    if session["status"] == "running":
        return "running"
    seen = session["node_seen"]
    return f"node offline, last seen {ago(seen)}" if seen else "node offline"


_COLUMNS = (
    Column("ID", lambda s: s["id"]),
    Column("USER", lambda s: s["user"]),
    Column("LOGIN", lambda s: s["login"]),
    Column("NODE", lambda s: s["node"]),
    Column("FROM", lambda s: s["remote_addr"]),
    Column("STARTED", started_ago),
    Column("STATUS", _known),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.sessions:ls", "List sessions that have not ended."),
        "kill": Lazy("tele.cli.sessions:kill", "End a session that runs."),
    },
)
def sessions() -> None:
    """Show and end sessions that run."""


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List sessions that have not ended: all of them, or your own, as your roles allow.

    While a node is offline nobody knows whether its sessions still run: STATUS says so.
    """
    from tele.model.api.paging import Paged
    from tele.model.api.sessions import LIST_SESSIONS

    with open_authority(where) as authority:
        found = pages(lambda after, size: authority.perform(LIST_SESSIONS, Paged(size, after)))
        show_pages(form, found, _COLUMNS, name=lambda s: s["id"])


@click.command()
@click.argument("session_id", metavar="ID")
@click.option("--message", default="", help="What the person reads.")
@where_options(local=True)
def kill(session_id: str, message: str, where: Where) -> None:
    """End a session that runs, with all that it forwards.

    The person reads who ended it, and the message. They may log in again: tele locks add
    stops somebody for longer.
    """
    from tele.model.api.sessions import KILL_SESSION, KillSession

    try:
        request = KillSession(session_id, message)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    with open_authority(where) as authority:
        authority.perform(KILL_SESSION, request)
