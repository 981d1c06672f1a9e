"""``tele top``: a cluster as it is now, on one screen.

Invariants:

* It reads only, what the user's roles let them see, and says what they do not.
* While auth does not answer the last look stays on the screen, with the reason.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.lists import FiniteRange
from tele.cli.output import ago, format_option, print_text, show_data
from tele.errors import InvalidInput, NotLoggedIn, TeleError
from tele.text import printable

if TYPE_CHECKING:
    from tele.cli.display import Display
    from tele.cli.top_data import Snapshot, Watcher

#: Seconds between two looks, unless something else is asked for.
INTERVAL: Final = 2.0
#: Rows of the screen for hosts that are offline, and for events; sessions have the rest.
OFFLINE_ROWS: Final = 5
EVENT_ROWS: Final = 10
#: Rows that are printed of each, without a screen.
PRINTED_ROWS: Final = 20
_PLURALS: Final = {"node": "nodes", "proxy": "proxies"}


@click.command()
@click.option(
    "--interval", type=FiniteRange(0.5, 3600), default=INTERVAL, show_default=True,
    help="Seconds between two looks.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one look, and end.")
@format_option()
@where_options(local=True)
def top(interval: float, once: bool, form: str, where: Where) -> None:
    """Show a cluster live: hosts, sessions, logins in the last minute, and the newest events.

    What your roles do not show is left out: a role with the rules of the preset auditor sees all
    sessions and events. Logins of the last minute are counted among the newest 500 events. q quits.

    Without a terminal, with --once, and with --format json or yaml it prints one look.
    """
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    live = on_terminal and form == "text" and not once
    if not live and _was_typed("interval"):
        raise InvalidInput("--interval is for a terminal: one look is printed; leave it out")
    with open_authority(where) as authority:
        _run(authority, form, interval if live else None)


def _was_typed(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _run(authority: Authority, form: str, interval: float | None) -> None:
    from tele.cli.top_data import Watcher

    watcher = Watcher(authority, time.monotonic)
    if interval is None:
        found = watcher.look()
        if form == "text":
            for line in lines(found, PRINTED_ROWS, PRINTED_ROWS, PRINTED_ROWS):
                print_text(line)
        else:
            show_data(form, found.data)
        return
    from tele.cli.display import taken_over

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    with taken_over(keys, sys.stdout.fileno()) as display:
        _watch(display, watcher, interval)


def _watch(display: Display, watcher: Watcher, interval: float) -> None:
    """Draw a look every ``interval`` seconds, until q or Ctrl-C."""
    shown: Snapshot | None = None
    problem = ""
    due = 0.0
    while True:
        if time.monotonic() >= due:
            try:
                shown, problem = watcher.look(), ""
            except NotLoggedIn:
                raise
            except TeleError as error:
                problem = f"auth does not answer: {error}"
            due = time.monotonic() + interval
        display.write(screen(shown, problem, *display.size))
        keys, _ = display.wait(max(0.0, due - time.monotonic()))
        if {"q", "Q", "\x03"} & set(keys):
            return


# -- text -----------------------------------------------------------------------------
def screen(shown: Snapshot | None, problem: str, columns: int, rows: int) -> bytes:
    """Return what draws a look, and what is wrong, on a terminal of this size."""
    head = [f"\x1b[7m{printable(problem)[:columns]}\x1b[0m"] if problem else []
    text: list[str] = []
    if shown is not None:
        events = min(EVENT_ROWS, max(0, (rows - 10) // 3))
        offline = min(OFFLINE_ROWS, max(0, rows - 12 - events))
        taken = len(head) + 4 + len(shown.missing)
        taken += _height(len(shown.offline), offline) + _height(len(shown.events), events)
        text = list(lines(shown, offline, max(0, rows - taken - 3), events))
    drawn = [*head, *(line[:columns] for line in text)][:rows]
    out = "\x1b[?25l\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in drawn) + "\x1b[J"
    return out.encode("utf-8", "replace")


def _height(there: int, rows: int) -> int:
    """Return how many lines a list takes, with its title and an empty line before it."""
    if not there or not rows:
        return 0
    return min(there, rows) + 2 + (there > rows)


def lines(shown: Snapshot, offline: int, sessions: int, events: int) -> Iterator[str]:
    """Yield a look as text: so many rows of hosts that are offline, of sessions, of events."""
    yield f"{printable(shown.cluster)}  {shown.time}  disk of auth: {shown.disk}"
    hosts = shown.hosts or {}
    counts = [
        f"{_PLURALS[role]}: {n['online']} online, {n['offline']} offline"
        for role, n in hosts.items()
    ]
    if shown.sessions is not None:
        more = "more than " if shown.more_sessions else ""
        users = len({each["user"] for each in shown.sessions})
        counts.append(f"sessions: {more}{len(shown.sessions)} of {users} users")
    yield "  ".join(counts)
    if shown.accepted is not None:
        yield f"logins in the last minute: {shown.accepted} accepted, {shown.refused} refused"
    for text in shown.missing:
        yield f"not shown: {printable(text)}"
    rows: list[list[object]] = [
        [each["name"], ago(each["last_seen"]), each.get("problem", "")] for each in shown.offline
    ]
    yield from _table(("OFFLINE", "SEEN", ""), rows, offline)
    rows = [
        [each["user"], each["login"], each["node"], each["remote_addr"], _since(each), each["id"]]
        for each in reversed(shown.sessions or ())
    ]
    yield from _table(("USER", "LOGIN", "NODE", "FROM", "FOR", "SESSION"), rows, sessions)
    newest = list(reversed(shown.events))[:events]
    rows = [
        [
            each["time"][11:19], each["event"] if each["ok"] else f"{each['event']} (failed)",
            each["user"], each["server_name"], each["error"],
        ]
        for each in newest
    ]  # fmt: skip
    yield from _table(("TIME", "EVENT", "USER", "SERVER", ""), rows, events)


def _since(session: Any) -> str:
    return ago(session["started"]).removesuffix(" ago")


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]], most: int) -> Iterator[str]:
    """Yield an empty line and ``most`` rows under their titles; nothing if there are none."""
    if not rows or not most:
        return
    cells = [list(titles), *([printable(cell) for cell in row] for row in rows[:most])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield ""
    for row in cells:
        yield "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
    if len(rows) > most:
        yield f"and {len(rows) - most} more"
