"""What happened: how do sessions, recordings and events get in, and who may look?

Invariants:

* A host speaks for itself only: its own sessions, its own events, and of those only kinds
  that a host can know of (:mod:`tele.auth.claims`). Its id, its name and the time are auth's.
* A host has quotas (:mod:`tele.auth.quotas`): none fills the store for the others.
* One's own recordings are visible without a rule, all others with one, also those of somebody who
  had the same name before; whoever looks into a recording is in the audit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.audit.log import AuditLog
from tele.auth import claims, quotas
from tele.auth.authorizer import Authorizer, host_caller, user_caller
from tele.auth.journal import Journal
from tele.auth.limits import RecordingLimits, RecordingUse
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.auth.quotas import Quota, Quotas
from tele.auth.recording_search import Running
from tele.auth.recordings import Recordings
from tele.auth.session_ends import SessionEnds
from tele.auth.users import LONG_AGO
from tele.errors import AccessDenied, Conflict, InvalidInput, Unavailable, quoted
from tele.interfaces import Delete, Put
from tele.loop import now
from tele.model.access import Reason
from tele.model.api import audit as audit_api
from tele.model.api import recordings as api
from tele.model.api import sessions as sessions_api
from tele.model.api.members import ById
from tele.model.api.operation import Nothing
from tele.model.api.table import EMIT_EVENTS
from tele.model.api.users import Paged
from tele.model.codec import encode
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.session import Recording, RecordingState, Session, SessionStatus

#: Reading the same recording within so many seconds is one access.
ACCESS_SECONDS: Final = 600.0
#: Numbers of lost chunks that an event names.
MISSING_SHOWN: Final = 100


class RecordingOperations:
    """Operations about sessions, recordings and events."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        recordings: Recordings,
        hosts: Hosts,
        members: Members,
        audit: AuditLog,
        ends: SessionEnds,
        limits: RecordingLimits,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._ends = ends
        self._use = RecordingUse(limits)
        self._cluster = cluster
        self._clock = clock
        self._accessed: dict[tuple[str, str, str], float] = {}
        self._recordings = recordings
        self._hosts = hosts
        self._members = members
        self._quotas = Quotas()
        self._audit = audit
        self._authorizer = authorizer
        self._journal = journal

    # -- hosts ------------------------------------------------------------------------
    async def emit_events(self, request: audit_api.EmitEvents, caller: Caller) -> Nothing:
        """Append events of the calling host."""
        host = host_caller(caller)
        await self._take(caller, quotas.EVENTS, len(request.events))
        size = sum(len(encode(value)) for value in request.events)
        await self._take(caller, quotas.EVENT_BYTES, size)
        member = await self._members.require(host)
        for value in request.events:
            problem = claims.problem(value, host, self._cluster)
            problem = problem or await self._problem_with_session(host, value)
            if problem:
                # Invalid, not denied: to the sender it says that another try is no use.
                error = InvalidInput(f"event {quoted(value.id)}: {problem}")
                await self._journal.denied(EMIT_EVENTS, caller, error)
                raise error
        moment = now(self._clock)
        events = [claims.taken(value, member.name, moment) for value in request.events]
        await self._ends.append(host, events)
        return Nothing()

    async def report_sessions(
        self, request: sessions_api.ReportSessions, caller: Caller
    ) -> Nothing:
        """Which sessions run on the calling node."""
        host = host_caller(caller)
        await self._take(caller, quotas.REPORTS, 1)
        if len(request.sessions) > sessions_api.REPORT_LIMIT:
            raise InvalidInput(f"more than {sessions_api.REPORT_LIMIT:,} sessions at once")
        await self._members.require(host)
        # What it causes counts as if the node had reported it: it cannot have its sessions end
        # and go on in turns to fill the audit.
        await self._ends.report(
            host, request, lambda count: self._take(caller, quotas.EVENTS, count)
        )
        return Nothing()

    async def _problem_with_session(self, host: HostIdentity, value: Event) -> str:
        """Return why this cannot be of the session that it names; a new one is not known yet."""
        row = await self._recordings.find(value.session_id) if value.session_id else None
        if row is not None and row.node_id != host.host_id:
            return "its session is another host's"
        if row is not None and row.user != value.user:
            return f"its session is of {row.user}"
        return ""

    async def _take(self, caller: Caller, quota: Quota, amount: float) -> None:
        """Count what a host sends. Raises :class:`Unavailable` when it is over its quota."""
        host = host_caller(caller)
        if not self._quotas.take(host.role, host.host_id, quota, amount, self._clock.seconds()):
            await self._over(caller, quota.name, str(quota))

    async def _over(self, caller: Caller, name: str, limit: str) -> None:
        host = host_caller(caller)
        text = f"{host.role.value} {host.name} is over its quota of {limit}; try again later"
        if self._quotas.is_news(host.role, host.host_id, name, self._clock.seconds()):
            await self._journal.emit(
                "node.quota", caller, ok=False, error=text, quota=name, role=host.role.value
            )
        raise Unavailable(text)

    async def start_recording(self, request: api.StartRecording, caller: Caller) -> Nothing:
        """A session starts."""
        host = host_caller(caller)
        await self._take(caller, quotas.RECORDINGS, 1)
        if not await self._recordings.is_below_limit(host.host_id, quotas.RUNNING_LIMIT):
            limit = f"{quotas.RUNNING_LIMIT:,} sessions that run"
            await self._over(caller, "running_sessions", limit)
        member = await self._members.require(host)
        await self._recordings.start(host, request.id, request.start, member.name)
        return Nothing()

    async def update_recording(self, request: api.UpdateRecording, caller: Caller) -> Nothing:
        """A session got a terminal, or ended, or its node cannot complete its recording."""
        host = host_caller(caller)
        await self._recordings.update(host, request)
        if request.incomplete and await self._recordings.close_incomplete(
            request.id, request.incomplete, request.ended
        ):
            await self._incomplete(request.id, caller)
        return Nothing()

    async def _incomplete(self, recording_id: str, caller: Caller) -> None:
        """Put on record that a recording was closed without being whole."""
        row = await self._recordings.get(recording_id)
        details = await self._recordings.details(row, RecordingState.INCOMPLETE)
        await self._journal.emit(
            "recording.incomplete", caller, ok=False, error=row.incomplete, session_id=row.id,
            user=row.user, login=row.login, chunks=details.available,
            missing=details.missing[:MISSING_SHOWN],
        )  # fmt: skip

    async def put_chunk(self, request: api.PutChunk, caller: Caller) -> api.ChunkStored:
        """Store one chunk, and say so if its recording is over a limit."""
        host = host_caller(caller)
        await self._take(caller, quotas.CHUNKS, 1)
        if (of_node := self._use.limits.of_node) is not None:
            await self._take(caller, of_node, len(request.data))
        row = await self._recordings.put_chunk(host, request.id, request.number, request.data)
        moment = self._clock.seconds()
        over = self._use.add(row, len(request.data), moment)
        if over and self._quotas.is_news(host.role, host.host_id, f"limit {row.id}", moment):
            await self._journal.emit(
                "recording.limit", caller, ok=False, error=f"the recording is {over}",
                session_id=row.id, user=row.user, login=row.login, size=row.size,
            )  # fmt: skip
        return api.ChunkStored(over)

    async def finish_recording(self, request: api.FinishRecording, caller: Caller) -> Nothing:
        """Close a recording with its manifest."""
        if request.manifest.id != request.id:
            raise InvalidInput("the manifest is of another recording")
        host = host_caller(caller)
        if await self._recordings.finish(host, request.manifest, request.missing):
            if request.missing:
                await self._incomplete(request.id, caller)
                return Nothing()
            start = request.manifest.start
            await self._journal.emit(
                "recording.upload", caller, session_id=request.id, user=start.user,
                login=start.login, chunks=len(request.manifest.chunks),
                recovered=request.manifest.recovered,
            )  # fmt: skip
        return Nothing()

    async def recording_progress(self, request: ById, caller: Caller) -> api.RecordingProgress:
        """Which chunks are stored."""
        return await self._recordings.progress(host_caller(caller), request.id)

    async def open_recordings(self, request: Nothing, caller: Caller) -> api.OpenRecordings:
        """Which sessions of the calling node run."""
        host = host_caller(caller)
        running = [each.session for each in await self._recordings.running()]
        return api.OpenRecordings(tuple(s.id for s in running if s.node_id == host.host_id))

    # -- people -----------------------------------------------------------------------
    async def _whose(self, caller: Caller, resource: str, verb: str) -> str | None:
        """Whose the caller may see: everybody's (None) with a rule, else their own."""
        everything = await self._authorizer.may(caller, resource, verb)
        return None if everything else user_caller(caller).user

    async def list_sessions(self, request: Paged, caller: Caller) -> sessions_api.SessionList:
        """Sessions that have not ended, oldest first."""
        limit = request.limit
        whose = await self._whose(caller, "session", "list")
        since = LONG_AGO if whose is None else await self._authorizer.since(caller)
        running = await self._recordings.running(whose)
        begin = bisect_right(running, request.after, key=attrgetter("mark"))
        page: list[Running] = []
        for each in islice(running, begin, None):
            if _is_since(each.session, since):
                if len(page) == limit:
                    return sessions_api.SessionList(self._as_known(page), page[-1].mark)
                page.append(each)
        return sessions_api.SessionList(self._as_known(page))

    def _as_known(self, page: list[Running]) -> tuple[Session, ...]:
        """Return sessions with what is known of them now: of an offline node, little."""
        return tuple(self._known(each.session) for each in page)

    def _known(self, session: Session) -> Session:
        if self._hosts.is_online(HostRole.NODE, session.node_id):
            return session
        seen = self._hosts.last_seen(HostRole.NODE, session.node_id)
        return evolve(session, status=SessionStatus.UNKNOWN, node_seen=seen)

    async def list_recordings(
        self, request: api.ListRecordings, caller: Caller
    ) -> api.RecordingList:
        """A page of recordings, newest first."""
        whose = await self._whose(caller, "recording", "list")
        if whose is not None:
            if request.user not in ("", whose):
                raise AccessDenied(
                    f"denied: to list the recordings of {quoted(request.user)} takes a rule for"
                    " recording",
                    Reason.RULE.value,
                )
            since = await self._authorizer.since(caller)
            since = since if request.since is None else max(since, request.since)
            request = evolve(request, user=whose, since=since)
        return await self._recordings.list(request)

    async def _readable(self, recording_id: str, caller: Caller) -> Recording:
        row = await self._recordings.get(recording_id)
        whose = await self._whose(caller, "recording", "read")
        if whose is not None:
            whose_it_is = row.user
            if row.user == whose and not _is_since(row, await self._authorizer.since(caller)):
                whose_it_is = f"another {row.user}, who was here before"
            if whose_it_is != whose:
                raise AccessDenied(
                    f"denied: recording {row.id} is of {whose_it_is}; to read it takes a rule for"
                    " recording",
                    Reason.RULE.value,
                )
        return row

    async def _note_access(self, row: Recording, caller: Caller) -> None:
        """One event for all that a person reads of a recording in one go."""
        moment = self._clock.seconds()
        who = user_caller(caller)
        key = (who.user, who.login_session, row.id)
        # Those noted the longest ago come first: each goes once.
        while self._accessed and moment - next(iter(self._accessed.values())) >= ACCESS_SECONDS:
            del self._accessed[next(iter(self._accessed))]
        if key in self._accessed:
            return
        await self._journal.emit("recording.access", caller, session_id=row.id, of_user=row.user)
        self._accessed.pop(key, None)
        self._accessed[key] = moment

    async def get_recording(self, request: ById, caller: Caller) -> api.RecordingDetails:
        """One recording, with its manifest."""
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)
        return await self._recordings.details(row, await self._state(row))

    async def _state(self, row: Recording) -> RecordingState:
        if row.complete:
            return RecordingState.COMPLETE
        if row.incomplete:
            return RecordingState.INCOMPLETE
        if row.ended is not None:
            return RecordingState.ENDED
        lives = self._hosts.is_online(HostRole.NODE, row.node_id)
        runs = lives and await self._recordings.is_running(row.id)
        return RecordingState.RUNNING if runs else RecordingState.UNFINISHED

    async def get_chunk(self, request: api.GetChunk, caller: Caller) -> api.Octets:
        """One chunk."""
        if isinstance(caller.identity, HostIdentity):
            host = host_caller(caller)
            return api.Octets(await self._recordings.own_chunk(host, request.id, request.number))
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)  # nobody needs to have asked for the whole before
        return api.Octets(await self._recordings.chunk(row, request.number))

    async def delete_recording(self, request: ById, caller: Caller) -> Nothing:
        """Remove a recording; the audit keeps that it was there."""
        row = await self._recordings.get(request.id)
        if await self._state(row) is RecordingState.RUNNING:
            # Else it would run on without being listed, and nobody could end it.
            raise Conflict(
                f"session {row.id} runs; end it first: tele sessions kill {row.id}, or wait"
            )
        said = self._journal.event("recording.delete", caller, session_id=row.id, of_user=row.user)

        async def on_record(changes: Sequence[Put | Delete]) -> None:
            await self._journal.append(said, changes={said.id: changes})

        await self._recordings.delete(row, on_record)
        return Nothing()

    async def audit_head(self, request: Nothing, caller: Caller) -> audit_api.AuditHead:
        """The last event of the audit."""
        last = await self._audit.head()
        return audit_api.AuditHead(last.number, last.hash)

    async def list_events(
        self, request: audit_api.ListEvents, caller: Caller
    ) -> audit_api.EventList:
        """A page of the audit."""
        return await self._audit.query(request)

    def follow_events(
        self, request: audit_api.FollowEvents, receiver: Callable[[Event], None]
    ) -> Deferred[None]:
        """Events as they are appended."""

        def told(value: Event) -> None:
            if (not request.event or value.event == request.event) and (
                not request.user or value.user == request.user
            ):
                receiver(value)

        async def run() -> None:
            watch = await self._audit.follow(told)
            ended: Deferred[Any] = Deferred()
            try:
                await ended  # until it is cancelled
            finally:
                watch.stop()

        return Deferred.fromCoroutine(run())


def _is_since(row: Recording | Session, since: datetime) -> bool:
    """Whether auth heard of a session after a moment; clocks of hosts may be wrong."""
    return (row.received or row.started) >= since
