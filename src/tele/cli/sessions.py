"""``tele sessions``: list running sessions, and end one."""

from __future__ import annotations

from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import pages
from tele.cli.output import Column, ago, format_option, show_pages, started_ago
from tele.errors import InvalidInput


def _known(session: Any) -> str:
    """Return the status of a session, as far as auth knows it."""
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
        "ls": Lazy("tele.cli.sessions:ls", "List running sessions."),
        "kill": Lazy("tele.cli.sessions:kill", "End a running session."),
    },
)
def sessions() -> None:
    """List and end running sessions."""


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List running sessions: all of them, or your own, as your roles allow.

    While a node is offline it is not known whether its sessions still run: see STATUS.
    """
    from tele.model.api.paging import Paged
    from tele.model.api.sessions import LIST_SESSIONS

    with open_authority(where) as authority:
        found = pages(lambda after, size: authority.perform(LIST_SESSIONS, Paged(size, after)))
        show_pages(form, found, _COLUMNS, name=lambda s: s["id"])


@click.command()
@click.argument("session_id", metavar="ID")
@click.option("--message", default="", help="Shown to the user.")
@where_options(local=True)
def kill(session_id: str, message: str, where: Where) -> None:
    """End a running session, with its forwards.

    The user sees who ended it, and the message. They can log in again: to prevent that, use tele
    locks add.
    """
    from tele.model.api.sessions import KILL_SESSION, KillSession

    try:
        request = KillSession(session_id, message)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    with open_authority(where) as authority:
        authority.perform(KILL_SESSION, request)
