"""How does a command line say more than words, and how do many pages become one list?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tele.errors import InvalidInput, quoted
from tele.private_files import read_secret

F = TypeVar("F", bound=Callable[..., Any])

#: Items of the first page of a list, and of those that follow.
FIRST_PAGE: Final = 100
NEXT_PAGES: Final = 500


def split_words(values: Iterable[str]) -> tuple[str, ...]:
    """Return the words of ``--role a,b --role c``: each once, in order.

    Raises :class:`InvalidInput` for an option without a word: somebody's ``"$VARIABLE"`` that is
    empty would otherwise mean what leaving the option out means, and that may be everything.
    """
    words: dict[str, None] = {}
    for value in values:
        found = [word for each in value.split(",") if (word := each.strip())]
        if not found:
            raise InvalidInput(f"{quoted(value)} names nothing: give a name, or leave it out")
        words.update(dict.fromkeys(found))
    return tuple(words)


def not_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse an option that is given and empty, as :func:`split_words`; for click's ``callback``.

    The option has no default, so that None is what is not given.
    """
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty: give a value, or leave it out")
    return value


def split_pairs(values: Iterable[str]) -> dict[str, str]:
    """Return the pairs of ``--label a=b,c=d``, each key once; raises :class:`InvalidInput`."""
    pairs: dict[str, str] = {}
    for word in split_words(values):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{quoted(word)} is not a label such as env=prod")
        if pairs.setdefault(key, value) != value:
            raise InvalidInput(f"label {quoted(key)} is given twice, with different values")
    return pairs


def ttl_option(default: str) -> Callable[[F], F]:
    """Give a command ``--ttl``; the argument is a length of time, None if it is not given.

    The command fills ``default`` in: reading it takes longer than some commands may.
    """

    def read(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
        if value is None:
            return None
        from tele.model.codec import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    said = f"How long it is valid, such as 90s or 1h30m.  [default: {default}]"
    return click.option("--ttl", metavar="TIME", callback=read, help=said)


def notice_shorter(certificate: str, asked: timedelta | None) -> None:
    """Say it when a certificate (an SSH line) is valid for less than ``--ttl`` asked for."""
    from tele.certs.certificate import parse_certificate
    from tele.certs.issue import BACKDATE
    from tele.certs.keys import parse_line
    from tele.cli.output import say
    from tele.model.codec import format_duration

    if asked is None:
        return
    got = parse_certificate(parse_line(certificate))
    given = timedelta(seconds=got.valid_before - got.valid_after) - BACKDATE
    if given < asked - timedelta(seconds=2):  # certificates count in seconds
        say(
            f"note: --ttl {format_duration(asked)}: it is valid for {format_duration(given)} only;"
            " the user's roles (max_session_ttl) or account end earlier"
        )


def read_moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Read a time, or how long ago it was; for click's ``callback``."""
    from tele.model.codec import parse_duration, parse_time

    if value is None:
        return None
    for read in (parse_time, lambda text: datetime.now(UTC) - parse_duration(text)):
        try:
            return read(value)
        except (ValueError, OverflowError):
            continue
    raise click.BadParameter(
        f"{value!r} is neither a time (2026-11-24T12:00:00Z) nor a length (1h)"
    )


def end_option(what: str) -> Callable[[F], F]:
    """Give a command ``--expires TIME``, the moment when ``what`` ends; None if it is not given."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
        if value is None:
            return None
        from tele.model.codec import parse_time

        try:
            return parse_time(value)
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is no time such as 2026-11-24T12:00:00Z; --ttl takes a length"
            ) from None

    return click.option("--expires", metavar="TIME", callback=read, help=f"When {what} ends.")


def end_of(ttl: timedelta | None, expires: datetime | None) -> datetime | None:
    """Return the moment that ``--ttl`` or ``--expires`` means, None for no end."""
    if ttl is None:
        return expires
    if expires is not None:
        raise InvalidInput("--ttl and --expires say the same thing; give one of them")
    if ttl <= timedelta(0):
        raise InvalidInput("--ttl: the length of time has to be longer than nothing")
    return datetime.now(UTC) + ttl


def read_password(file: Path) -> str:
    """Return the first line of ``file``, ``-`` being standard input; never an empty one.

    It may be a pipe, as ``<(program)`` of a shell is. The person is told when others can read the
    file. Raises :class:`InvalidInput`, or OSError.
    """
    try:
        if str(file) == "-":
            text = sys.stdin.readline()
        else:
            text = read_secret(
                file, "--password-file", pipes=True, owners=_caller(), warn=_warn
            ).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{file} is not text") from None
    password = text.partition("\n")[0].removesuffix("\r")
    if not password:
        raise InvalidInput(f"the first line of {file}, the password, is empty")
    return password


def _warn(text: str) -> None:
    from tele.cli.output import say

    say(f"warning: {text}")


def _caller() -> tuple[int, ...]:
    """Return who called sudo, if this is root because of it: the file may be theirs."""
    uid = os.environ.get("SUDO_UID", "")
    return (int(uid),) if os.geteuid() == 0 and uid.isascii() and uid.isdigit() else ()


def pages(page: Callable[[str, int], Any], limit: int = 0) -> Iterator[Sequence[Any]]:
    """Yield the items of one page after the other, ``limit`` of them at most (0: all).

    ``page`` asks for so many after a mark. The first one is short: somebody waits for it.
    """
    after, size, given = "", FIRST_PAGE, 0
    while True:
        got = page(after, min(size, limit - given) if limit else size)
        yield got.items
        given += len(got.items)
        if not got.next or (limit and given >= limit):
            return
        after, size = got.next, NEXT_PAGES
