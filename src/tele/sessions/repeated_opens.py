"""Which opens of files are the same as one before, and how often did each happen?

Invariants:

* The first one is listed at once. Others like it, by the same account and program, with the same
  path, flags and result, are one record with their number, after ten seconds at the latest.
* What is remembered is bounded: the oldest is listed, and forgotten, for a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define, evolve
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.model.trace import Traced, TraceEvent

#: Seconds for which opens are counted together.
PERIOD: Final = 10.0
#: Different opens that are remembered.
LIMIT: Final = 1024


@define
class _Repeats:
    """What was opened again: how often, and the last record of it."""

    channel: int
    times: int = 0
    last: Traced | None = None


class RepeatedOpens:
    """Counts the opens of one connection. ``record`` takes what is to be listed."""

    def __init__(self, clock: IReactorTime, record: Callable[[int, Traced], None]) -> None:
        self._clock = clock
        self._record = record
        self._known: dict[Any, _Repeats] = {}
        self._timer: IDelayedCall | None = None

    def take(self, channel: int, record: Traced) -> None:
        """Take a record: list it now, or count it."""
        if record.event is not TraceEvent.DISK or record.action not in ("open", "create"):
            self._record(channel, record)
            return
        # Descriptors are numbered: that it succeeded is all that a result says.
        place = (
            channel, record.action, record.uid, record.program, min(record.result, 0),
            record.details.get("path"), record.details.get("flags"), record.details.get("mode"),
        )  # fmt: skip
        repeats = self._known.pop(place, None)
        if repeats is None:
            repeats = _Repeats(channel)
            self._record(channel, record)
            if len(self._known) >= LIMIT:
                self._list(self._known.pop(next(iter(self._known))))
        else:
            repeats.times += 1
            repeats.last = record
            if self._timer is None:
                self._timer = self._clock.callLater(PERIOD, self._elapsed)
        self._known[place] = repeats

    def settle(self) -> None:
        """List what was counted until now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for repeats in self._known.values():
            self._list(repeats)

    def _elapsed(self) -> None:
        self._timer = None
        known, self._known = self._known, {}
        for repeats in known.values():
            self._list(repeats)

    def _list(self, repeats: _Repeats) -> None:
        times, last = repeats.times, repeats.last
        repeats.times, repeats.last = 0, None
        if last is None:
            return
        details = {**last.details, "times": times} if times > 1 else last.details
        self._record(repeats.channel, evolve(last, details=details))
