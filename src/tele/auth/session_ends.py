"""Which sessions have started and not ended, and when does auth end a session itself?

A node reports the start and the end of a session in events. Auth registers each start until the end
is reported. It ends a session itself, with the reason, if its node cannot or does not report it:

* the node reports which sessions run on it, and this one does not: its process was killed and
  started again, or its report of the end is lost;
* the node was removed, or replaced by another host;
* the node has been offline for longer than a limit (``auth.session_end_after``).

In the last two cases the open recordings of the node are closed as incomplete, too. In the first
the node closes them itself.

Keys: those of :mod:`tele.auth.session_starts` until the end, ``/session-ends/<host>/<session id>``
for :data:`REMEMBER` after an end by auth.

Invariants:

* A start is registered in the commit that appends its event, and removed in the commit that appends
  the event of its end. So each start in the audit gets an end, whichever process dies meanwhile.
* An end by auth is corrected by a later event: a session that auth has ended and that runs is
  listed again (``session.resume``), and an end that its node reports later names the event that it
  ``corrects``.
* A host reports its own sessions only, and is charged for each event that its reports cause.
* No node counts as offline because auth was not running, or because its clock was set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.audit.chain import event
from tele.audit.log import AuditLog, Changes
from tele.auth.host_places import place_key, places_below
from tele.auth.members import Members
from tele.auth.open_recordings import OpenRecordings
from tele.auth.presence import Hosts
from tele.auth.repository import Repository, Versioned
from tele.auth.session_starts import (
    SESSION_STARTS,
    StartedSession,
    added,
    removed,
    starts_of_host,
)
from tele.interfaces import IBackend
from tele.log import make_logger
from tele.loop import now
from tele.model.api.sessions import ReportSessions
from tele.model.codec import format_duration, format_time
from tele.model.event import Event
from tele.model.identity import HostIdentity, HostPlace, HostRole
from tele.model.session import Session

log = make_logger(__name__)

T = TypeVar("T")

SESSION_ENDS: Final = "/session-ends/"
#: The default of ``auth.session_end_after``.
END_AFTER: Final = timedelta(days=1)
#: How long a node has to be offline by the monotonic clock of this process, too.
OFFLINE_SECONDS: Final = 300.0
#: How often auth checks for sessions to end.
CHECK_SECONDS: Final = 60.0
#: How long an end by auth can be corrected.
REMEMBER: Final = timedelta(days=30)
#: Sessions that are read, and ended, with one call.
BATCH: Final = 200

#: Fields of the event of an end that auth alone sets.
OWN_FIELDS: Final = frozenset(("by", "corrects"))

#: Charges a host for a number of events, or raises :class:`tele.errors.Unavailable`.
Charge = Callable[[int], Awaitable[None]]

#: Codes of reasons, by the role of the host that recorded the session.
RESTARTED: Final = {HostRole.NODE: "node_restarted", HostRole.PROXY: "proxy_restarted"}
REMOVED: Final = {HostRole.NODE: "node_removed", HostRole.PROXY: "proxy_removed"}
SILENT: Final = {HostRole.NODE: "node_silent", HostRole.PROXY: "proxy_silent"}

START: Final = "session.start"
END: Final = "session.end"


@frozen
class EndedSession:
    """A session that auth has ended, and the id of the event."""

    started: StartedSession
    event_id: str


@frozen
class Reason:
    """Why auth ends sessions of a node: a code, a text, and when they ended."""

    name: str
    text: str
    ended: datetime


class SessionEnds:
    """The sessions that have started and not ended. Call :meth:`start` first."""

    def __init__(
        self,
        backend: IBackend,
        clock: IReactorTime,
        cluster: str,
        audit: AuditLog,
        recordings: OpenRecordings,
        hosts: Hosts,
        members: Members,
        end_after: timedelta = END_AFTER,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._cluster = cluster
        self._audit = audit
        self._recordings = recordings
        self._hosts = hosts
        self._members = members
        self._end_after = end_after
        self._locks: dict[HostPlace, DeferredLock] = {}
        #: Hosts with sessions that are offline, and since when by the monotonic clock.
        self._offline: dict[HostPlace, float] = {}
        self._timer: IDelayedCall | None = None
        self._checking: Deferred[None] | None = None

    async def start(self) -> None:
        """Check from now on for sessions that their nodes do not end."""
        await self._recordings.start()
        self._timer = self._clock.callLater(CHECK_SECONDS, self._start_check)

    async def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._checking is not None:
            await self._checking

    # -- reports of nodes -------------------------------------------------------------
    async def append(self, host: HostIdentity, events: Sequence[Event]) -> None:
        """Append events of ``host``, and register starts and ends."""
        if not any(value.event in (START, END) for value in events):
            await self._audit.append(*events)
            return
        await self._locked(host.place, lambda: self._append(host.place, events))

    async def _append(self, host: HostPlace, events: Sequence[Event]) -> None:
        taken: list[Event] = []
        changes: dict[str, Changes] = {}
        for value in events:
            stored = value
            if value.event == START and value.session_id:
                changes[value.id] = added(self._backend, host, _started(value, host))
            elif value.event == END and value.session_id:
                stored, changes[value.id] = await self._reported_end(host, value)
            taken.append(stored)
        await self._audit.append(*taken, changes=changes)

    async def _reported_end(self, host: HostPlace, value: Event) -> tuple[Event, Changes]:
        """Return the event of a reported end as it is stored, and the changes with it."""
        ends = self._ends(host)
        fields = {key: each for key, each in value.fields.items() if key not in OWN_FIELDS}
        before = await ends.get(value.session_id)
        if before is not None:
            fields["corrects"] = before.value.event_id
        start = await self._starts(host).get(value.session_id)
        user = value.user if start is None else start.value.session.user
        return evolve(value, fields=fields), [
            *removed(self._backend, host, user, value.session_id),
            ends.delete(value.session_id),
        ]

    async def has_started(self, host: HostPlace, session_id: str) -> bool:
        """Whether a session of a host has started, and has not ended."""
        return await self._starts(host).get(session_id) is not None

    async def report(self, host: HostIdentity, report: ReportSessions, charge: Charge) -> None:
        """Take a node's report of its running sessions.

        ``charge`` is called before events are appended, and raises if they are too many.
        """
        await self._locked(host.place, lambda: self._report(host.place, report, charge))

    async def _report(self, host: HostPlace, report: ReportSessions, charge: Charge) -> None:
        running = set(report.sessions)
        role, _ = host
        restarted = Reason(
            RESTARTED[role],
            f"the {role.value}'s process ended while the session ran, and was started again",
            min(report.since, now(self._clock)),
        )
        unreported = Reason(
            "unreported",
            f"the session does not run on its {role.value} any more; its end was not reported",
            now(self._clock),
        )
        async for page in _pages(self._starts(host)):
            gone = [entry for entry in page if entry.name not in running]
            killed = [entry for entry in gone if entry.value.session.started < report.since]
            lost = [entry for entry in gone if entry.value.session.started >= report.since]
            await charge(len(gone))
            await self._end(host, killed, restarted)
            await self._end(host, lost, unreported)
        for begin in range(0, len(report.sessions), BATCH):
            names = report.sessions[begin : begin + BATCH]
            for ended in await self._ends(host).get_many(names):
                await charge(1)
                await self._resume(host, ended.name, ended.value)

    async def _resume(self, host: HostPlace, session_id: str, ended: EndedSession) -> None:
        """List a session again that auth has ended, and that runs."""
        started = evolve(ended.started, resumed=ended.started.resumed + 1)
        resumed = self._event(
            "session.resume", f"{session_id}-resume-{started.resumed}", started,
            f"auth had ended this session; its {host[0].value} has reconnected, and it runs",
            corrects=ended.event_id,
        )  # fmt: skip
        changes: Changes = [
            *added(self._backend, host, started),
            self._ends(host).delete(session_id),
        ]
        await self._audit.append(resumed, changes={resumed.id: changes})
        await self._recordings.resumed(started.session)

    # -- ends by auth -----------------------------------------------------------------
    def _gone(self, host: HostPlace, name: str, text: str) -> Reason:
        """Return a reason with the end at the host's last announcement, if that is known."""
        moment = now(self._clock)
        seen = self._hosts.last_seen(*host)
        return Reason(name, text, moment if seen is None else min(seen, moment))

    async def _end_all(self, host: HostPlace, reason: Reason) -> None:
        async for page in _pages(self._starts(host)):
            await self._end(host, page, reason)
        await self._recordings.close(host, reason.text, reason.ended)

    async def _end(
        self, host: HostPlace, gone: Sequence[Versioned[StartedSession]], reason: Reason
    ) -> None:
        """Append the ends of sessions, and remove their starts."""
        if not gone:
            return
        ends = self._ends(host)
        events: list[Event] = []
        changes: dict[str, Changes] = {}
        for entry in gone:
            # The same id from each auth on this store, so that it is appended once.
            end = self._event(
                END, f"{entry.name}-end-{entry.value.resumed}", entry.value, reason.text,
                reason=reason.name, by="auth", ended=format_time(reason.ended),
            )  # fmt: skip
            events.append(end)
            changes[end.id] = [
                *removed(self._backend, host, entry.value.session.user, entry.name),
                ends.put(entry.name, EndedSession(entry.value, end.id), ttl=REMEMBER),
            ]
        await self._audit.append(*events, changes=changes)
        log.warn(
            "sessions ended by auth", count=len(gone), host_id=host[1], reason=reason.name,
        )  # fmt: skip

    def _event(
        self, name: str, event_id: str, started: StartedSession, why: str, **fields: str
    ) -> Event:
        session = started.session
        return event(
            name, event_id, now(self._clock), self._cluster,
            user=session.user, login=session.login, roles=started.roles, session_id=session.id,
            login_session=session.login_session, server_id=session.node_id,
            server_name=session.node, remote_addr=session.remote_addr, ok=False, error=why,
            **fields,
        )  # fmt: skip

    # -- checking ---------------------------------------------------------------------
    def check_soon(self) -> None:
        """Check now: a node was removed or replaced."""
        if self._timer is not None:
            self._timer.reset(0)

    def _start_check(self) -> None:
        self._timer = self._clock.callLater(CHECK_SECONDS, self._start_check)
        if self._checking is not None:
            return  # the last check still runs
        checking = self._checking = Deferred.fromCoroutine(self.check())
        checking.addErrback(
            lambda failure: log.warn("cannot end sessions", error=str(failure.value))
        )
        checking.addCallback(self._checked)

    def _checked(self, _: object) -> None:
        self._checking = None

    async def check(self) -> None:
        """End the sessions of nodes that are gone, or offline for too long."""
        waiting = await places_below(self._backend, SESSION_STARTS) | await self._recordings.hosts()
        self._offline = {h: since for h, since in self._offline.items() if h in waiting}
        for host in sorted(waiting):
            reason = await self._reason(host)
            if reason is not None:
                await self._locked(host, partial(self._end_all, host, reason))

    async def _reason(self, host: HostPlace) -> Reason | None:
        """Return why the sessions of a host have ended, or None."""
        role, _ = host
        if await self._members.find(*host) is None:
            return self._gone(
                host,
                REMOVED[role],
                f"the {role.value} was removed from the cluster, or replaced by another host",
            )
        if self._hosts.is_online(*host):
            self._offline.pop(host, None)
            return None
        moment = self._clock.seconds()
        since = self._offline.setdefault(host, moment)
        seen = self._hosts.last_seen(*host)
        overdue = seen is None or now(self._clock) - seen >= self._end_after
        if not overdue or moment - since < OFFLINE_SECONDS:
            return None
        limit = format_duration(self._end_after)
        return self._gone(
            host, SILENT[role], f"the {role.value} has been offline for {limit} or longer"
        )

    # -- inside -----------------------------------------------------------------------
    def _starts(self, host: HostPlace) -> Repository[StartedSession]:
        return starts_of_host(self._backend, host)

    def _ends(self, host: HostPlace) -> Repository[EndedSession]:
        return Repository(self._backend, f"{SESSION_ENDS}{place_key(host)}/", EndedSession)

    async def _locked(self, host: HostPlace, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do ``work`` while no other work on the sessions of a host runs."""
        lock = self._locks.setdefault(host, DeferredLock())
        try:
            await lock.run(lambda: Deferred.fromCoroutine(work()))
        finally:
            if not lock.locked and not lock.waiting:
                self._locks.pop(host, None)


async def _pages(repository: Repository[T]) -> AsyncIterator[Sequence[Versioned[T]]]:
    """Yield all values in pages, so that other calls run in between."""
    last = ""
    while page := await repository.list(BATCH, last):
        last = page[-1].name
        yield page


def _started(value: Event, host: HostPlace) -> StartedSession:
    """Return the session that an event is about, as ``host`` reported it."""
    role, host_id = host
    # Of a proxy's session it is another host, as auth has registered it.
    node, node_id = (
        value.fields.get(name, own) if role is HostRole.PROXY else own
        for name, own in (("node", value.server_name), ("node_id", value.server_id))
    )
    session = Session(
        value.session_id, value.user, value.login, node, node_id,
        value.remote_addr, value.claimed or value.time, value.login_session, received=value.time,
        recorder=role, recorder_id="" if role is HostRole.NODE else host_id,
    )  # fmt: skip
    of_session = value.fields.get("of_session", "") if role is HostRole.NODE else ""
    return StartedSession(session, value.roles, of_session=str(of_session))
