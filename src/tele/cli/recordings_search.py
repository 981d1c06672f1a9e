"""``tele recordings search``: find a text in commands, files and output of recorded sessions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import click
from attrs import evolve

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lists import not_empty, pages, read_moment
from tele.cli.output import Column, format_option, print_notice, show_pages
from tele.errors import InvalidInput

#: Hits of a page.
PAGE = 50


def clock(seconds: float) -> str:
    """Return a time within a session, as ``tele play --at`` takes it."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


_ADDRESS = re.compile(r"\[([0-9a-f:.]+)\]:\d+|([0-9.]+):\d+", re.ASCII)


def addresses(wanted: str) -> tuple[str, Callable[[str], bool]]:
    """Return what to search for connections with an address or one in a network, and whether a
    line has one. Raises :class:`InvalidInput`.
    """
    if "/" not in wanted:
        return wanted, lambda _: True
    try:
        network = ip_network(wanted)
    except ValueError as error:
        raise InvalidInput(f"--connect: {error}") from None
    separator, bits = (".", 8) if network.version == 4 else (":", 16)
    whole = network.prefixlen // bits
    if not whole:
        raise InvalidInput(f"--connect: {wanted} is too wide a network: /{bits} is the widest")
    text = str(network.network_address)
    groups = text.partition("::")[0].split(separator)[:whole]
    begin = separator.join(groups)

    def fits(line: str) -> bool:
        found = _ADDRESS.search(line)
        if found is None:
            return False
        try:
            return ip_address(found[1] or found[2]) in network
        except ValueError:
            return False

    if not begin:  # an IPv6 address that begins with zeros
        return "[::", fits
    return (f"{begin}{separator}" if len(groups) < len(text.split(separator)) else begin), fits


_COLUMNS = (
    Column("ID", lambda r: r["recording"]),
    Column("USER", lambda r: r["user"]),
    Column("NODE", lambda r: r["node"]),
    Column("AT", lambda r: clock(r["at"])),
    Column("IN", lambda r: r["kind"]),
    Column("LINE", lambda r: r["line"]),
)


@click.command()
@click.argument("text", required=False)
@click.option("--command", callback=not_empty, metavar="TEXT", help="Find TEXT in commands.")
@click.option("--path", callback=not_empty, metavar="TEXT", help="Find TEXT in names of files.")
@click.option(
    "--connect",
    callback=not_empty,
    metavar="ADDRESS",
    help="Find traced connections with an address, or one in a network: 203.0.113.0/24.",
)
@click.option("--user", callback=not_empty, help="Only recordings of this user.")
@click.option(
    "--in",
    "kinds",
    multiple=True,
    type=click.Choice(
        [
            "output",
            "exec",
            "prompt",
            "file",
            "forward",
            "command",
            "path",
            "connection",
        ]
    ),
    help="Only there; may be repeated.",
)
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), default=50, help="How many lines; 0: all.")
@format_option("names")
@where_options(local=True, user=False)
def search(
    text: str | None,
    command: str | None,
    path: str | None,
    connect: str | None,
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

    Instead of TEXT, --command finds it in commands only, --path in files only; what was traced of
    programs is found, too, and with --connect their connections.
    """
    from tele.model.api.search import SEARCH_RECORDINGS, FoundIn, SearchRecordings

    given = [each for each in (text, command, path, connect) if each is not None]
    if len(given) != 1 or (kinds and text is None):
        raise click.UsageError(
            "give TEXT, with --in or without, or one of --command, --path and --connect"
        )
    wanted = tuple(FoundIn(each) for each in kinds)
    fits: Callable[[str], bool] = lambda _: True  # noqa: E731
    sought = given[0]
    if command is not None:
        wanted = (FoundIn.COMMAND, FoundIn.EXEC, FoundIn.PROMPT)
    elif path is not None:
        wanted = (FoundIn.PATH, FoundIn.FILE)
    elif connect is not None:
        wanted = (FoundIn.CONNECTION,)
        sought, fits = addresses(connect)
    cut, waiting, failed, sealed = False, 0, 0, False

    with open_authority(where) as authority:

        def ask(after: str, size: int) -> Any:
            nonlocal cut, waiting, failed, sealed
            request = SearchRecordings(
                sought, min(size, PAGE), after, user or "", wanted, since, until
            )
            result = authority.perform(SEARCH_RECORDINGS, request)
            cut = cut or (result.cut and not result.next)
            waiting, failed = max(waiting, result.waiting), max(failed, result.failed)
            sealed = sealed or result.sealed
            return evolve(result, items=tuple(hit for hit in result.items if fits(hit.line)))

        show_pages(form, pages(ask, limit), _COLUMNS, name=lambda r: r["recording"])
    if cut:
        print_notice("tele: the search took too long and is incomplete: use --since or --user")
    if sealed:
        print_notice("tele: sealed recordings are not searched: auth keeps no text of them")
    if waiting:
        print_notice(
            f"tele: {_counted(waiting)} not searched yet: auth makes their index; try again later"
        )
    if failed:
        print_notice(
            f"tele: {_counted(failed)} not searched: there is no index; the log of auth says why,"
            " and tele play reads them"
        )


def _counted(number: int) -> str:
    if number == 1:
        return "1 recording is"
    return f"{number:,}{' or more' if number >= 1000 else ''} recordings are"
