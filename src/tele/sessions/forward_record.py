"""Which events and frames does a forward leave in the audit and on the recording?

Invariants:

* A connection that a changed grant does not give any more ends, also one that is being made.
* Each forward and each connection of it is an event at its beginning and at its end, and
  frames on the recording: what and where to, and how much it carried; never what it carried.
* Connections that others than the client made (``-R``, agents, displays), refused ones and
  listeners are limited in rate, on the recording as in the audit; the next event, and its frame,
  has the number of those that were left out. What is left out at its beginning is at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.errors import AccessDenied
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.frame import FrameKind
from tele.recording.tee import ConnectionTape
from tele.sessions.connection_records import ConnectionRecords
from tele.sessions.context import ConnectionContext

#: Connections that others made, or that were refused, in one go, and how many more each second.
ACCEPTED_BURST: Final = 200.0
ACCEPTED_PER_SECOND: Final = 20.0
#: Listeners that were opened, or refused, in one go, and how many more each second.
LISTENERS_BURST: Final = 200.0
LISTENERS_PER_SECOND: Final = 20.0
#: Why a connection ends that the grant does not give any more.
WITHDRAWN: Final = "it is not allowed any more: a role has changed"


class ForwardRecords(ConnectionRecords):
    """Records what is forwarded on one connection."""

    def __init__(
        self,
        clock: IReactorTime,
        context: ConnectionContext,
        audit: AuditReporter,
        tape: ConnectionTape | None,
    ) -> None:
        super().__init__(clock, context, audit, tape)
        self._accepted = ReportLimiter(RateLimiter(ACCEPTED_BURST, ACCEPTED_PER_SECOND))
        self._listeners = ReportLimiter(RateLimiter(LISTENERS_BURST, LISTENERS_PER_SECOND))
        #: Connections that are open, or being made.
        self._open: dict[ForwardRecord, None] = {}
        #: Listeners that were left out, and listen still.
        self._left_out: list[tuple[str, dict[str, Any]]] = []

    async def ready(self) -> None:
        """Return when the recording is open. Raises a TeleError if it cannot be."""
        if self._tape is not None:
            await self._tape.ready()

    def hold(self) -> Deferred[None] | None:
        """Hold what follows until what was recorded so far is where it has to be, or None."""
        return None if self._tape is None else self._tape.held(self._tape.number)

    def listening(self, event: str, **fields: Any) -> None:
        """A listener of the client was opened, or failed with ``error``."""
        shown = self.listed(self._listeners, fields)
        if shown is not None:
            self.note(0, FrameKind.FORWARD, action="listen", **shown)
            self.emit(event, **shown)
        elif "error" not in fields:
            self._left_out.append((event, fields))

    def stopped_listening(self, event: str, **fields: Any) -> None:
        """A listener was closed."""
        if (event, fields) in self._left_out:
            self._left_out.remove((event, fields))
            return
        self.note(0, FrameKind.FORWARD, action="close", **fields)
        self.emit(f"{event}.end", **fields)

    def begin(
        self,
        kind: str,
        permitted: Callable[[], bool],
        *,
        accepted: bool = False,
        **fields: str,
    ) -> ForwardRecord:
        """Return the record of one connection; ``accepted`` if others than the client made it.

        ``permitted()`` is whether the grant gives it now.
        """
        record = ForwardRecord(self, kind, fields, accepted, permitted)
        self._open[record] = None
        return record

    def restrict(self, channels: Mapping[int, Any]) -> None:
        """The grant has changed: end the connections that it does not give, by our ``channels``."""
        for record in list(self._open):
            if not record.permitted():
                record.withdraw(channels)

    def ended(self, record: ForwardRecord) -> None:
        """A connection was closed, or not opened."""
        self._open.pop(record, None)

    def connected(self, accepted: bool, **fields: Any) -> dict[str, Any] | None:
        """A connection was made, or refused; return the fields of its event, or None."""
        limited = accepted or "error" in fields
        shown = self.listed(self._accepted, fields) if limited else fields
        if shown is not None:
            self.emit("forward", **shown)
        return shown


class ForwardRecord:
    """Records one connection (:class:`tele.conch.connection.relay.RelayObserver`)."""

    def __init__(
        self,
        records: ForwardRecords,
        kind: str,
        fields: dict[str, str],
        accepted: bool,
        permitted: Callable[[], bool],
    ) -> None:
        self._records = records
        #: Whether the grant of now gives it. It is replaced when more is known.
        self.permitted = permitted
        self._why = ""
        self._fields = {"kind": kind, **{name: cut(text) for name, text in fields.items()}}
        self._accepted = accepted
        self._number = 0
        self._reported = False
        #: Called when the connection is refused or closed.
        self.on_end: Callable[[], object] = lambda: None

    def opened(self, number: int) -> Deferred[None] | None:
        """It is open, on the channel with our ``number``; see ``RelayObserver``."""
        self._number = number + 1
        shown = self._records.connected(self._accepted, **self._fields)
        self._reported = shown is not None
        if shown is not None:
            fields = {name: value for name, value in shown.items() if name != "kind"}
            self._records.note(
                self._number, FrameKind.OPEN, kind="forward", forward=self._fields["kind"], **fields
            )
        if self._why:
            return fail(AccessDenied(self._why, "forwarding"))
        return self._records.hold()

    def withdraw(self, channels: Mapping[int, Any]) -> None:
        """The grant does not give it any more: end it, or have it end when it is opened."""
        self._why = WITHDRAWN
        channel = channels.get(self._number - 1)
        if channel is not None:
            channel.withdraw()

    def refused(self, reason: Any) -> None:
        """It was not opened. ``reason`` is an exception, or the reply of the client.

        It is recorded if it is an event: a target that floods the client fills no recording.
        """
        text = cut(for_audit(getattr(reason, "value", reason)))
        shown = self._records.connected(self._accepted, error=text, **self._fields)
        if shown is not None:
            fields = {**shown, "error": text[:512]}
            self._records.note(0, FrameKind.FORWARD, action="refuse", **fields)
        self._end()

    def closed(self, sent: int, received: int) -> None:
        """It was closed, after so many bytes to the target and from it."""
        if self._reported:
            why = {"error": self._why} if self._why else {}
            self._records.note(self._number, FrameKind.CLOSE, sent=sent, received=received, **why)
            self._records.emit("forward.end", sent=sent, received=received, **self._fields, **why)
        self._end()

    def _end(self) -> None:
        self._records.ended(self)
        self.on_end()


def for_audit(error: Any) -> str:
    """Return the text of an error, with the rule that the user is not told."""
    why = error.why if isinstance(error, AccessDenied) else ""
    return f"{error}: {why}" if why else str(error)
