"""Which sessions were recorded, and where are their bytes?

Rows are in the store, written when a session starts; chunks and the manifest are in the
archive. A row is found by id (``/recordings/rows/<id>``), by the time when auth heard of it
(``/recordings/index/<milliseconds>-<id>``) and by its user, in that order
(``/recordings/of/<user>/<milliseconds>-<id>``), and as long as its node owes some of it, by that
node (``/recordings/open/<host id>/<id>``). ``/sessions/<id>`` and
``/sessions-of/<user>/<id>`` are there while it runs: what a person has costs a look at that.

Invariants:

* Only the host that started a recording writes to it.
* Which node it is, and what that is called, is auth's own knowledge; so is the time at which
  auth heard of a session, and the order of the list.
* The same chunk again is accepted, another one under its number refused: what was
  acknowledged never changes.
* A recording is complete when a manifest is there that its host signed, that is of the session
  that started, and that names exactly the chunks that are there.
* What was removed before it was complete does not come back: its node is told that it is closed,
  and lets go of the rest (``/recordings/removed/<id>``, for as long as a start is taken).
* A recording that cannot be completed is closed as incomplete (``close_incomplete``), and does
  not run any more. Its node may still complete it, unless it has said in a manifest which
  chunks are lost; then nothing more is taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final

from attrs import evolve

from tele.auth.recording_claims import (
    BEHIND,
    TEXT_LIMIT,
    check_claims,
    check_end_date,
    check_start_date,
    is_id,
)
from tele.auth.recording_search import (
    INDEX,
    OF_USER,
    Running,
    RunningSessions,
    mark_of,
    received_at,
    search,
    stamp_of,
)
from tele.auth.repository import Repository
from tele.errors import (
    AccessDenied,
    BadRecording,
    Conflict,
    InvalidInput,
    NotFound,
    quoted,
)
from tele.interfaces import Delete, IArchive, IBackend, Put
from tele.model.api.recordings import (
    ListRecordings,
    RecordingDetails,
    RecordingList,
    RecordingProgress,
    UpdateRecording,
)
from tele.model.codec import decode, encode
from tele.model.identity import HostIdentity
from tele.model.session import Manifest, Recording, RecordingStart, RecordingState, Session
from tele.recording.proof import check_signer, check_start
from tele.tape.verify import VERSIONS

ROWS: Final = "/recordings/rows/"
OPEN: Final = "/recordings/open/"
REMOVED: Final = "/recordings/removed/"
SESSIONS: Final = "/sessions/"
SESSIONS_OF: Final = "/sessions-of/"
MANIFEST: Final = "manifest"
CHUNK_SUFFIX: Final = ".chunk"
#: Lost chunks that a recording can be closed with: more are no recording.
MISSING_LIMIT: Final = 100_000
_NEVER: Final = datetime(2000, 1, 1, tzinfo=UTC)
#: How often the sessions that run are counted anew when a node seems to have too many, and for
#: how long one whose end nobody ever told counts as running there.
COUNT_AGAIN: Final = timedelta(seconds=30)
COUNTS_FOR: Final = timedelta(days=7)


def chunk_name(number: int) -> str:
    """Return the archive's name of a chunk."""
    return f"{number:08d}{CHUNK_SUFFIX}"


