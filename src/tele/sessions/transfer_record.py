"""Which events and frames does a file leave that a client transfers?

Invariants:

* Each operation on a file is a frame on the recording and an event of the same content.
* Events are limited in rate; the next event has the number of those that were left out. Frames are
  not: a recording has its own limits.
* A frame is written at once. Events are made together, with the times of the operations: within
  :data:`GATHER_SECONDS`, and before the end of the program and of the session is an event.
* What is not read of a protocol is a gap on the recording, and an event.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.loop import now
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.frame import FrameKind
from tele.model.session import Launched
from tele.model.transfer import OK, Transfer
from tele.recording.tee import ConnectionTape
from tele.sessions.connection_records import ConnectionRecords
from tele.sessions.context import ConnectionContext
from tele.transfers.choosing import observer_of
from tele.transfers.observer import Observer

#: Events of transfers of one connection in one go, and how many more each second.
EVENTS_BURST: Final = 5_000.0
EVENTS_PER_SECOND: Final = 50.0
#: Seconds in which operations gather whose events are made together, and how many of them.
GATHER_SECONDS: Final = 0.1
GATHERED: Final = 64


@frozen
class _Listed:
    """An operation that becomes an event."""

    time: datetime
    name: str
    fields: dict[str, Any]


class TransferRecords(ConnectionRecords):
    """Records what is transferred on one connection."""

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        audit: AuditReporter,
        tape: ConnectionTape | None,
    ) -> None:
        super().__init__(clock, context, audit, tape)
        self._limiter = ReportLimiter(RateLimiter(EVENTS_BURST, EVENTS_PER_SECOND))
        self._gathered: list[_Listed] = []
        self._timer: IDelayedCall | None = None

    def observe(self, launched: Launched, channel: int) -> Observer:
        """Return what observes a program without a terminal."""
        return observer_of(
            launched,
            lambda transfer: self._transferred(channel, transfer),
            lambda reason: self._unread(channel, reason),
            partial(self._opened, channel) if self._holds else None,
        )

    @property
    def _holds(self) -> bool:
        """Whether what passes has to be at auth before the client gets it."""
        return self._tape is not None and self._tape.holds

    def _opened(self, channel: int, transfer: Transfer) -> None:
        """A file was opened: that has to be at auth before its content passes."""
        self._note(channel, transfer)

    def _note(self, channel: int, transfer: Transfer) -> dict[str, Any]:
        fields: dict[str, Any] = {
            name: cut(value) if isinstance(value, str) else value
            for name, value in transfer.fields.items()
        }
        self.note(channel, FrameKind.TRANSFER, **fields)
        return fields

    def _transferred(self, channel: int, transfer: Transfer) -> None:
        fields = self._note(channel, transfer)
        if transfer.result != OK:
            fields["error"] = fields["result"]
        listed = self.listed(self._limiter, fields)
        if listed is None:
            return
        time = now(self._clock)
        self._gathered.append(_Listed(time, transfer.protocol, {"channel": channel, **listed}))
        if len(self._gathered) >= GATHERED:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(GATHER_SECONDS, self._late)

    def _late(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Make the events of all operations so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, []
        for each in gathered:
            self._audit.emit_at(each.time, each.name, self._context, **each.fields)

    def _unread(self, channel: int, reason: str) -> None:
        self.flush()
        reason = cut(f"file transfers are not listed from here on: {reason}")
        if self._tape is not None:
            self._tape.note(channel, FrameKind.GAP, lost={}, reason=reason)
            self._tape.lost("", reason)  # that may end the session, or is an event
        else:
            self.emit("recording.gap", why=reason)
