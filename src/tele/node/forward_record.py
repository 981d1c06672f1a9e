"""What is said of a forward, in the audit and on the recording?

Invariants:

* Each forward and each connection of it is an event at its beginning and at its end, and
  frames on the recording: what and where to, and how much it carried; never what it carried.
* Others than the client can connect to what listens for it, and a client can ask in a loop for
  what it does not get: of both events are made at a rate, and the rest are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.frame import FrameKind
from tele.node.programs import ConnectionContext
from tele.recording.tee import ConnectionTape

#: Events of connections that others made, or that were refused, in one go, and how many more each
#: second.
ACCEPTED_BURST: Final = 200.0
ACCEPTED_PER_SECOND: Final = 20.0


class ForwardRecords:
    """Says what is forwarded on one connection."""

    def __init__(
        self,
        reactor: Any,
        visit: ConnectionContext,
        audit: AuditReporter,
        tape: ConnectionTape | None,
    ) -> None:
        self._visit = visit
        self._audit = audit
        self._tape = tape
        self._clock = reactor
        self._limiter = ReportLimiter(RateLimiter(ACCEPTED_BURST, ACCEPTED_PER_SECOND))

    async def ready(self) -> None:
        """Return when there is something to record on; raises a TeleError if there cannot be."""
        if self._tape is not None:
            await self._tape.ready()

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Put a frame on the recording."""
        if self._tape is not None:
            self._tape.note(channel, kind, **fields)

    def emit(self, event: str, **fields: Any) -> None:
        """Make an event."""
        self._audit.emit(event, self._visit, **fields)

    def listens(self, event: str, **fields: Any) -> None:
        """Something listens for the client from now on, or would not: ``error``."""
        self.note(0, FrameKind.FORWARD, action="listen", **fields)
        self.emit(event, **fields)

    def listens_no_more(self, event: str, **fields: Any) -> None:
        """It does not any more."""
        self.note(0, FrameKind.FORWARD, action="close", **fields)
        self.emit(f"{event}.end", **fields)

    def begin(self, kind: str, *, accepted: bool = False, **fields: str) -> ForwardRecord:
        """Return the record of one connection; ``accepted`` if others than the client made it."""
        return ForwardRecord(self, kind, fields, accepted)

    def connected(self, accepted: bool, **fields: Any) -> bool:
        """A connection was made, or refused; return whether it is an event."""
        rationed = accepted or "error" in fields
        unsaid = self._limiter.admit(self._clock.seconds()) if rationed else 0
        if unsaid:
            fields["others_not_listed"] = unsaid
        if unsaid is not None:
            self.emit("forward", **fields)
        return unsaid is not None


class ForwardRecord:
    """What becomes of one connection (:class:`tele.conch.connection.relay.RelayObserver`)."""

    def __init__(
        self, records: ForwardRecords, kind: str, fields: dict[str, str], accepted: bool
    ) -> None:
        self._records = records
        self._fields = {"kind": kind, **{name: cut(text) for name, text in fields.items()}}
        self._accepted = accepted
        self._number = 0
        self._said = False
        #: Called when there is no connection, or no more.
        self.over: Callable[[], object] = lambda: None

    def opened(self, number: int) -> None:
        """It is made, and is the channel with our ``number``."""
        self._number = number + 1
        fields = {name: text for name, text in self._fields.items() if name != "kind"}
        self._records.note(
            self._number, FrameKind.OPEN, kind="forward", forward=self._fields["kind"], **fields
        )
        self._said = self._records.connected(self._accepted, **self._fields)

    def refused(self, reason: Any) -> None:
        """It is not made. ``reason`` is an exception, or what the client answered."""
        text = cut(str(getattr(reason, "value", reason)))
        self._records.note(0, FrameKind.FORWARD, action="refuse", error=text[:512], **self._fields)
        self._records.connected(self._accepted, error=text, **self._fields)
        self.over()

    def closed(self, sent: int, received: int) -> None:
        """It is over, after so many bytes to the target and from it."""
        self._records.note(self._number, FrameKind.CLOSE, sent=sent, received=received)
        if self._said:
            self._records.emit("forward.end", sent=sent, received=received, **self._fields)
        self.over()
