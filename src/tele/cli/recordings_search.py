"""``tele recordings search``: find a text in commands, files and output of recorded sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lists import not_empty, pages, read_moment
from tele.cli.output import Column, format_option, print_notice, show_pages

#: Hits of a page.
PAGE = 50


def clock(seconds: float) -> str:
    """Return a time within a session, as ``tele play --at`` takes it."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


_COLUMNS = (
    Column("ID", lambda r: r["recording"]),
    Column("USER", lambda r: r["user"]),
    Column("NODE", lambda r: r["node"]),
    Column("AT", lambda r: clock(r["at"])),
    Column("IN", lambda r: r["kind"]),
    Column("LINE", lambda r: r["line"]),
)


@click.command()
@click.argument("text")
@click.option("--user", callback=not_empty, help="Only recordings of this user.")
@click.option(
    "--in",
    "kinds",
    multiple=True,
    type=click.Choice(["output", "exec", "prompt", "file", "forward"]),
    help="Only there; may be repeated.",
)
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), default=50, help="How many lines; 0: all.")
@format_option("names")
@where_options(local=True, user=False)
def search(
    text: str,
    user: str | None,
    kinds: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    form: str,
    where: Where,
) -> None:
    """Find TEXT in recorded sessions: all of them, or your own, as your roles allow.

    It is found in commands, names of files and forwards, and in what the terminal showed, in any
    case of letters. The recordings indexed last come first; tele play ID --at TIME shows the place.
    """
    from tele.model.api.search import SEARCH_RECORDINGS, FoundIn, SearchRecordings

    wanted = tuple(FoundIn(each) for each in kinds)
    cut = False

    with open_authority(where) as authority:

        def ask(after: str, size: int) -> Any:
            nonlocal cut
            request = SearchRecordings(
                text, min(size, PAGE), after, user or "", wanted, since, until
            )
            result = authority.perform(SEARCH_RECORDINGS, request)
            cut = cut or (result.cut and not result.next)
            return result

        show_pages(form, pages(ask, limit), _COLUMNS, name=lambda r: r["recording"])
    if cut:
        print_notice("tele: the search took too long and is incomplete: use --since or --user")
