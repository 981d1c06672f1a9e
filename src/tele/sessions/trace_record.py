"""Which frames and events does it leave what a traced program does?

Invariants:

* Each record is a frame on the recording, if there is one, on the channel of its program and in
  the order in which it happened. A recorder that is behind is waited for, within a bound.
* Events are limited in rate, each kind, and each way of a hand-over, of its own; the next one has
  the number of those that were left out. No user gets around the recording by filling the audit.
* A hand-over that a role forbids ends the session, once it is recorded.
* What is lost is a gap on the recording and an event. With ``record: strict`` it ends the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.loop import wall_seconds
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.codec import format_time
from tele.model.frame import FrameKind
from tele.model.trace import Traced, TraceEvent, TraceLost
from tele.recording.tee import ConnectionTape
from tele.sessions.connection_records import ConnectionRecords
from tele.sessions.context import ConnectionContext
from tele.sessions.repeated_opens import RepeatedOpens

#: Events of each kind of one connection in one go, and how many more each second.
EVENTS_BURST: Final = 2_000.0
EVENTS_PER_SECOND: Final = 20.0
#: Records that wait for a recorder that is behind.
WAITING_LIMIT: Final = 20_000
#: Characters of one element of a list in an event: the recording has all of it.
ELEMENT_LIMIT: Final = 512
ELEMENTS_LIMIT: Final = 64
#: Kinds of events, and ways of hand-overs, that are limited each of its own.
LIMITERS_LIMIT: Final = 64

FRAMES: Final[Mapping[TraceEvent, FrameKind]] = {
    TraceEvent.COMMAND: FrameKind.COMMAND,
    TraceEvent.DISK: FrameKind.DISK,
    TraceEvent.NETWORK: FrameKind.NETWORK,
    TraceEvent.SYSCALLS: FrameKind.SYSCALLS,
    TraceEvent.HANDOVER: FrameKind.HANDOVER,
}
_SECOND: Final = 1_000_000_000


class TraceRecords(ConnectionRecords):
    """Records what is traced on one connection.

    ``end(why)`` ends the session; it is called at the first loss if a role demands that.
    ``forbid(why)`` ends it at the first hand-over that a role forbids.
    """

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        audit: AuditReporter,
        tape: ConnectionTape | None,
        end: Callable[[str], None],
        forbid: Callable[[str], None],
    ) -> None:
        super().__init__(clock, context, audit, tape)
        self._end = end
        self._forbid = forbid
        self._forbidden = False
        self._limiters: dict[TraceEvent | str, ReportLimiter] = {}
        self._opens = RepeatedOpens(clock, self._take)
        self._waiting: deque[tuple[int, Traced]] = deque()
        #: Records that had no place among those that wait, by their channel.
        self._dropped: dict[int, TraceLost] = {}

    def take(self, channel: int, record: Traced | TraceLost) -> None:
        """Record what the program of a channel did, or that records of it were lost."""
        if isinstance(record, TraceLost):
            self.settle()
            self._resume()  # those before it, whether the recorder is behind or not
            self.lose(channel, _lost_text(record))
        elif self._context.grant.recording.count_opens:
            self._opens.take(channel, record)
        else:
            self._take(channel, record)

    def settle(self) -> None:
        """A program has ended: record what was counted together until now."""
        self._opens.settle()

    def _take(self, channel: int, record: Traced) -> None:
        if self._waiting or (self._tape is not None and self._tape.paused):
            self._wait(channel, record)
        else:
            self._record(channel, record)

    def _wait(self, channel: int, record: Traced) -> None:
        if len(self._waiting) >= WAITING_LIMIT:
            before = self._dropped.get(channel)
            first = record.number if before is None else before.first
            self._dropped[channel] = TraceLost(first, record.number)
            return
        self._waiting.append((channel, record))
        if len(self._waiting) == 1 and self._tape is not None:
            self._tape.when_resumed(self._resume)

    def _resume(self) -> None:
        while self._waiting:
            self._record(*self._waiting.popleft())
        dropped, self._dropped = self._dropped, {}
        for channel, lost in dropped.items():
            self.lose(channel, f"{_lost_text(lost)}: the recorder is behind")

    def _record(self, channel: int, record: Traced) -> None:
        fields = record.fields
        if self._tape is not None:
            age = int(wall_seconds(self._clock) * _SECOND) - record.time
            at = max(0, self._tape.elapsed() - max(0, age))
            self.note(channel, FRAMES[record.event], at=at, **fields)
        shown = {name: _shortened(value) for name, value in fields.items()}
        shown["happened"] = format_time(datetime.fromtimestamp(record.time / _SECOND, UTC))
        listed = self.listed(self._limiter(record), shown)
        if listed is not None:
            self.emit(f"session.{record.event.value}", channel=channel, **listed)
        if record.event is TraceEvent.HANDOVER and self._context.grant.recording.no_handovers:
            self._deny(record)

    def _limiter(self, record: Traced) -> ReportLimiter:
        """Return the limiter of a kind of event; each way of a hand-over has one of its own."""
        kind: TraceEvent | str = record.event
        if kind is TraceEvent.HANDOVER and len(self._limiters) < LIMITERS_LIMIT:
            kind = f"{kind.value} {record.action}"
        if kind not in self._limiters:
            self._limiters[kind] = ReportLimiter(RateLimiter(EVENTS_BURST, EVENTS_PER_SECOND))
        return self._limiters[kind]

    def _deny(self, record: Traced) -> None:
        if self._forbidden:
            return
        self._forbidden = True
        path = str(record.details.get("path", ""))
        what = cut(f"{record.action} {path}".strip())
        self._forbid(f"the session ends: a role forbids hand-overs (handovers: deny): {what}")

    def lose(self, channel: int, reason: str) -> None:
        """A part of what the program of a channel did is not recorded."""
        if self._tape is not None:
            self._tape.note(channel, FrameKind.GAP, lost={}, reason=reason)
            self._tape.lost("tracer", reason)  # that may end the session, or is an event
            return
        self.emit("recording.gap", recorder="tracer", why=cut(reason))
        if self._context.grant.recording.strict:
            self._end(f"the session cannot be traced any more: {reason}")


def _lost_text(lost: TraceLost) -> str:
    if lost.missed:
        times = "once" if lost.missed == 1 else f"{lost.missed} times"
        return f"the kernel did not ask the tracer {times}: something may not be recorded"
    if not lost.last:
        return f"records from {lost.first} on are lost: the tracer failed"
    count = f"records {lost.first} to {lost.last} were lost"
    return count if lost.first != lost.last else f"record {lost.first} was lost"


def _shortened(value: Any) -> Any:
    """Return a value as an event has it: the audit is no place for megabytes of arguments."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list | tuple):
        kept = [_element(each) for each in value[:ELEMENTS_LIMIT]]
        more = len(value) - ELEMENTS_LIMIT
        return [*kept, f"... ({more} more)"] if more > 0 else kept
    return value


def _element(value: Any) -> Any:
    if isinstance(value, str):
        text = cut(value)
        return text if len(text) <= ELEMENT_LIMIT else f"{text[:ELEMENT_LIMIT]}... ({len(text)})"
    return value
