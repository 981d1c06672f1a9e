"""Which sessions were recorded, and where are their bytes?

Rows are in the store, written when a session starts; chunks and the manifest are in the archive.
A row is found by id (``/recordings/rows/<id>``), by the time at which auth received it
(``/recordings/index/<milliseconds>-<id>``), by its user and that time
(``/recordings/of/<user>/<milliseconds>-<id>``) and, until its node has uploaded all of it, by that
node (``/recordings/open/<host>/<id>``).

Invariants:

* What hosts write of them goes through :mod:`tele.auth.recording_uploads`.
* The order of the list is by auth's own clock.
* A recording is complete when its manifest is stored (:mod:`tele.auth.manifests`).
* A recording that was removed before it was complete stays removed: its node learns that it is
  closed and drops the rest (``/recordings/removed/<id>``, for as long as a start is accepted).
* A recording that cannot be completed is closed as incomplete (``close_incomplete``) and its
  session has ended. Its node may still complete it, unless it has sent a manifest with lost
  chunks; then nothing more is accepted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from attrs import evolve

from tele.auth.holds import Holds
from tele.auth.host_places import place_key
from tele.auth.manifests import MANIFEST, chunk_name, chunk_numbers
from tele.auth.proxied_sessions import ProxiedSessions
from tele.auth.recording_claims import BEHIND, TEXT_LIMIT, is_id
from tele.auth.recording_indexes import RecordingIndexes
from tele.auth.recording_keys import RecordingKeys
from tele.auth.recording_search import INDEX, OF_USER, every, received_at, search, stamp_of
from tele.auth.recording_texts import RecordingTexts
from tele.auth.repository import Repository
from tele.auth.running_sessions import Running, RunningSessions
from tele.errors import Conflict, InvalidInput, NotFound, quoted
from tele.https.large_json import LargeJson
from tele.interfaces import Delete, IArchive, IBackend, IUploadingArchive, Put
from tele.model.api.recordings import (
    IndexState,
    ListRecordings,
    RecordingDetails,
    RecordingList,
)
from tele.model.codec import decode
from tele.model.identity import HostIdentity
from tele.model.session import Manifest, Recording, RecordingState, Session

ROWS: Final = "/recordings/rows/"
OPEN: Final = "/recordings/open/"
REMOVED: Final = "/recordings/removed/"
#: Bytes of a manifest that cost as much as a name.
_NAME_SIZE: Final = 20


class Recordings:
    """The recordings of a cluster."""

    def __init__(
        self,
        backend: IBackend,
        archive: IArchive,
        now: Callable[[], datetime],
        indexes: RecordingIndexes | None = None,
        keys: RecordingKeys | None = None,
        large: LargeJson | None = None,
    ) -> None:
        #: Where manifests are read and written.
        self.large = large or LargeJson()
        self.keys = keys or RecordingKeys(backend)
        self._backend = backend
        self._archive = archive
        self._now = now
        self.rows = Repository(backend, ROWS, Recording)
        self.sessions = RunningSessions(backend, now)
        self.proxied = ProxiedSessions(backend)
        #: None: no indexes are made.
        self.indexes = indexes
        self.holds = Holds(backend)
        self.texts = RecordingTexts(None, self.find_by_id)

    async def reopen(self, session: Session) -> None:
        """Reopen a recording that auth closed while its node was away, unless it has a manifest."""
        recording_id = session.id
        entry = await self.rows.get(recording_id)
        if entry is None or not entry.value.incomplete or await self.has_manifest(recording_id):
            return
        row = evolve(entry.value, incomplete="", ended=None)
        with suppress(Conflict):  # another call did, or it was closed for good
            await self._backend.commit(
                self.rows.put(recording_id, row, if_revision=entry.revision),
                *self.sessions.start(evolve(session, interactive=row.interactive)),
                Put(open_key(row), b""),
            )
            self.sessions.started(session)

    async def close_incomplete(
        self, recording_id: str, reason: str, ended: datetime | None = None
    ) -> bool:
        """Close a recording as incomplete for ``reason``; returns whether it was open.

        ``ended`` is when the session ended, if that is known; else it ended now, unless its node
        has reported the end. Its node may still complete it. Raises :class:`NotFound`.
        """
        moment = self._now()
        news = False

        def closed(present: Recording | None) -> Recording:
            nonlocal news
            row = there(present)
            news = not row.complete and not row.incomplete
            if not news:
                return row
            end = row.ended or max(row.started, min(ended or moment, moment))
            return evolve(row, incomplete=reason[:TEXT_LIMIT], ended=end)

        row = await self.rows.change(recording_id, closed)
        await self.sessions.end(recording_id)
        waits = () if self.indexes is None or not news else (self.indexes.wait(row),)
        await self._backend.commit(Delete(open_key(row)), *waits)
        if self.indexes is not None:
            self.indexes.check()
        return news

    async def has_manifest(self, recording_id: str) -> bool:
        """Whether its host has closed a recording."""
        return any(name == MANIFEST for name, _ in await self._archive.names(recording_id))

    async def is_closed(self, row: Recording) -> bool:
        """Whether there is a manifest: nothing more is taken."""
        return row.complete or bool(row.incomplete and await self.has_manifest(row.id))

    # -- users ------------------------------------------------------------------------
    async def find(self, recording_id: str) -> Recording | None:
        """Return a row, if it is there."""
        entry = await self.rows.get(recording_id) if is_id(recording_id) else None
        return None if entry is None else entry.value

    async def find_many(self, ids: Sequence[str]) -> Sequence[Recording]:
        """Return the rows that are there."""
        return [entry.value for entry in await self.rows.get_many(ids)]

    async def find_by_id(self, recording_ids: Sequence[str]) -> dict[str, Recording]:
        """Return the rows of those that are there, by their ids."""
        return {row.id: row for row in await self.find_many(list(dict.fromkeys(recording_ids)))}

    async def get(self, recording_id: str) -> Recording:
        """Return a row. Raises :class:`NotFound`."""
        row = await self.find(recording_id)
        if row is None:
            raise NotFound(f"no recording {quoted(recording_id)}; tele recordings ls shows them")
        return row

    async def list(
        self, request: ListRecordings, shown: Callable[[Recording], bool] = every
    ) -> RecordingList:
        """Return a page; see :func:`tele.auth.recording_search.search`."""
        return await search(self._backend, self.rows, request, shown)

    async def running(self, user: str | None = None) -> Sequence[Running]:
        """Return sessions that have not ended, oldest first; of one ``user`` if given."""
        if user is None:
            return await self.sessions.all()
        return await self.sessions.of_user(user)

    async def details(
        self, row: Recording, state: RecordingState, caller: str = ""
    ) -> RecordingDetails:
        """Return a recording with its state, its manifest and its missing chunks.

        ``caller`` is for whom: a large manifest is read in a thread.
        """
        names = [name for name, _ in await self._archive.names(row.id)]
        data = await self._archive.get(row.id, MANIFEST) if MANIFEST in names else None
        size = len(data or b"") + len(names) * _NAME_SIZE
        details = await self.large.call(caller, size, _details, row, state, names, data)
        index = IndexState.NONE
        if self.indexes is not None:
            index, _ = await self.indexes.state(row.id, names)
        return evolve(details, index=index, keys=await self.keys.wrapped(row.id))

    async def chunk(self, row: Recording, number: int) -> bytes:
        """Return one chunk's bytes."""
        return await self._archive.get(row.id, chunk_name(number))

    async def delete(
        self, row: Recording, commit: Callable[[Sequence[Put | Delete]], Awaitable[None]]
    ) -> None:
        """Remove a recording. ``commit`` commits the last changes with the event about it.

        Raises :class:`Conflict` if it is held.
        """
        await self.holds.begin_removal(row.id)
        await self.texts.remove(row.id)
        await self._archive.remove(row.id)
        await self.sessions.end(row.id)
        removals = await self.holds.end_of_removal(row.id)
        await commit(
            [
                self.rows.delete(row.id),
                self.keys.removal(row.id),
                *removals,
                *(Delete(key) for key in (open_key(row), *index_keys(row))),
                *(() if self.indexes is None else self.indexes.forget(row.id)),
                # Its node may not know that the recording was complete, and send it again.
                Put(REMOVED + row.id, place_key(row.recorded_by).encode(), ttl=BEHIND),
            ]
        )
        if not row.complete:
            await self._archive.remove(row.id)  # a chunk may have arrived meanwhile

    @property
    def uploading(self) -> IUploadingArchive | None:
        """What the archive can do beside storing, if it uploads."""
        return uploading_archive(self._archive)

    async def was_removed(self, host: HostIdentity, recording_id: str) -> bool:
        """Whether a recording of ``host`` was removed."""
        item = await self._backend.get(REMOVED + recording_id)
        return item is not None and item.value == place_key(host.place).encode()


