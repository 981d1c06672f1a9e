"""How do parts of tele log, know the time and wake up?

Laws of this file:

* The only importer of txaio. All logging goes through :func:`make_logger`.
* A format is a constant of the source; whatever a peer said is an argument,
  written ``{x!r}``. One event is one line, whatever its arguments hold: it goes through
  :func:`tele.text.printable`, and so does each line of a traceback.
* Time is an argument: a clock is anything with ``seconds()`` and ``callLater``
  (:class:`twisted.internet.interfaces.IReactorTime`).
* ``seconds()`` is for intervals only: it never goes back and never jumps
  (:func:`make_monotonic`). A date comes from :func:`now`, and may jump either way at any
  moment: whatever waits for a date looks again every few seconds (:class:`DateTimer`).

txaio's own batched timer takes its loop from a setting of the whole process, so
that it knows no fake clock, fires up to a bucket early and forgets a cancelled
call in time proportional to the bucket; :class:`Ticker` is our own.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Protocol, TextIO

from twisted.internet.interfaces import IDelayedCall, IReactorTime
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
from tele.text import duration, printable, printable_json, printable_lines

#: No line of the log is longer, in characters; tracebacks are not cut.
LINE_LIMIT: Final = 8192


_txaio: Any = tx  # its functions have no annotations


# -- logging --------------------------------------------------------------------------
class Log:
    """Writes events of one part; made by :func:`make_logger`.

    Methods take a constant format and its arguments by name. Below the chosen
    level they cost one call.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger: Any = _txaio.make_logger(
            logger=lambda observer, **_: Logger(namespace=name, observer=observer)
        )

    def debug(self, text: str, /, **fields: object) -> None:
        """Say what only a developer wants to know."""
        self._logger.debug(text, **fields)

    def info(self, text: str, /, **fields: object) -> None:
        """Say what an operator may want to read later."""
        self._logger.info(text, **fields)

    def warn(self, text: str, /, **fields: object) -> None:
        """Say what an operator should look at some day."""
        self._logger.warn(text, **fields)

    def error(self, text: str, /, **fields: object) -> None:
        """Say what an operator must look at."""
        self._logger.error(text, **fields)

    def failure(self, text: str, /, failure: Any = None, **fields: object) -> None:
        """Report a mistake of ours with its traceback.

        ``failure`` is a Twisted Failure; None is the exception being handled.
        """
        self._logger.failure(text, failure=failure, **fields)


class Lines(Protocol):
    """Takes lines for the log."""

    def info(self, text: str, /, **fields: object) -> None:
        """Say what an operator may want to read later."""


def make_logger(name: str) -> Log:
    """Return the log of the part ``name``, usually ``__name__``."""
    return Log(name)


class LogFormat(str, Enum):
    """``text`` is for people, ``json`` one object a line for programs."""

    TEXT = "text"
    JSON = "json"


_LEVELS: Final[Mapping[str, LogLevel]] = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}
_CHATTER: Final = ("twisted.internet.", "twisted.application.", "twisted.conch.", "log_legacy")
_BYTES: Final = (bytes, bytearray, memoryview)
_INTERNAL: Final = ("log_", "txaio_")


