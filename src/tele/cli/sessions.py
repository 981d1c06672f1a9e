"""``tele sessions``: list running sessions, and end one."""

from __future__ import annotations

from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import pages
from tele.cli.output import Column, ago, format_option, plain, show_pages, show_row, started_ago
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


def _participant(each: Any) -> str:
    return f"{each['user']} from {each['remote_addr']}, since {ago(each['joined'])}"


_DETAILS = (
    *_COLUMNS,
    Column("KIND", lambda s: s["kind"]),
    Column("TERMINAL", lambda s: "yes" if s["interactive"] else "no"),
    Column("ROLES", lambda s: ", ".join(s["roles"])),
    Column("RECORDED", lambda s: "yes" if s["recorded"] else "no"),
    Column("PARTICIPANTS", lambda s: "; ".join(map(_participant, s["participants"]))),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.sessions:ls", "List running sessions."),
        "show": Lazy("tele.cli.sessions:show", "Show the details of a running session."),
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
@format_option()
@where_options(local=True)
def show(session_id: str, form: str, where: Where) -> None:
    """Show the details of a running session: who takes part in it, by which roles, and if it is
    recorded.
    """
    from tele.model.api.paging import ById
    from tele.model.api.sessions import GET_SESSION

    with open_authority(where) as authority:
        details = plain(authority.perform(GET_SESSION, ById(session_id)))
    show_row(form, {**details.pop("session"), **details}, _DETAILS)


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