def _details(
    row: Recording, state: RecordingState, names: Sequence[str], data: bytes | None
) -> RecordingDetails:
    """In a thread: return what the names of a recording's blobs, and its manifest, state."""
    manifest, problem = None, ""
    if data is not None:
        try:
            manifest = decode(Manifest, data)
        except InvalidInput as error:  # a reader has to learn of it
            problem = str(error)
    numbers = chunk_numbers(names)
    expected = range(numbers[-1] + 1) if numbers else range(0)
    if manifest is not None:
        expected = range(len(manifest.chunks))
    missing = tuple(sorted(set(expected) - set(numbers)))
    return RecordingDetails(row, len(numbers), manifest, state, missing, problem)


def uploading_archive(archive: IArchive) -> IUploadingArchive | None:
    """Return what an archive that uploads can do beside storing; None for another one."""
    found: Any = IUploadingArchive(archive, None)
    uploading: IUploadingArchive | None = found
    return uploading


def open_key(row: Recording) -> str:
    """Return the key that exists until its host has uploaded a recording."""
    return f"{OPEN}{place_key(row.recorded_by)}/{row.id}"


def index_keys(row: Recording) -> tuple[str, str]:
    """Return the keys by which a recording is found by its time, and by its user and that."""
    stamp = f"{stamp_of(received_at(row))}-{row.id}"
    return f"{INDEX}{stamp}", f"{OF_USER}{row.user}/{stamp}"


def there(row: Recording | None) -> Recording:
    """Return a row that has to exist. Raises :class:`NotFound`."""
    if row is None:
        raise NotFound("no such recording")
    return row