@implementer(ILogObserver)
class LineObserver:
    """Writes events of at least ``level`` to a text stream, one line each.

    Twisted's own events pass through it too, so it filters by itself; what is news to
    Twisted (a factory that starts, a retry) is for developers of ours. A stream that cannot
    be written is not worth dying for: the event is dropped.
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
    """Return the event that so many lines were lost, as long ago as ``event``."""
    return {
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_time": event.get("log_time", 0.0),
        "log_format": "{count} lines are missing here: the log was not read",
        "count": count,
    }


def _message(event: LogEvent) -> str:
    # Twisted's legacy events may come without any format.
    text = formatEvent(_readable(event)) or "; ".join(map(str, event.get("message", ())))
    text = printable(text[:LINE_LIMIT])
    return text if len(text) <= LINE_LIMIT else text[: LINE_LIMIT - 3] + "..."


def _readable(event: LogEvent) -> LogEvent:
    """Return ``event`` with bytes as the text that they are, so that none shows as ``b'...'``."""
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
    return head + _message(event) + tail


def _json_line(event: LogEvent) -> str:
    line: dict[str, object] = {
        "time": _stamp(event),
        "level": _level_name(event),
        "from": event.get("log_namespace", "-"),
        "message": _message(event),
    }
    for key, value in _readable(event).items():
        if not key.startswith(_INTERNAL) and key not in line:
            plain = value is None or isinstance(value, str | int | float | bool)
            line[key] = value if plain else repr(value)[:LINE_LIMIT]
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


# -- time -----------------------------------------------------------------------------
#: Seconds between two looks at the wall clock.
LOOK_SECONDS: Final = 5.0
#: The wall clock was set if it moved by so many seconds more or less than time passed between two
#: looks. A daemon that slews it moves it by far less.
STEP_SECONDS: Final = 2.0


#: Counts while the machine is suspended, where the system has such a clock; sshd uses the same
#: one: a deadline that passed while the machine was suspended has passed.
_MONOTONIC: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def make_monotonic(reactor: Any) -> None:
    """Let all timers of ``reactor`` go by a monotonic clock, and :func:`now` by the wall clock.

    By itself Twisted's reactor goes by the wall clock: when that is set back, each timer waits
    for so much longer. ``reactor.seconds()`` begins with the present date, so that timers that
    exist already stay right, and then counts seconds. May be called again, and for any clock:
    one that does not go by the wall clock, as a fake one, is left as it is.
    """
    if reactor.seconds is not time.time:
        return
    begin: float = time.time() - time.clock_gettime(_MONOTONIC)

    def seconds() -> float:
        return begin + time.clock_gettime(_MONOTONIC)

    reactor.seconds = seconds
    reactor.wall_seconds = time.time


def wall_seconds(clock: IReactorTime) -> float:
    """Return the date by ``clock``, in Unix time.

    A clock may have ``wall_seconds()`` for it; ``seconds()`` of one that has not is the date.
    """
    wall: Callable[[], float] | None = getattr(clock, "wall_seconds", None)
    seconds: float = clock.seconds() if wall is None else wall()
    return seconds


def now(clock: IReactorTime) -> datetime:
    """Return the date by ``clock``, in UTC."""
    return datetime.fromtimestamp(wall_seconds(clock), UTC)


def steady_date(clock: IReactorTime) -> datetime:
    """Return the date as it would be if nobody had set the clock since this process started."""
    return datetime.fromtimestamp(clock.seconds(), UTC)


def validity_date(clock: IReactorTime, begins: float) -> datetime:
    """Return the date by which to check something that is valid from ``begins`` (Unix time).

    It is now. But a clock that was set back since this process started makes nothing invalid that
    was issued before: what is valid already by the time that has passed since is so from
    its first moment on. No end is later by it.
    """
    if wall_seconds(clock) < begins <= clock.seconds():
        return datetime.fromtimestamp(begins, UTC)
    return now(clock)


class Expiry:
    """The end of something that is good until a date, and for no longer than was left of it."""

    __slots__ = ("_clock", "_deadline", "_when")

    def __init__(self, clock: IReactorTime, when: datetime) -> None:
        self._clock = clock
        self._when = when
        self._deadline = clock.seconds() + (when - now(clock)).total_seconds()

    @property
    def has_passed(self) -> bool:
        """Whether the date was reached, or would have been if the clock had not been set back."""
        return self.left <= 0

    @property
    def left(self) -> float:
        """How many seconds are left of it; not more than 0 if it has passed."""
        by_date = (self._when - now(self._clock)).total_seconds()
        return min(by_date, self._deadline - self._clock.seconds())


class DateTimer:
    """Calls ``callback`` once, as soon as it is ``when``, however the clock is set meanwhile."""

    __slots__ = ("_callback", "_clock", "_timer", "_when")

    def __init__(self, clock: IReactorTime, when: datetime, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._timer: IDelayedCall | None = None
        self._wait()

    def _wait(self) -> None:
        left = (self._when - now(self._clock)).total_seconds()
        self._timer = self._clock.callLater(min(max(left, 0.0), LOOK_SECONDS), self._look)

    def _look(self) -> None:
        self._timer = None
        if now(self._clock) < self._when:
            self._wait()
        else:
            self._callback()

    def cancel(self) -> None:
        """Do not call. May be called twice, and after the call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class StepWatch:
    """Notices that the wall clock was set: calls ``stepped`` with seconds, less than 0 if back."""

    def __init__(self, clock: IReactorTime, stepped: Callable[[float], object]) -> None:
        self._clock = clock
        self._stepped = stepped
        self._offset = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Look from now on, until :meth:`stop`."""
        self._offset = self._difference()
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more. May be called twice, and before :meth:`start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _difference(self) -> float:
        return wall_seconds(self._clock) - self._clock.seconds()

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
        before, self._offset = self._offset, self._difference()
        moved = self._offset - before
        if abs(moved) < STEP_SECONDS:
            return
        _log.warn(
            "the clock of this machine was set {way} by {by}",
            way="forward" if moved > 0 else "back",
            by=duration(abs(moved)),
        )
        self._stepped(moved)


def backoff(
    attempt: int,
    first: float = 0.5,
    longest: float = 15.0,
    dice: Callable[[], float] = random.random,
) -> float:
    """Return how many seconds to wait before trying again.

    ``attempt`` counts failures so far from 0. The wait doubles from ``first`` up to
    ``longest``; the upper half of it is left to ``dice`` (0 to 1), so that a fleet
    that lost its server together does not come back together.
    """
    # 2.0**1024 overflows; long before that the longest wait is reached.
    whole = min(longest, first * 2.0 ** min(attempt + 1, 64))
    return max(first, whole * (0.5 + dice() / 2))


class Tick:
    """One callback of a :class:`Ticker`."""

    __slots__ = ("_slot",)

    def __init__(self, slot: dict[Tick, Callable[[], object]]) -> None:
        self._slot = slot

    def cancel(self) -> None:
        """Call no more. May be called twice, and from within the callback."""
        self._slot.pop(self, None)


class Ticker:
    """Calls many callbacks, each once in ``period`` seconds, with a single timer.

    The period is cut into ``slots``; all callbacks of a slot are called together and
    slots fill evenly over time, so that ten thousand keepalives are a few hundred
    calls now and then. The first call of a callback comes after one period, less one
    slot at most. One that fails is logged and called again. No timer runs while
    there is nothing to call.
    """

    def __init__(self, clock: IReactorTime, period: float, slots: int = 16) -> None:
        self._clock = clock
        self._step = period / slots
        self._slots: list[dict[Tick, Callable[[], object]]] = [{} for _ in range(slots)]
        self._next = 0
        self._timer: IDelayedCall | None = None

    def add(self, callback: Callable[[], object]) -> Tick:
        """Call ``callback`` every period until the returned tick is cancelled."""
        slot = self._slots[self._next - 1]
        tick = Tick(slot)
        slot[tick] = callback
        if self._timer is None:
            self._timer = self._clock.callLater(self._step, self._wake)
        return tick

    def stop(self) -> None:
        """Forget all callbacks."""
        for slot in self._slots:
            slot.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        for tick, callback in list(slot.items()):
            if tick in slot:  # not cancelled by one of those before it
                try:
                    callback()
                except Exception:
                    _log.failure("a periodic call failed")
        if self._timer is None and any(self._slots):
            self._timer = self._clock.callLater(self._step, self._wake)


_log: Final = make_logger(__name__)
