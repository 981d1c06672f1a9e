"""How do parts of tele log?

Invariants:

* The only importer of txaio. All logging goes through :func:`make_logger`.
* An event is a message, which is a constant of the source, and fields. One event is one line,
  ``message key=value``, whatever its fields hold: it goes through :func:`tele.text.printable`,
  and so does each line of a traceback. A value that is more than one word is a JSON string.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from string import Formatter
from typing import Any, Final, Protocol, TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogBeginner,
)
from txaio import tx
from zope.interface import implementer

from tele.log_stream import LogStream
from tele.text import printable, printable_json, printable_lines

#: No line of the log is longer, in characters; tracebacks are not cut.
LINE_LIMIT: Final = 8192


_txaio: Any = tx  # its functions have no annotations


# -- logging --------------------------------------------------------------------------
class Log:
    """Writes events of one part; made by :func:`make_logger`.

    Methods take a message, which is a constant, and fields by name. A field that the message names,
    ``{name}``, is part of its text; all others follow it as ``key=value``. Below the chosen level
    they cost one call.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger: Any = _txaio.make_logger(
            logger=lambda observer, **_: Logger(namespace=name, observer=observer)
        )

    def debug(self, text: str, /, **fields: object) -> None:
        """Log an event for developers."""
        self._logger.debug(text, **fields)

    def info(self, text: str, /, **fields: object) -> None:
        """Log an event that an operator may want to read later."""
        self._logger.info(text, **fields)

    def warn(self, text: str, /, **fields: object) -> None:
        """Log an event that an operator should look into."""
        self._logger.warn(text, **fields)

    def error(self, text: str, /, **fields: object) -> None:
        """Log an event that an operator has to act on."""
        self._logger.error(text, **fields)

    def failure(self, text: str, /, failure: Any = None, **fields: object) -> None:
        """Log an error in tele itself, with its traceback.

        ``failure`` is a Twisted Failure; None is the exception being handled.
        """
        self._logger.failure(text, failure=failure, **fields)


class Lines(Protocol):
    """The methods of :class:`Log` that layers below it call."""

    def info(self, text: str, /, **fields: object) -> None:
        """Log an event that an operator may want to read later."""


def make_logger(name: str) -> Log:
    """Return the log of the part ``name``, usually ``__name__``."""
    return Log(name)


class LogFormat(str, Enum):
    """``text`` is for reading; ``json`` is one object a line, for programs."""

    TEXT = "text"
    JSON = "json"


_LEVELS: Final[Mapping[str, LogLevel]] = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}
#: Namespace of the events of Twisted's former logger, whose fields are part of their text.
_LEGACY: Final = "log_legacy"
_CHATTER: Final = ("twisted.internet.", "twisted.application.", "twisted.conch.", _LEGACY)
_BYTES: Final = (bytes, bytearray, memoryview)
_INTERNAL: Final = ("log_", "txaio_")
#: What each line of JSON has, whatever the event.
_PARTS: Final = frozenset({"time", "level", "from", "message", "traceback"})
_NAME: Final = re.compile(r"[.\[(]")
#: A value that stands without quotes.
_WORD: Final = re.compile(r"[^\s\"'=\\]+")


@implementer(ILogObserver)
class LineObserver:
    """Writes events of at least ``level`` to a text stream, one line each.

    Twisted's own events pass through it too, so it filters by itself; Twisted's info events (a
    factory that starts, a retry) are debug events here. If the stream cannot be written, the
    event is dropped.
    """

    def __init__(self, stream: TextIO, form: LogFormat, level: str) -> None:
        self._stream = LogStream(stream)
        self._line = _json_line if form is LogFormat.JSON else _text_line
        self._level = _LEVELS[level]

    def __call__(self, event: LogEvent) -> None:
        """Write ``event`` if it is important enough."""
        level = event.get("log_level", LogLevel.info)
        if level is LogLevel.info and event.get("log_namespace", "").startswith(_CHATTER):
            level = LogLevel.debug
        if level < self._level:
            return
        try:
            self._stream.write(self._line(event) + "\n")
            if lost := self._stream.take_lost():
                self._stream.write(self._line(_lost_lines(event, lost)) + "\n")
        except (OSError, ValueError):
            return


