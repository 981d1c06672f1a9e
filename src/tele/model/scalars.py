"""How are numbers, times, durations and bytes written in JSON?

Each has one rule, a pattern or a range, by which it is both read and described (:data:`SCHEMAS`, in
JSON Schema). Times are RFC 3339 in UTC, durations ``1h30m``, bytes base64, integers have 64 bits.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tele.errors import quoted

#: Characters of a number, a time or a duration: all useful ones are shorter.
SCALAR_LIMIT: Final = 64
#: The range that stores and other readers accept.
LEAST_INTEGER: Final = -(2**63)
GREATEST_INTEGER: Final = 2**63 - 1

# Few enough digits for a timedelta.
_DURATION: Final = re.compile(
    r"(?=.)(?:([0-9]{1,8})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)s)?"
)
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def whole(pattern: str) -> str:
    """Return the regular expression of JSON Schema that matches ``pattern`` as a whole."""
    return f"^(?:{pattern})$"


SCHEMAS: Final[Mapping[type, Mapping[str, Any]]] = {
    str: {"type": "string"},
    int: {
        "type": "integer",
        "format": "int64",
        "minimum": LEAST_INTEGER,
        "maximum": GREATEST_INTEGER,
    },
    float: {"type": "number", "format": "double"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "contentEncoding": "base64", "pattern": whole(_BASE64.pattern)},
    datetime: {"type": "string", "format": "date-time", "pattern": whole(_TIME.pattern)},
    timedelta: {
        "type": "string",
        "description": "a length of time such as 12h or 1h30m",
        "pattern": whole(_DURATION.pattern),
    },
}


def check_integer(value: int, least: int = LEAST_INTEGER, greatest: int = GREATEST_INTEGER) -> None:
    """Raise ValueError if ``value`` is not between the two."""
    if not least <= value <= greatest:
        raise ValueError(f"{quoted(value)} is out of range: from {least} to {greatest}")


def format_duration(value: timedelta) -> str:
    """Return ``1d2h3m4s`` without the parts that are 0; an empty duration is ``0s``."""
    rest, fraction = value.days * 86400 + value.seconds, value.microseconds
    parts = []
    for unit in "dhm":
        count, rest = divmod(rest, _SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if fraction:
        parts.append(f"{rest}.{fraction:06}".rstrip("0") + "s")
    elif rest or not parts:
        parts.append(f"{rest}s")
    return "".join(parts)


def parse_duration(text: str) -> timedelta:
    """Read ``12h``, ``1d12h`` or ``90s``. Raises ValueError on anything else."""
    match = _DURATION.fullmatch(text) if len(text) <= SCALAR_LIMIT else None
    if match is None:
        raise ValueError(f"{text[:64]!r} is not a length of time such as 12h, 90s or 1h30m")
    days, hours, minutes, seconds = (number or "0" for number in match.groups())
    point = seconds.partition(".")
    return timedelta(
        days=int(days),
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(point[0]),
        microseconds=int(point[2].ljust(6, "0")),
    )


def format_time(value: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds, as ``2026-11-24T12:00:00.000Z``."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read RFC 3339; a time without an offset is refused. Raises ValueError."""
    if len(text) > SCALAR_LIMIT or _TIME.fullmatch(text) is None:
        missing = " with an offset from UTC" if text[-1:].isdigit() else ""
        raise ValueError(f"{text[:64]!r} is not a time{missing} such as 2026-11-24T12:00:00Z")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is out of range: years are from 1 to 9999") from None


def parse_base64(text: str) -> bytes:
    """Read base64 without line ends. Raises ValueError."""
    if _BASE64.fullmatch(text) is None:
        raise ValueError("not base64")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def format_base64(value: bytes) -> str:
    """Return base64 without line ends."""
    return base64.b64encode(value).decode("ascii")
