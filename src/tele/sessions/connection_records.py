"""Where do records of one connection go? To the audit, and to the connection's tape if it has one.

Invariants:

* Reports that a peer can cause at will are limited in rate, by a limiter for each kind; the next
  one that is made has the number of those that were left out.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import ReportLimiter
from tele.membership.audit_reporter import AuditReporter
from tele.model.frame import FrameKind
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext


class ConnectionRecords:
    """Records what happens on one connection."""

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        audit: AuditReporter,
        tape: ConnectionTape | None,
    ) -> None:
        self._clock = clock
        self._context = context
        self._audit = audit
        self._tape = tape

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Put a frame on the recording."""
        if self._tape is not None:
            self._tape.note(channel, kind, **fields)

    def emit(self, event: str, **fields: Any) -> None:
        """Make an event."""
        self._audit.emit(event, self._context, **fields)

    def listed(self, limiter: ReportLimiter, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Return the fields of a report as it is made now; None: it is left out."""
        return limiter.listed(self._clock.seconds(), fields)