def _lost_lines(event: LogEvent, count: int) -> LogEvent:
    """Return an event that says that ``count`` lines were lost, with the time of ``event``."""
    return {
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_time": event.get("log_time", 0.0),
        "log_format": "log lines lost: the log is not read fast enough",
        "count": count,
    }


def _fields(event: LogEvent) -> str:
    """Return the fields that the message does not name, as `` key=value`` each."""
    text = event.get("log_format") or ""
    if event.get("log_namespace") == _LEGACY or not isinstance(text, str):
        return ""
    try:
        named = {_NAME.split(name or "", 1)[0] for _, name, _, _ in Formatter().parse(text)}
    except ValueError:  # a message of other code, with braces that are no fields
        named = set()
    return "".join(
        f" {key}={_value(value)}"
        for key, value in _readable(event).items()
        if not key.startswith(_INTERNAL) and key not in named
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(_plain(value))[:LINE_LIMIT]
    return text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _plain(value: object) -> str | int | float | bool | None:
    """Return ``value`` as JSON can hold it."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)[:LINE_LIMIT]


def event_text(event: LogEvent) -> str:
    """Return the message of ``event`` and its fields, as in a line of text."""
    return _message(event, _fields(event))


def _message(event: LogEvent, fields: str = "") -> str:
    # Twisted's legacy events may have no format.
    text = formatEvent(_readable(event)) or "; ".join(map(str, event.get("message", ())))
    text = printable((text + fields)[:LINE_LIMIT])
    return text if len(text) <= LINE_LIMIT else text[: LINE_LIMIT - 3] + "..."


def _readable(event: LogEvent) -> LogEvent:
    """Return ``event`` with bytes decoded, so that none shows as ``b'...'``."""
    texts = {key: _as_text(value) for key, value in event.items() if isinstance(value, _BYTES)}
    return {**event, **texts} if texts else event


def _as_text(value: bytes | bytearray | memoryview) -> str:
    return bytes(value[:LINE_LIMIT]).decode("utf-8", "backslashreplace")


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return "" if failure is None else printable_lines(failure.getTraceback()).rstrip("\n")


def _stamp(event: LogEvent) -> str:
    at = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level_name(event: LogEvent) -> str:
    level: str = event.get("log_level", LogLevel.info).name
    return level


def _text_line(event: LogEvent) -> str:
    head = f"{_stamp(event)} {_level_name(event):5} {event.get('log_namespace', '-')}: "
    # The lines of a traceback are indented, so that none of them looks like an event.
    tail = "".join(f"\n    {line}" for line in _traceback(event).split("\n") if line)
    return head + event_text(event) + tail


def _json_line(event: LogEvent) -> str:
    line: dict[str, object] = {
        "time": _stamp(event),
        "level": _level_name(event),
        "from": event.get("log_namespace", "-"),
        "message": _message(event),
    }
    for key, value in _readable(event).items():
        if key in _PARTS:
            # A field of an event may have the name of a part of every line.
            if event.get("log_namespace") != _LEGACY:
                line[f"{key}_"] = _plain(value)
        elif not key.startswith(_INTERNAL):
            line[key] = _plain(value)
    if traceback := _traceback(event):
        line["traceback"] = traceback
    return printable_json(line)


def log_observer(
    stream: TextIO | None = None, form: LogFormat = LogFormat.TEXT, level: str = "info"
) -> LineObserver:
    """Return an observer for ``twistd`` (``application.setComponent(ILogObserver, ...)``).

    Also makes ``level`` (debug, info, warn, error) the level of all our logs.
    """
    _txaio.set_global_log_level(level)
    return LineObserver(sys.stderr if stream is None else stream, form, level)


def set_up_logging(
    level: str = "info", stream: TextIO | None = None, form: LogFormat = LogFormat.TEXT
) -> None:
    """Send all events of this process to ``stream`` (standard error). Call it once."""
    globalLogBeginner.beginLoggingTo(
        [log_observer(stream, form, level)], redirectStandardIO=False, discardBuffer=False
    )