class Recordings:
    """The recordings of a cluster."""

    def __init__(
        self,
        backend: IBackend,
        archive: IArchive,
        now: Callable[[], datetime],
        host_authorities: Callable[[], Collection[bytes]],
    ) -> None:
        self._backend = backend
        self._archive = archive
        self._now = now
        self._host_authorities = host_authorities
        self._rows = Repository(backend, ROWS, Recording)
        self._sessions = Repository(backend, SESSIONS, Session)
        self._list_of_running = RunningSessions(backend, self._sessions)
        self._running: Counter[str] = Counter()
        self._counted = _NEVER

    # -- hosts ------------------------------------------------------------------------
    async def is_below_limit(self, host_id: str, limit: int) -> bool:
        """Whether fewer than ``limit`` sessions of a node run."""
        moment = self._now()
        if self._running[host_id] >= limit and abs(moment - self._counted) >= COUNT_AGAIN:
            # Some may have ended at another auth on this store, or never told that they did.
            self._counted = moment
            since = moment - COUNTS_FOR
            recent = (
                each.session
                for each in await self._list_of_running.all()
                if received_at(each.session) > since
            )
            self._running = Counter(session.node_id for session in recent)
        return self._running[host_id] < limit

    async def start(
        self, host: HostIdentity, recording_id: str, start: RecordingStart, name: str
    ) -> bool:
        """A session starts on ``host``, called ``name``; returns whether this is news."""
        check_claims(host, recording_id, start)
        if await self.find(recording_id) is None:
            if await self._was_removed(host, recording_id):
                return False
            check_start_date(start.started, self._now())
        row = Recording(
            id=recording_id,
            kind=start.kind,
            user=start.user,
            login=start.login,
            node=name,
            started=start.started,
            ended=None,
            interactive=False,
            size=0,
            node_id=host.host_id,
            received=self._now(),
        )
        session = Session(
            recording_id, start.user, start.login, name, host.host_id, start.remote_addr,
            start.started, start.login_session, received=row.received,
        )  # fmt: skip
        try:
            await self._backend.commit(
                self._rows.put(recording_id, row, if_revision=0),
                self._sessions.put(recording_id, session),
                Put(_running_key(row.user, row.id), b""),
                Put(open_key(row), b""),
                *(Put(key, b"") for key in _index_keys(row)),
            )
        except Conflict:
            known = await self._own(host, recording_id)
            try:
                check_start(known, start, start.node)
            except BadRecording as error:
                raise Conflict(f"the recording was started before: {error}") from None
            if known.incomplete:
                await self.reopen(session)
            return False
        self._running[host.host_id] += 1
        return True

    async def reopen(self, session: Session) -> None:
        """Its node goes on with what was closed in its absence, if it was not closed for good."""
        recording_id = session.id
        kept = await self._rows.get(recording_id)
        if kept is None or not kept.value.incomplete or await self._has_manifest(recording_id):
            return
        row = evolve(kept.value, incomplete="", ended=None)
        with suppress(Conflict):  # another call did, or it was closed for good
            await self._backend.commit(
                self._rows.put(recording_id, row, if_revision=kept.revision),
                self._sessions.put(recording_id, evolve(session, interactive=row.interactive)),
                Put(_running_key(row.user, row.id), b""),
                Put(open_key(row), b""),
            )
            self._running[row.node_id] += 1

    async def _own(self, host: HostIdentity, recording_id: str) -> Recording:
        row = await self.find(recording_id)
        if row is None:
            raise NotFound("no such recording")
        if row.node_id != host.host_id:
            raise AccessDenied("this is another host's recording", "host")
        return row

    async def update(self, host: HostIdentity, request: UpdateRecording) -> None:
        """A session got a terminal, or ended."""
        await self._own(host, request.id)
        moment = self._now()

        def changed(present: Recording | None) -> Recording:
            row = _there(present)
            ended = request.ended and max(row.started, min(request.ended, moment))
            return evolve(
                row,
                interactive=row.interactive or (request.interactive and not row.complete),
                ended=row.ended or ended,
            )

        await self._rows.change(request.id, changed)
        running = await self._sessions.get(request.id)
        if running is None:
            return
        if request.ended is not None:
            await self._ended(request.id)
        elif request.interactive and not running.value.interactive:
            session = evolve(running.value, interactive=True)
            with suppress(Conflict):  # it ended meanwhile
                await self._backend.commit(
                    self._sessions.put(request.id, session, running.revision)
                )

    async def put_chunk(
        self, host: HostIdentity, recording_id: str, number: int, data: bytes
    ) -> Recording:
        """Store one chunk, durably, before it is acknowledged; returns its recording."""
        row = await self._own(host, recording_id)
        if await self._is_closed(row):
            try:
                present = await self._archive.get(recording_id, chunk_name(number))
            except NotFound:
                present = None
            if present != data:
                raise Conflict("the recording is closed")
            return row
        await self._archive.put(recording_id, chunk_name(number), data)

        def counted(present: Recording | None) -> Recording:
            row = _there(present)
            if number != row.chunks:
                return row
            return evolve(row, chunks=number + 1, size=row.size + len(data))

        if number == row.chunks:  # they come in order; the manifest corrects what does not
            return await self._rows.change(recording_id, counted)
        return row

    async def finish(
        self, host: HostIdentity, manifest: Manifest, missing: tuple[int, ...] = ()
    ) -> bool:
        """Close a recording; returns whether this is news.

        Chunks that are ``missing`` for good make it incomplete.
        """
        row = await self._own(host, manifest.id)
        data = encode(manifest)
        if await self._is_closed(row):
            if await self._archive.get(manifest.id, MANIFEST) != data:
                raise Conflict("the recording is closed")
            if row.complete or row.incomplete:
                return False
        self._check_manifest(host, row, manifest)
        stored = await self._check_chunks(manifest, missing)
        await self._archive.put(manifest.id, MANIFEST, data)
        incomplete = _lost(missing) if missing else ""

        def closed(present: Recording | None) -> Recording:
            return evolve(
                _there(present),
                complete=not incomplete,
                incomplete=incomplete,
                ended=manifest.ended,
                interactive=manifest.interactive,
                chunks=len(manifest.chunks),
                size=sum(stored),
            )

        await self._rows.change(manifest.id, closed)
        await self._ended(manifest.id)
        await self._backend.commit(Delete(open_key(row)))
        return True

    async def close_incomplete(
        self, recording_id: str, reason: str, ended: datetime | None = None
    ) -> bool:
        """Close a recording that nobody will complete, and say why; returns whether this is news.

        ``ended`` is when the session ended, if that is known; else it is now, unless its node
        said it. The session does not run any more. Its node may still come back and complete
        it. Raises :class:`NotFound`.
        """
        moment = self._now()
        news = False

        def closed(present: Recording | None) -> Recording:
            nonlocal news
            row = _there(present)
            news = not row.complete and not row.incomplete
            if not news:
                return row
            end = row.ended or max(row.started, min(ended or moment, moment))
            return evolve(row, incomplete=reason[:TEXT_LIMIT], ended=end)

        row = await self._rows.change(recording_id, closed)
        await self._ended(recording_id)
        await self._backend.commit(Delete(open_key(row)))
        return news

    async def _has_manifest(self, recording_id: str) -> bool:
        return any(name == MANIFEST for name, _ in await self._archive.names(recording_id))

    async def _is_closed(self, row: Recording) -> bool:
        """Whether there is a manifest: nothing more is taken."""
        return row.complete or bool(row.incomplete and await self._has_manifest(row.id))

    async def _ended(self, recording_id: str) -> None:
        running = await self._sessions.get(recording_id)
        if running is not None:
            await self._backend.commit(
                self._sessions.delete(recording_id),
                Delete(_running_key(running.value.user, recording_id)),
            )
            self._running[running.value.node_id] -= 1

    def _check_manifest(self, host: HostIdentity, row: Recording, manifest: Manifest) -> None:
        if manifest.version not in VERSIONS:
            raise InvalidInput(f"manifests of version {manifest.version} are not known here")
        if manifest.ended < manifest.start.started:
            raise InvalidInput("the recording ends before it starts")
        check_end_date(manifest.ended, row.received or row.started, self._now())
        if [c.number for c in manifest.chunks] != list(range(len(manifest.chunks))):
            raise InvalidInput("the manifest does not number its chunks from 0 without gaps")
        try:
            # It may be closed long after it was made: what counts is that the certificate
            # was good when the recording ended, and whose key signed.
            signer = check_signer(manifest, self._host_authorities(), host.cluster)
            check_start(row, manifest.start, signer.name)
        except BadRecording as error:
            raise InvalidInput(str(error)) from None

    async def _check_chunks(self, manifest: Manifest, missing: tuple[int, ...]) -> list[int]:
        """Check all chunks that are here against the manifest; returns their sizes."""
        if len(missing) > MISSING_LIMIT:
            raise InvalidInput(f"more than {MISSING_LIMIT} chunks are missing")
        stored = {
            name: size
            for name, size in await self._archive.names(manifest.id)
            if name.endswith(CHUNK_SUFFIX)
        }
        named = {chunk_name(chunk.number): chunk for chunk in manifest.chunks}
        lost = {chunk_name(number) for number in missing}
        if len(lost) != len(missing) or lost - set(named):
            raise InvalidInput("a chunk is said to be missing twice, or is not in the manifest")
        if here := sorted(lost & set(stored)):
            # What was acknowledged cannot be given up later by whoever got hold of the host.
            raise InvalidInput(f"{here[0]} is said to be missing, and is here")
        if gone := sorted(set(named) - set(stored) - lost):
            raise NotFound(f"{gone[0]}, which the manifest names, is not here")
        if extra := sorted(set(stored) - set(named)):
            raise InvalidInput(f"the manifest leaves out {extra[0]}, which is here")
        for name, chunk in named.items():
            if name in lost:
                continue
            data = await self._archive.get(manifest.id, name)
            if len(data) != chunk.size or hashlib.sha256(data).hexdigest() != chunk.sha256:
                raise InvalidInput(f"chunk {chunk.number} is not the one that the manifest names")
        return [chunk.size for name, chunk in named.items() if name not in lost]

    async def progress(self, host: HostIdentity, recording_id: str) -> RecordingProgress:
        """Which chunks are stored already."""
        if await self._was_removed(host, recording_id):
            return RecordingProgress((), complete=False, closed=True)
        row = await self._own(host, recording_id)
        names = [name for name, _ in await self._archive.names(recording_id)]
        closed = bool(row.incomplete) and MANIFEST in names
        return RecordingProgress(tuple(_numbers(names)), row.complete, closed)

    async def own_chunk(self, host: HostIdentity, recording_id: str, number: int) -> bytes:
        """Return a chunk to the node that sent it, which goes on after it while it is open.

        What is closed is no business of the node's any more, and of whoever gets hold of it.
        """
        row = await self._own(host, recording_id)
        if await self._is_closed(row):
            raise AccessDenied("the recording is closed", "host")
        return await self.chunk(row, number)

    # -- people -----------------------------------------------------------------------
    async def find(self, recording_id: str) -> Recording | None:
        """Return a row, if it is there."""
        kept = await self._rows.get(recording_id) if is_id(recording_id) else None
        return None if kept is None else kept.value

    async def get(self, recording_id: str) -> Recording:
        """Return a row. Raises :class:`NotFound`."""
        row = await self.find(recording_id)
        if row is None:
            raise NotFound("no such recording; tele recordings ls shows them")
        return row

    async def is_running(self, recording_id: str) -> bool:
        """Whether nobody has said yet that a session ended."""
        return await self._sessions.get(recording_id) is not None

    async def list(self, request: ListRecordings) -> RecordingList:
        """Return a page; see :func:`tele.auth.recording_search.search`."""
        return await search(self._backend, self._rows, request)

    async def session(self, session_id: str) -> Session:
        """Return a session that runs. Raises :class:`NotFound`."""
        kept = await self._sessions.get(session_id) if is_id(session_id) else None
        if kept is None:
            raise NotFound(
                f"no such session runs: {quoted(session_id)}; tele sessions ls shows those that do"
            )
        return kept.value

    async def running(self, user: str | None = None) -> Sequence[Running]:
        """Return sessions that have not ended, oldest first; of one ``user`` if given."""
        if user is None:
            return await self._list_of_running.all()
        prefix = f"{SESSIONS_OF}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        names = [item.key.removeprefix(prefix) for item in items]
        kept = await self._sessions.get_many(names)
        found = [Running(each.revision, mark_of(each.value), each.value) for each in kept]
        return sorted(found, key=attrgetter("mark"))

    async def details(self, row: Recording, state: RecordingState) -> RecordingDetails:
        """Return all that is known of a recording."""
        names = [name for name, _ in await self._archive.names(row.id)]
        manifest = None
        if MANIFEST in names:
            manifest = decode(Manifest, await self._archive.get(row.id, MANIFEST))
        numbers = _numbers(names)
        ought = range(numbers[-1] + 1) if numbers else range(0)
        if manifest is not None:
            ought = range(len(manifest.chunks))
        missing = tuple(sorted(set(ought) - set(numbers)))
        return RecordingDetails(row, len(numbers), manifest, state, missing)

    async def chunk(self, row: Recording, number: int) -> bytes:
        """Return one chunk's bytes."""
        return await self._archive.get(row.id, chunk_name(number))

    async def delete(
        self, row: Recording, on_record: Callable[[Sequence[Put | Delete]], Awaitable[None]]
    ) -> None:
        """Remove a recording. ``on_record`` commits the last changes with the event about it."""
        await self._archive.remove(row.id)
        await self._ended(row.id)
        await on_record(
            [
                self._rows.delete(row.id),
                *(Delete(key) for key in (open_key(row), *_index_keys(row))),
                # Its node may not know yet that auth had all of it, and send it again.
                Put(REMOVED + row.id, row.node_id.encode(), ttl=BEHIND),
            ]
        )
        if not row.complete:
            await self._archive.remove(row.id)  # its node may have sent a chunk meanwhile

    async def _was_removed(self, host: HostIdentity, recording_id: str) -> bool:
        """Whether a recording of ``host`` was removed."""
        item = await self._backend.get(REMOVED + recording_id)
        return item is not None and item.value == host.host_id.encode()


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of the chunks among the names of an archive, in order."""
    return sorted(int(n.partition(".")[0]) for n in names if n.endswith(CHUNK_SUFFIX))


def _lost(missing: tuple[int, ...]) -> str:
    """Return in words that chunks are lost."""
    shown = ", ".join(str(number) for number in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return f"chunks are lost: {shown}{more}"


def open_key(row: Recording) -> str:
    """Return the key that is there while a node owes this recording."""
    return f"{OPEN}{row.node_id}/{row.id}"


def _index_keys(row: Recording) -> tuple[str, str]:
    stamp = f"{stamp_of(received_at(row))}-{row.id}"
    return f"{INDEX}{stamp}", f"{OF_USER}{row.user}/{stamp}"


def _running_key(user: str, recording_id: str) -> str:
    return f"{SESSIONS_OF}{user}/{recording_id}"


def _there(row: Recording | None) -> Recording:
    if row is None:
        raise NotFound("no such recording")
    return row
