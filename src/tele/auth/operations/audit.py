"""How do events get into the audit from hosts, and out to readers?

Invariants:

* A host reports its own events only, and only kinds that a host can know of
  (:mod:`tele.auth.claims`). Its id, its name and the time are filled in by auth.
* A host has quotas (:mod:`tele.auth.quotas`): no host fills the store for the others.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.audit.log import AuditLog
from tele.auth import claims, quotas
from tele.auth.authorizer import host_caller
from tele.auth.handlers import Handler, StreamHandler, handler, stream
from tele.auth.heads import HeadPublisher
from tele.auth.host_quotas import HostQuotas
from tele.auth.journal import Journal
from tele.auth.members import Members
from tele.auth.recordings import Recordings
from tele.auth.session_ends import SessionEnds
from tele.errors import InvalidInput, quoted
from tele.loop import now
from tele.model.api import audit as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.codec import encode
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, HostRole


class AuditOperations:
    """Operations on audit events."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        audit: AuditLog,
        heads: HeadPublisher,
        recordings: Recordings,
        members: Members,
        ends: SessionEnds,
        quotas: HostQuotas,
        journal: Journal,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._audit = audit
        self._heads = heads
        self._recordings = recordings
        self._members = members
        self._ends = ends
        self._quotas = quotas
        self._journal = journal

    def handlers(self) -> tuple[Handler | StreamHandler, ...]:
        """The rows of the table."""
        return (
            handler(table.EMIT_EVENTS, self.emit_events),
            handler(table.AUDIT_HEAD, self.audit_head),
            handler(table.LIST_AUDIT_HEADS, self.list_audit_heads),
            handler(table.LIST_EVENTS, self.list_events),
            stream(table.FOLLOW_EVENTS, self.follow_events),
        )

    async def emit_events(self, request: api.EmitEvents, caller: Caller) -> Nothing:
        """Append events of the calling host."""
        host = host_caller(caller)
        await self._quotas.charge(caller, quotas.EVENTS, len(request.events))
        size = sum(len(encode(value)) for value in request.events)
        await self._quotas.charge(caller, quotas.EVENT_BYTES, size)
        member = await self._members.require(host)
        moment = now(self._clock)
        events: list[Event] = []
        problems: dict[tuple[str, str], str] = {}  # many events are of one session
        for value in request.events:
            accepted = await self._accepted(host, value, problems)
            if isinstance(accepted, str):
                # Invalid, not denied: the sender need not try again.
                error = InvalidInput(f"event {quoted(value.id)}: {accepted}")
                await self._journal.denied(table.EMIT_EVENTS, caller, error)
                raise error
            events.append(claims.taken(accepted, member.name, moment))
        await self._ends.append(host, events)
        return Nothing()

    async def _accepted(
        self, host: HostIdentity, value: Event, problems: dict[tuple[str, str], str]
    ) -> Event | str:
        """Return an event of ``host`` as far as it is believed, or why it is not.

        ``problems`` are those with the sessions and users of earlier events of the request.
        """
        if problem := claims.problem(value, host, self._cluster):
            return problem
        whose = value.session_id, claims.session_user(value)
        if whose not in problems:
            problems[whose] = await self._problem_with_session(host, value)
        if problem := problems[whose]:
            return problem
        if host.role is HostRole.PROXY and value.session_id:
            return await self._recordings.proxied.claimed(host.host_id, value)
        return value

    async def _problem_with_session(self, host: HostIdentity, value: Event) -> str:
        """Return why the event cannot be of the session that it names; a new one is unknown yet."""
        if not value.session_id:
            return ""
        row = await self._recordings.find(value.session_id)
        if row is None and host.role is not HostRole.PROXY:
            is_proxys = await self._recordings.proxied.has(value.session_id)
            return "its session is another host's" if is_proxys else ""
        if row is not None and row.recorded_by != host.place:
            return "its session is another host's"
        if row is not None and row.user != claims.session_user(value):
            return f"its session is of {row.user}"
        return ""

    async def audit_head(self, request: Nothing, caller: Caller) -> api.AuditHead:
        """Return number and hash of the last event."""
        last = await self._audit.head()
        return api.AuditHead(last.number, last.hash)

    async def list_audit_heads(self, request: api.ListHeads, caller: Caller) -> api.HeadList:
        """Return a page of the signed heads in the archive."""
        return await self._heads.list(request)

    async def list_events(self, request: api.ListEvents, caller: Caller) -> api.EventList:
        """Return a page of events."""
        return await self._audit.query(request)

    def follow_events(
        self, request: api.FollowEvents, receiver: Callable[[Event], None]
    ) -> Deferred[None]:
        """Call ``receiver`` with each event that is appended and matches."""

        def appended(value: Event) -> None:
            if (not request.event or value.event == request.event) and (
                not request.user or value.user == request.user
            ):
                receiver(value)

        async def run() -> None:
            watch = await self._audit.follow(appended)
            cancelled: Deferred[None] = Deferred()
            try:
                await cancelled
            finally:
                watch.stop()

        return Deferred.fromCoroutine(run())
