"""How are recordings uploaded, and who may read them?

Invariants:

* A node writes its own recordings only, within its quotas (:mod:`tele.auth.quotas`).
* A user reads their own recordings without a rule. All others need one, also those of an earlier
  user of the same name.
* Each read of a recording is an audit event, one for :data:`ACCESS_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from tele.auth import quotas
from tele.auth.authorizer import Authorizer, host_caller, user_caller
from tele.auth.handlers import Handler, handler
from tele.auth.host_quotas import HostQuotas
from tele.auth.journal import Journal
from tele.auth.limits import RecordingLimits, RecordingUse
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.auth.recording_search import received_at
from tele.auth.recording_uploads import RecordingUploads
from tele.auth.recordings import Recordings
from tele.auth.repository import Versioned
from tele.errors import AccessDenied, InvalidInput, NotFound, TeleError, quoted
from tele.https.callers import counted_as
from tele.log import make_logger
from tele.model.access import Reason
from tele.model.api import recordings as api
from tele.model.api import table
from tele.model.api.operation import Nothing, Octets
from tele.model.api.paging import ById
from tele.model.api.search import SearchRecordings, SearchResult
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.session import Recording, RecordingState
from tele.recording.batch import BatchChunk, refused, unpack_chunks
from tele.tape.layout import digest

log = make_logger(__name__)

#: Reads of one recording by one login session within so many seconds are one access.
ACCESS_SECONDS: Final = 600.0
#: Recordings of a page that are found by a command: each is an access.
COMMAND_PAGE: Final = 100
#: Numbers of lost chunks that an event names.
MISSING_SHOWN: Final = 100
#: Rows that are read with one call, and decoded in one turn of the reactor.
ROWS_AT_ONCE: Final = 32


class RecordingOperations:
    """Operations on recordings."""

    def __init__(
        self,
        clock: IReactorTime,
        recordings: Recordings,
        uploads: RecordingUploads,
        hosts: Hosts,
        members: Members,
        limits: RecordingLimits,
        quotas: HostQuotas,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._clock = clock
        self._recordings = recordings
        self._uploads = uploads
        self._hosts = hosts
        self._members = members
        self._use = RecordingUse(limits)
        self._quotas = quotas
        self._authorizer = authorizer
        self._journal = journal
        self._accessed: dict[tuple[str, str, str], float] = {}

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.START_RECORDING, self.start_recording),
            handler(table.UPDATE_RECORDING, self.update_recording),
            handler(table.PUT_CHUNK, self.put_chunk),
            handler(table.PUT_CHUNKS, self.put_chunks),
            handler(table.FINISH_RECORDING, self.finish_recording),
            handler(table.RECORDING_PROGRESS, self.recording_progress),
            handler(table.OPEN_RECORDINGS, self.open_recordings),
            handler(table.LIST_RECORDINGS, self.list_recordings),
            handler(table.GET_RECORDING, self.get_recording),
            handler(table.GET_CHUNK, self.get_chunk),
            handler(table.GET_INDEX, self.get_index),
            handler(table.GET_RECORDING_KEYS, self.get_recording_keys),
            handler(table.SEARCH_RECORDINGS, self.search_recordings),
        )

    # -- hosts ------------------------------------------------------------------------
    async def start_recording(self, request: api.StartRecording, caller: Caller) -> Nothing:
        """Register the recording of a session that starts on, or ends at, the calling host."""
        host = host_caller(caller)
        await self._quotas.charge(caller, quotas.RECORDINGS, 1)
        if not await self._recordings.sessions.is_below_limit(host.place, quotas.RUNNING_LIMIT):
            limit = f"{quotas.RUNNING_LIMIT:,} running sessions"
            raise await self._quotas.exceeded(caller, "running_sessions", limit)
        member = await self._members.require(host)
        name = member.name
        if host.role is HostRole.PROXY:
            name = await self._recordings.proxied.check_recording(host.host_id, request.start)
        elif await self._recordings.proxied.has(request.id):
            raise AccessDenied("the session is a proxy's, and recorded by that", "host")
        await self._uploads.start(host, request.id, request.start, member, name, request.keys)
        return Nothing()

    async def update_recording(self, request: api.UpdateRecording, caller: Caller) -> Nothing:
        """Note a terminal, the end of the session, or that the recording cannot be completed."""
        host = host_caller(caller)
        await self._uploads.update(host, request)
        if request.incomplete and await self._recordings.close_incomplete(
            request.id, request.incomplete, request.ended
        ):
            await self._incomplete(request.id, caller)
        return Nothing()

    async def _incomplete(self, recording_id: str, caller: Caller) -> None:
        """Emit the event of a recording that was closed as incomplete."""
        row = await self._recordings.get(recording_id)
        details = await self._recordings.details(row, RecordingState.INCOMPLETE)
        await self._journal.emit(
            "recording.incomplete", caller, ok=False, error=row.incomplete, session_id=row.id,
            user=row.user, login=row.login, chunks=details.available,
            missing=details.missing[:MISSING_SHOWN],
        )  # fmt: skip

    async def put_chunk(self, request: api.PutChunk, caller: Caller) -> api.ChunkStored:
        """Store one chunk; the response names the limit that its recording is over."""
        chunk = BatchChunk(request.id, request.number, request.data)
        _, over = await self._put_chunk(chunk, caller, None)
        return api.ChunkStored(over)

    async def put_chunks(self, request: api.PutChunks, caller: Caller) -> api.ChunksStored:
        """Store several chunks: those of one recording in order, recordings at once."""
        recordings: dict[str, list[BatchChunk]] = {}
        for chunk in unpack_chunks(request.data):
            recordings.setdefault(chunk.id, []).append(chunk)
        ids = list(recordings)
        storing: list[Deferred[list[api.StoredChunk]]] = []
        for at in range(0, len(ids), ROWS_AT_ONCE):
            rows = await self._uploads.entries(ids[at : at + ROWS_AT_ONCE])
            storing += [
                Deferred.fromCoroutine(self._put_in_order(recordings[i], caller, rows.get(i)))
                for i in ids[at : at + ROWS_AT_ONCE]
            ]
        answers = await gatherResults(storing)
        return api.ChunksStored(tuple(each for items in answers for each in items))

    async def _put_in_order(
        self, chunks: Sequence[BatchChunk], caller: Caller, row: Versioned[Recording] | None
    ) -> list[api.StoredChunk]:
        """Store chunks of one recording; after one that cannot be stored none is."""
        answers: list[api.StoredChunk] = []
        failed: TeleError | None = None
        for chunk in chunks:
            if failed is None:
                try:
                    row, over = await self._put_chunk(chunk, caller, row)
                    answers.append(api.StoredChunk(chunk.id, chunk.number, over))
                    continue
                except TeleError as error:
                    failed = error
                except Exception:
                    log.failure("chunk of recording not stored", recording_id=chunk.id)
                    failed = TeleError("auth could not store a chunk; its log has more")
            answers.append(refused(chunk, failed))
        return answers

    async def _put_chunk(
        self, chunk: BatchChunk, caller: Caller, entry: Versioned[Recording] | None
    ) -> tuple[Versioned[Recording], str]:
        """Store one chunk; returns the limit that its recording is over, or nothing.

        ``entry`` is its recording's row if it was read, and what is returned that row now.
        """
        host = host_caller(caller)
        size = len(chunk.data)
        await self._quotas.charge(caller, quotas.CHUNKS, 1)
        if (of_node := self._use.limits.of_node) is not None:
            await self._quotas.charge(caller, of_node, size)
        entry = await self._uploads.put_chunk(host, chunk.id, chunk.number, chunk.data, entry)
        row = entry.value
        over = self._use.add(row, size, self._clock.seconds())
        if over and self._quotas.is_due(caller, f"limit {row.id}"):
            await self._journal.emit(
                "recording.limit", caller, ok=False, error=f"the recording is {over}",
                session_id=row.id, user=row.user, login=row.login, size=row.size,
            )  # fmt: skip
        return entry, over

    async def finish_recording(self, request: api.FinishRecording, caller: Caller) -> Nothing:
        """Close a recording with its manifest."""
        if request.manifest.id != request.id:
            raise InvalidInput("the manifest is of another recording")
        host = host_caller(caller)
        if await self._uploads.finish(host, request.manifest, request.missing):
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
        """Return which chunks are stored."""
        return await self._uploads.progress(host_caller(caller), request.id)

    async def open_recordings(self, request: Nothing, caller: Caller) -> api.OpenRecordings:
        """Return the sessions of the calling node that have not ended."""
        host = host_caller(caller)
        running = [each.session for each in await self._recordings.running()]
        return api.OpenRecordings(tuple(s.id for s in running if s.recorded_by == host.place))

    # -- users ------------------------------------------------------------------------
    async def list_recordings(
        self, request: api.ListRecordings, caller: Caller
    ) -> api.RecordingList:
        """Return a page of recordings, newest first."""
        own = await self._authorizer.visible_user(caller, "recording", "list")
        if own is not None:
            judge = await self._authorizer.judge_if_any(caller, "recording", "list")
            if judge is not None and not request.command:
                mine = await self._authorizer.since(caller)
                return await self._recordings.list(
                    request,
                    lambda row: (
                        (row.user == own and received_at(row) >= mine) or judge(row) is None
                    ),
                )
            if request.user not in ("", own):
                raise AccessDenied(
                    f"denied: listing the recordings of {quoted(request.user)} needs a rule for"
                    " recording",
                    Reason.RULE.value,
                )
            since = await self._authorizer.since(caller)
            since = since if request.since is None else max(since, request.since)
            request = evolve(request, user=own, since=since)
        if request.command:
            return await self._with_command(request, caller)
        return await self._recordings.list(request)

    async def _with_command(self, request: api.ListRecordings, caller: Caller) -> api.RecordingList:
        """List by a command: what was typed is content, for which listing is not enough."""
        own = await self._authorizer.visible_user(caller, "recording", "read")
        if own is not None and request.user not in ("", own):
            raise AccessDenied(
                f"denied: the commands of {quoted(request.user)} need a rule for recording",
                Reason.RULE.value,
            )
        begun = None if own is None else await self._authorizer.since(caller)
        limit = min(request.limit, COMMAND_PAGE)
        rows, mark = await self._recordings.texts.with_command(
            request, own, begun, limit, user_caller(caller).user
        )
        for row in rows:
            await self._note_access(row, caller)
        return api.RecordingList(tuple(rows), mark)

    async def search_recordings(self, request: SearchRecordings, caller: Caller) -> SearchResult:
        """Find a text in recordings; each recording of which a line is shown counts as read."""
        own = await self._authorizer.visible_user(caller, "recording", "read")
        if own is not None and request.user not in ("", own):
            raise AccessDenied(
                f"denied: searching in recordings of {quoted(request.user)} needs a rule for"
                " recording",
                Reason.RULE.value,
            )
        begun = None if own is None else await self._authorizer.since(caller)
        result, rows = await self._recordings.texts.search(
            request, own, begun, user_caller(caller).user
        )
        for row in rows:
            await self._note_access(row, caller)
        if own is None and not request.after and self._recordings.indexes is not None:
            waiting, failed = await self._recordings.indexes.without()
            keys = self._recordings.keys
            sealed = not keys.searchable and bool(await keys.sealed(""))
            result = evolve(result, waiting=waiting, failed=failed, sealed=sealed)
        return result

    async def _readable(self, recording_id: str, caller: Caller) -> Recording:
        row = await self._recordings.get(recording_id)
        own = await self._authorizer.visible_user(caller, "recording", "read")
        if own is not None:
            owner = row.user
            if owner == own and received_at(row) < await self._authorizer.since(caller):
                owner = f"an earlier user {row.user}"
            judge = await self._authorizer.judge(caller, "recording", "read")
            if owner != own and judge(row) is not None:
                raise AccessDenied(
                    f"denied: recording {row.id} is of {owner}; reading it needs a rule for"
                    " recording",
                    Reason.RULE.value,
                )
        return row

    async def _note_access(self, row: Recording, caller: Caller) -> None:
        """Emit one event for all reads of a recording within :data:`ACCESS_SECONDS`."""
        moment = self._clock.seconds()
        user = user_caller(caller)
        key = (user.user, user.login_session, row.id)
        # The oldest come first.
        while self._accessed and moment - next(iter(self._accessed.values())) >= ACCESS_SECONDS:
            del self._accessed[next(iter(self._accessed))]
        if key in self._accessed:
            return
        await self._journal.emit("recording.access", caller, session_id=row.id, of_user=row.user)
        self._accessed.pop(key, None)
        self._accessed[key] = moment

    async def get_recording(self, request: ById, caller: Caller) -> api.RecordingDetails:
        """Return one recording, with its manifest."""
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)
        state = await state_of(row, self._recordings, self._hosts)
        return await self._recordings.details(row, state, counted_as(user_caller(caller)))

    async def get_recording_keys(self, request: ById, caller: Caller) -> api.OpenedKeys:
        """Open the data keys of a sealed recording for one who may read it."""
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)
        keys = await self._recordings.keys.opened(row.id)
        return api.OpenedKeys(tuple(api.OpenedKey(*each) for each in sorted(keys.items())))

    async def get_chunk(self, request: api.GetChunk, caller: Caller) -> Octets:
        """Return one chunk."""
        if isinstance(caller.identity, HostIdentity):
            host = host_caller(caller)
            return Octets(await self._uploads.own_chunk(host, request.id, request.number))
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)  # get_recording may not have been called before
        data = await self._recordings.chunk(row, request.number)
        if request.start == request.end == 0:
            return Octets(data)
        tag = digest(data).hex()
        if request.if_range not in ("", tag):
            return Octets(data, 0, len(data), tag)
        first, last, _ = slice(request.start, request.end or None).indices(len(data))
        return Octets(data[first:last], first, len(data), tag)

    async def get_index(self, request: api.GetIndex, caller: Caller) -> Octets:
        """Return a recording's index: it has the commands and screens of the session."""
        row = await self._readable(request.id, caller)
        await self._note_access(row, caller)
        indexes = self._recordings.indexes
        if indexes is None:
            raise NotFound("this auth makes no indexes of recordings")
        return await indexes.part(row, request.start, request.end, request.if_range)


async def state_of(row: Recording, recordings: Recordings, hosts: Hosts) -> RecordingState:
    """Return the state of a recording, as auth knows it now."""
    if row.complete:
        return RecordingState.COMPLETE
    if row.incomplete:
        return RecordingState.INCOMPLETE
    if row.ended is not None:
        return RecordingState.ENDED
    online = hosts.is_online(*row.recorded_by)
    running = online and await recordings.sessions.is_running(row.id)
    return RecordingState.RUNNING if running else RecordingState.UNFINISHED
