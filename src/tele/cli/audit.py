"""``tele audit``: list and verify audit events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import not_empty, pages, read_moment
from tele.cli.output import Column, format_option, one_word, plain, print_text, show_pages
from tele.errors import InvalidInput
from tele.text import printable, printable_json

#: Seconds between a host's claim and auth's time from which on the claim is shown.
_MUCH_EARLIER = 60.0
#: Characters of what an event says.
_WHAT_LIMIT = 80
#: Events that are listed unless more are asked for.
LISTED = 200
_COLUMNS = (
    Column("TIME", lambda e: e["time"]),
    Column("EVENT", lambda e: e["event"] if e["ok"] else f"{e['event']} (failed)"),
    Column("USER", lambda e: f"{e['user']}>{e['login']}" if e["login"] else e["user"]),
    Column("SERVER", lambda e: e["server_name"]),
    Column("FROM", lambda e: e["remote_addr"]),
    Column("WHAT", lambda e: f"{_earlier(e)}{e['error'] or _what(e)}"),
)
_PLAIN = (
    "id", "time", "event", "code", "cluster", "user", "login", "roles", "session_id",
    "login_session", "server_id", "server_name", "remote_addr", "ok", "error", "previous", "hash",
    "claimed",
)  # fmt: skip


def _what(event: Any) -> str:
    """Return the fields that only this event has, and which recording it is about, as text."""
    fields = {k: v for k, v in event.items() if k not in _PLAIN}
    if event["event"].startswith("recording.") and event["session_id"]:
        fields = {"recording": event["session_id"], **fields}  # which one is what matters
    text = " ".join(f"{k}={v}" for k, v in fields.items())
    return text if len(text) <= _WHAT_LIMIT else text[: _WHAT_LIMIT - 3] + "..."


def _earlier(event: Any) -> str:
    """Return the time that a host claims, if it is much earlier than the time of arrival."""
    if (claimed := event.get("claimed")) is None:
        return ""
    received, happened_at = (datetime.fromisoformat(text) for text in (event["time"], claimed))
    return (
        "" if abs((received - happened_at).total_seconds()) < _MUCH_EARLIER else f"(at {claimed}) "
    )


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.audit:ls", "List events."),
        "verify": Lazy("tele.cli.audit_verify:verify", "Check that no event was changed."),
    },
)
def audit() -> None:
    """List and verify audit events."""


@click.command()
@click.option("--event", callback=not_empty, help="Only events of this name: auth.denied.")
@click.option("--of", callback=not_empty, metavar="USER", help="Only events about this user.")
@click.option("--session", callback=not_empty, metavar="ID", help="Only events of this session.")
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), help=f"How many; 0: all.  [default: {LISTED}]")
@click.option("--follow", is_flag=True, help="Print events as they happen.")
@format_option("names")
@where_options(local=True)
def ls(
    event: str | None,
    of: str | None,
    session: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    follow: bool,
    form: str,
    where: Where,
) -> None:
    """List the newest events, oldest first.

    The order, --since and --until use auth's time: when something happened at auth, or when a
    host's report arrived. Events that a host reported much later also show the host's time.

    With --follow each event is one line; with --format json, one JSON object a line. It can be
    combined with --event and --of only.
    """
    from tele.model.api.audit import FOLLOW_EVENTS, LIST_EVENTS, FollowEvents, ListEvents

    if follow and (session or form == "yaml" or (since, until, limit) != (None, None, None)):
        raise InvalidInput(
            "--follow prints new events only: it can be combined with --event and --of, in the"
            " formats text, names and json"
        )
    limit = LISTED if limit is None else limit
    event, of, session = event or "", of or "", session or ""

    def ask(after: str, count: int, newest: bool = False) -> Any:
        return authority.perform(
            LIST_EVENTS, ListEvents(event, of, session, since, until, newest, count, after)
        )

    with open_authority(where) as authority:
        if follow:
            for each in authority.follow(FOLLOW_EVENTS, FollowEvents(event, of)):
                print_text(_line(form, plain(each)))
            return
        found = [_newest(ask, limit)] if limit else pages(ask)
        show_pages(form, found, _COLUMNS, name=lambda e: e["id"])


def _newest(ask: Callable[..., Any], limit: int) -> list[Any]:
    """Return the newest ``limit`` events, oldest first; a page may have fewer."""
    from tele.model.api.audit import EVENTS_PAGE

    found: list[Any] = []
    after = ""
    while True:
        page = ask(after, min(limit - len(found), EVENTS_PAGE), True)
        found[:0] = page.items
        after = page.next
        if not after or len(found) >= limit:
            return found


def _line(form: str, event: Any) -> str:
    if form == "json":
        return printable_json(event)
    if form == "names":
        return one_word(event["id"])
    return "  ".join(printable(text) for c in _COLUMNS if (text := c.text(event)))
