"""What is the date by auth's clock, and how far is the clock of this machine from it?

Auth states its date in each answer to an announcement. A moment in a message between members is
that date, whatever their own clocks show.

Invariants:

* A clock that is wrong, or that is set, is a line in the log and an event, never an error.
* The same difference is reported once: again when it is another one, or gone.
* When auth's clock is set, members learn it one after another: for a while each states the date as
  before, and accepts both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import event
from tele.log import make_logger
from tele.loop import StepWatch, now, wall_seconds
from tele.membership.identity import MemberIdentity
from tele.model.event import Event

#: Seconds in which the date is stated to other members as it was before auth's clock was set: twice
#: as long as it takes until all members know the new one.
SETTLE_SECONDS: Final = 60.0
#: Steps of auth's clock that are kept for so long.
OFFSETS_LIMIT: Final = 8
#: Clocks that differ by fewer seconds are taken for the same.
SKEW_SECONDS: Final = 5.0

_log: Final = make_logger(__name__)


class ClusterClock:
    """Auth's clock, as this member knows it.

    ``emit(event)`` takes ``clock.step`` and ``clock.skew`` of ``identity()``; ``stepped()`` is
    called when the clock of this machine was set, so that what waits for a date checks it again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        identity: Callable[[], MemberIdentity | None],
        emit: Callable[[Event], None],
        stepped: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._emit = emit
        self._stepped = stepped
        self._watch = StepWatch(clock, self._was_set)
        #: Auth's date less ``clock.seconds()``, and when auth first stated it: the last one counts,
        #: and those before it for a while.
        self._offsets: list[tuple[float, float]] = []
        self._reported = 0.0

    def start(self) -> None:
        """Watch the clock from now on."""
        self._watch.start()

    def stop(self) -> None:
        """Watch it no more. May be called twice."""
        self._watch.stop()

    def observe(self, time: datetime | None, asked: float) -> None:
        """Auth stated ``time`` when it was asked at ``clock.seconds()`` = ``asked``."""
        if time is None:  # an auth of an older version
            return
        moment = self._clock.seconds()
        offset = time.timestamp() - (asked + moment) / 2
        unsure = max(SKEW_SECONDS, moment - asked)
        if not self._offsets or abs(offset - self._offsets[-1][0]) >= unsure:
            self._offsets.append((offset, moment))
            del self._offsets[:-OFFSETS_LIMIT]
        else:
            self._offsets[-1] = (offset, self._offsets[-1][1])
        skew = self.skew
        if abs(skew - self._reported) < unsure:
            return
        self._reported = skew if abs(skew) >= unsure else 0.0
        if not self._reported:
            _log.info("clock agrees with auth's again")
        else:
            _log.warn("clock differs from auth's", seconds=round(skew, 1))
        self._emit_event("clock.skew", skew, ok=not self._reported)

    @property
    def reported(self) -> int:
        """The last skew that was reported, in whole seconds; 0 if the clocks agree."""
        return round(self._reported)

    @property
    def skew(self) -> float:
        """By how many seconds our clock is ahead of auth's; less than 0 if it is behind."""
        return wall_seconds(self._clock) - self.seconds

    @property
    def seconds(self) -> float:
        """The date by auth's clock, in Unix time; by ours until auth has stated it."""
        if not self._offsets:
            return wall_seconds(self._clock)
        return self._clock.seconds() + self._offsets[-1][0]

    @property
    def stated_seconds(self) -> float:
        """The date to state to other members, in Unix time."""
        moment = self._clock.seconds()
        for offset, since in reversed(self._offsets):
            if moment >= since + SETTLE_SECONDS:
                return moment + offset
        return moment + self._offsets[0][0] if self._offsets else self.seconds

    @property
    def dates(self) -> tuple[float, ...]:
        """The dates that another member may state now, by auth's clock, in Unix time."""
        moment = self._clock.seconds()
        while len(self._offsets) > 1 and moment >= self._offsets[1][1] + 2 * SETTLE_SECONDS:
            del self._offsets[0]
        return tuple(moment + offset for offset, _ in self._offsets) or (self.seconds,)

    @property
    def date(self) -> datetime:
        """The same as a date, in UTC."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def _was_set(self, seconds: float) -> None:
        self._emit_event("clock.step", seconds)
        self._stepped()

    def _emit_event(self, name: str, seconds: float, *, ok: bool = True) -> None:
        identity = self._identity()
        if identity is None:
            return  # not a member yet: it is only logged
        host, rounded = identity.host, round(seconds, 3)
        fields = {"server_id": host.host_id, "server_name": host.name, "ok": ok}
        moment = now(self._clock)
        self._emit(event(name, str(uuid4()), moment, host.cluster, seconds=rounded, **fields))
