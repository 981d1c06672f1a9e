"""Options and arguments that several commands share: lists, times, passwords; pages of the API."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tele.errors import InvalidInput, quoted
from tele.model.scalars import format_duration, parse_duration
from tele.private_files import read_secret

F = TypeVar("F", bound=Callable[..., Any])

_CLOCK: Final = re.compile(r"(?:(\d{1,4}):)?(\d{1,5}):(\d{1,2}(?:\.\d{1,3})?)", re.ASCII)
#: Items of the first page of a list, and of those that follow.
FIRST_PAGE: Final = 100
NEXT_PAGES: Final = 500


def split_words(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values of ``--role a,b --role c``: each once, in order.

    Raises :class:`InvalidInput` for an option without a value: an empty ``"$VARIABLE"`` would
    otherwise mean the same as leaving the option out, and that may be everything.
    """
    words: dict[str, None] = {}
    for value in values:
        found = [word for each in value.split(",") if (word := each.strip())]
        if not found:
            raise InvalidInput(f"{quoted(value)} is empty: give a name, or leave the option out")
        words.update(dict.fromkeys(found))
    return tuple(words)


def not_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty value of an option, as :func:`split_words`; for click's ``callback``.

    The option has no default: None means that it was not given.
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


def ttl_option(default: timedelta | str) -> Callable[[F], F]:
    """Give a command ``--ttl``; the argument is a length of time, None if it is not given.

    The command applies ``default``; as a text it says what happens without the option.
    """

    def read(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
        if value is None:
            return None
        try:
            return parse_duration(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    stated = default if isinstance(default, str) else format_duration(default)
    message = f"How long it is valid, such as 90s or 1h30m.  [default: {stated}]"
    return click.option("--ttl", metavar="TIME", callback=read, help=message)


def warn_shorter(certificate: str, asked: timedelta | None) -> None:
    """Print a note if a certificate (an SSH line) is valid for less than ``--ttl``."""
    from tele.certs.certificate import parse_certificate
    from tele.certs.issue import BACKDATE
    from tele.certs.keys import parse_line
    from tele.cli.output import print_notice
    from tele.model.codec import format_duration

    if asked is None:
        return
    got = parse_certificate(parse_line(certificate))
    given = timedelta(seconds=got.valid_before - got.valid_after) - BACKDATE
    if given < asked - timedelta(seconds=2):  # certificates count in seconds
        print_notice(
            f"note: --ttl {format_duration(asked)}: valid for {format_duration(given)} only;"
            " the user's roles (max_session_ttl) or account end earlier"
        )


class FiniteRange(click.FloatRange):
    """A number in a range; NaN and infinity are in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return ``value`` as a number. Fails with click's own error."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(
                f"{number} is not a number in the range {self._describe_range()}.", param, ctx
            )
        return number


def read_moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Parse a time, a day (UTC), or how long ago it was; for click's ``callback``."""
    from tele.model.codec import parse_duration, parse_time

    if value is None:
        return None
    for read in (
        parse_time,
        lambda text: parse_time(f"{text}T00:00:00Z"),
        lambda text: datetime.now(UTC) - parse_duration(text),
    ):
        try:
            return read(value)
        except (ValueError, OverflowError):
            continue
    raise click.BadParameter(
        f"{value!r} is neither a time (2026-11-24T12:00:00Z, 2026-11-24) nor a length (1h)"
    )


def read_at(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Parse a time within a recording, in seconds; for click's ``callback``."""
    from tele.model.codec import parse_duration

    if value is None:
        return None
    if found := _CLOCK.fullmatch(value):
        hours, minutes, seconds = found.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
    try:
        return parse_duration(value).total_seconds()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a time in the recording (12:41, 1:02:03) nor a length (90s)"
        ) from None


def end_option(what: str) -> Callable[[F], F]:
    """Give a command ``--expires TIME``, when ``what`` ends; None if it is not given."""
    return time_option("--expires", f"When {what} ends.", "; --ttl takes a length")


def time_option(name: str, text: str, hint: str = "") -> Callable[[F], F]:
    """Give a command an option with a time; None if it is not given."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
        if value is None:
            return None
        from tele.model.codec import parse_time

        try:
            return parse_time(value)
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is not a time such as 2026-11-24T12:00:00Z{hint}"
            ) from None

    return click.option(name, metavar="TIME", callback=read, help=text)


def end_of(ttl: timedelta | None, expires: datetime | None) -> datetime | None:
    """Return the moment that ``--ttl`` or ``--expires`` means, None for no end."""
    if ttl is None:
        return expires
    if expires is not None:
        raise InvalidInput("--ttl and --expires exclude each other; give one of them")
    if ttl <= timedelta(0):
        raise InvalidInput("--ttl has to be longer than 0 s")
    return datetime.now(UTC) + ttl


def read_password(file: Path, option: str = "--password-file", what: str = "the password") -> str:
    """Return the first line of ``file``, ``-`` being standard input; never an empty one.

    It may be a pipe, as ``<(program)`` of a shell is. Prints a warning if others can read the file.
    Raises :class:`InvalidInput`, or OSError.
    """
    try:
        if str(file) == "-":
            text = sys.stdin.readline()
        else:
            text = read_secret(file, option, pipes=True, owners=_caller(), warn=_warn).decode(
                "utf-8"
            )
    except UnicodeDecodeError:
        raise InvalidInput(f"{file} is not text") from None
    password = text.partition("\n")[0].removesuffix("\r")
    if not password:
        raise InvalidInput(f"the first line of {file}, {what}, is empty")
    return password


def _warn(text: str) -> None:
    from tele.cli.output import print_notice

    print_notice(f"warning: {text}")


def _caller() -> tuple[int, ...]:
    """Return the uid of the caller of sudo, who may own the file, if this is root by sudo."""
    uid = os.environ.get("SUDO_UID", "")
    return (int(uid),) if os.geteuid() == 0 and uid.isascii() and uid.isdigit() else ()


def pages(page: Callable[[str, int], Any], limit: int = 0) -> Iterator[Sequence[Any]]:
    """Yield the items of one page after the other, ``limit`` of them at most (0: all).

    ``page`` gets a cursor and a size. The first page is short, so that output starts soon.
    """
    after, size, given = "", FIRST_PAGE, 0
    while True:
        got = page(after, min(size, limit - given) if limit else size)
        yield got.items
        given += len(got.items)
        if not got.next or (limit and given >= limit):
            return
        after, size = got.next, NEXT_PAGES
