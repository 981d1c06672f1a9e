"""Where is the index of a recording in the archive, and is it still what auth stored?

The archive writes a blob once. An index that is made again has another name; which one counts, and
its SHA-256, is under ``/recordings/indexed/<id>``.

Invariant: an index that is not the one that auth stored is never given to a reader twice: what is
wrong is found by the first who opens it, or within :data:`CHECK_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from tele.auth.repository import Repository
from tele.errors import BadRecording, Conflict, NotFound
from tele.interfaces import Delete, IArchive, IBackend, IRangeArchive, Put
from tele.recording.indexing import Indexer
from tele.tape.index import HEAD_SIZE, MAGIC_SEALED, blob_size, read_index, read_state

INDEX: Final = "index"
INDEXED: Final = "/recordings/indexed/"
#: How long an index counts as good that was compared, and of how many that is known.
CHECK_SECONDS: Final = 3600.0
KNOWN_LIMIT: Final = 1000
#: Names of indexes of one recording: a disk that damages each of them is not written to for ever.
NAMES_LIMIT: Final = 20


@frozen
class IndexBlob:
    """The blob that is the index of a recording."""

    name: str
    sha256: str


class IndexBlobs:
    """The indexes in ``archive``. ``indexer`` has the thread in which they are compared."""

    def __init__(
        self, backend: IBackend, archive: IArchive, clock: IReactorTime, indexer: Indexer
    ) -> None:
        self._archive = archive
        self._clock = clock
        self._indexer = indexer
        self._blobs = Repository(backend, INDEXED, IndexBlob)
        self._checked: dict[str, float] = {}

    async def find(self, recording_id: str) -> IndexBlob:
        """Return where the index is; an earlier version of auth noted nothing."""
        entry = await self._blobs.get(recording_id)
        return IndexBlob(INDEX, "") if entry is None else entry.value

    async def part(self, recording_id: str, start: int, end: int) -> bytes:
        """Return bytes of the index. Raises :class:`tele.errors.NotFound`."""
        name = (await self.find(recording_id)).name
        archive: Any = IRangeArchive(self._archive, None)
        if archive is not None:
            data: bytes = await archive.get_range(recording_id, name, start, end)
            return data
        return (await self._archive.get(recording_id, name))[start:end]

    async def store(self, recording_id: str, names: Sequence[str], data: bytes) -> Put:
        """Store an index; returns the change by which it counts. ``names`` are in the archive."""
        sha256 = await self._indexer.digest(data)
        last = max((_number(each) for each in names if is_index(each)), default=-1)
        name = INDEX if last < 0 else f"{INDEX}.{last + 1}"
        if last >= NAMES_LIMIT:
            raise BadRecording("its indexes were damaged too often")
        try:
            await self._archive.put(recording_id, name, data)
        except Conflict:  # another auth is ahead
            raise BadRecording("its index was made twice at once") from None
        self._checked.pop(recording_id, None)
        return self._blobs.put(recording_id, IndexBlob(name, sha256))

    def forget(self, recording_id: str) -> Delete:
        """Return the change with the removal of a recording."""
        self._checked.pop(recording_id, None)
        return self._blobs.delete(recording_id)

    def is_due(self, recording_id: str) -> bool:
        """Whether an index that is opened has to be compared; counts as compared from now on."""
        moment = self._clock.seconds()
        if moment - self._checked.pop(recording_id, -CHECK_SECONDS) < CHECK_SECONDS:
            return False
        self._checked[recording_id] = moment
        if len(self._checked) > KNOWN_LIMIT:
            del self._checked[next(iter(self._checked))]
        return True

    async def is_good(self, recording_id: str) -> bool:
        """Whether the index is there, and as it was stored."""
        blob = await self.find(recording_id)
        try:
            data = await self._archive.get(recording_id, blob.name)
        except NotFound:
            return False
        if blob.sha256:
            return await self._indexer.digest(data) == blob.sha256
        try:
            await self._indexer.check(data, check_index)
        except BadRecording:
            return False
        return True


def is_index(name: str) -> bool:
    """Whether a blob's name is that of an index."""
    return name == INDEX or (name.startswith(f"{INDEX}.") and name[len(INDEX) + 1 :].isdecimal())


def _number(name: str) -> int:
    """Return which index of its recording it is, from 0."""
    return int(name.partition(".")[2] or 0)


def check_index(data: bytes) -> None:
    """Raise :class:`BadRecording` for an index of which a part cannot be read."""
    if len(data) != blob_size(data[:HEAD_SIZE]):
        raise BadRecording("the index is cut off")
    if data[:4] == MAGIC_SEALED:
        return  # has a digest always
    index = read_index(data)
    for each in index.keyframes:
        first = index.states + each.offset
        read_state(each, data[first : first + each.packed])
