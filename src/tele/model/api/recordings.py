"""Operations on recordings."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Hosts, Nothing, Octets, Operation, Permitted, Users
from tele.model.api.paging import PAGE, ById
from tele.model.bounds import OMITTED, AtMost, Between
from tele.model.identity import HostRole
from tele.model.session import (
    Manifest,
    Recording,
    RecordingStart,
    RecordingState,
    WrappedKey,
)

#: Numbers of chunks.
CHUNK: Final = Between(0, 9_999_999)


@frozen
class StartRecording:
    """Said when the first channel opens; idempotent. ``keys`` are its data keys, wrapped."""

    id: str
    start: RecordingStart
    keys: tuple[WrappedKey, ...] = field(default=(), metadata=OMITTED)


@frozen
class UpdateRecording:
    """What changed since: ``interactive`` when a terminal was given; ``ended`` at the end;
    ``incomplete`` when its node cannot complete it, and why.
    """

    id: str
    interactive: bool = False
    ended: datetime | None = None
    incomplete: str = ""


@frozen
class PutChunk:
    """One chunk as stored. The same number with the same bytes is accepted again,
    with other bytes refused.
    """

    id: str
    number: int = field(validator=CHUNK)
    data: bytes


@frozen
class ChunkStored:
    """The chunk is stored. ``over`` says which limit the recording is over, or nothing: its node is
    to record less of it.
    """

    over: str = field(default="", metadata=OMITTED)


@frozen
class PutChunks:
    """Several chunks of the caller's recordings, at most 128; see :mod:`tele.recording.batch`."""

    data: bytes


@frozen
class StoredChunk:
    """One chunk of several is stored. ``over``: see :class:`ChunkStored`.

    If it is not, ``error`` says why, and ``kind`` and ``reason`` are those of an error of the API.
    """

    id: str
    number: int
    over: str = field(default="", metadata=OMITTED)
    error: str = field(default="", metadata=OMITTED)
    kind: str = field(default="", metadata=OMITTED)
    reason: str = field(default="", metadata=OMITTED)


@frozen
class ChunksStored:
    """The answer for each chunk, in order."""

    items: tuple[StoredChunk, ...]


@frozen
class FinishRecording:
    """All chunks are there; the manifest names them.

    ``missing`` are numbers of chunks that the manifest names and that are nowhere any more, in
    order; with any the recording is closed as incomplete.
    """

    id: str
    manifest: Manifest
    missing: tuple[int, ...] = ()


@frozen
class RecordingProgress:
    """Which chunk numbers auth has, for resuming; ``complete`` with the manifest.

    ``closed`` as incomplete with a manifest: nothing more is taken.
    """

    chunks: tuple[int, ...]
    complete: bool
    closed: bool = field(default=False, metadata=OMITTED)


@frozen
class OpenRecordings:
    """Ids of a node's sessions whose end was not reported."""

    ids: tuple[str, ...]


@frozen
class ListRecordings:
    """Recordings, newest first, optionally filtered; those of ``id``, the beginning of one, by id.

    ``node`` is a name, an id, or a pattern with ``*`` and ``?``; ``command`` a part of a command
    that was run, of closed recordings that have an index. ``since`` and ``until`` count by when
    auth received them. A page may have fewer than ``limit``, or none, and still say how to go on.
    """

    limit: int = field(default=200, validator=PAGE)
    after: str = ""
    id: str = ""
    user: str = ""
    node: str = field(default="", validator=AtMost(256))
    since: datetime | None = None
    until: datetime | None = None
    command: str = field(default="", validator=AtMost(200))


@frozen
class RecordingList:
    """``next`` continues the list."""

    items: tuple[Recording, ...]
    next: str = ""


@frozen
class GetChunk:
    """One chunk, by number from 0: all of it, or the bytes from ``start`` up to ``end``.

    ``end`` 0 is that of the chunk, a negative ``start`` counts from there. ``if_range`` is the
    digest of the chunk that a part is wanted of: if it is another one, all of it is sent.
    """

    id: str
    number: int = field(validator=CHUNK)
    start: int = 0
    end: int = 0
    if_range: str = ""


@frozen
class GetIndex:
    """The index of a recording, or the bytes from ``start`` up to ``end``, as in GetChunk."""

    id: str
    start: int = 0
    end: int = 0
    if_range: str = ""


class IndexState(str, Enum):
    """Whether a recording can be sought in: it has an index, will have one, or cannot have one.

    ``none``: it is not closed yet, or no reader has asked for one.
    """

    NONE = "none"
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"


@frozen
class RecordingDetails:
    """``manifest`` is None until its node has closed the recording; ``available`` counts chunks.

    ``keys`` are the data keys of a sealed recording, wrapped for those who may open it.

    ``missing`` are numbers of chunks that ought to be there and are not, in order: those that the
    manifest names; without one, those before the last that is there. ``manifest_error`` says why a
    manifest that is there cannot be read. ``index``: whether it has one.
    """

    recording: Recording
    available: int
    manifest: Manifest | None = None
    state: RecordingState = RecordingState.UNFINISHED
    missing: tuple[int, ...] = ()
    manifest_error: str = field(default="", metadata=OMITTED)
    index: IndexState = field(default=IndexState.NONE, metadata=OMITTED)
    keys: tuple[WrappedKey, ...] = field(default=(), metadata=OMITTED)

    @property
    def items(self) -> tuple[object, ...]:
        """What there may be very many of: chunks."""
        return self.missing if self.manifest is None else self.manifest.chunks


_RECORDERS = (Hosts((HostRole.NODE, HostRole.PROXY)),)
START_RECORDING = Operation(
    "start_recording",
    "PUT",
    "/v1/recordings/{id}",
    StartRecording,
    Nothing,
    _RECORDERS,
    "A session starts",
    cost=2,
)

UPDATE_RECORDING = Operation(
    "update_recording",
    "PATCH",
    "/v1/recordings/{id}",
    UpdateRecording,
    Nothing,
    _RECORDERS,
    "A session got a terminal, or ended",
    cost=2,
)

PUT_CHUNK = Operation(
    "put_chunk",
    "PUT",
    "/v1/recordings/{id}/chunks/{number}",
    PutChunk,
    ChunkStored,
    _RECORDERS,
    "Store one chunk of a recording",
    limit=8 * 1024 * 1024,
    timeout=timedelta(minutes=2),
    cost=4,
)

PUT_CHUNKS = Operation(
    "put_chunks",
    "POST",
    "/v1/chunks",
    PutChunks,
    ChunksStored,
    (Hosts((HostRole.NODE, HostRole.PROXY)),),
    "Store several chunks of recordings of the calling host, each answered for itself",
    limit=8 * 1024 * 1024,
    timeout=timedelta(minutes=2),
    cost=4,
)

FINISH_RECORDING = Operation(
    "finish_recording",
    "PUT",
    "/v1/recordings/{id}/manifest",
    FinishRecording,
    Nothing,
    _RECORDERS,
    "Close a recording with its signed manifest",
    limit=16 * 1024 * 1024,
    timeout=timedelta(minutes=5),
    cost=20,
)

RECORDING_PROGRESS = Operation(
    "recording_progress",
    "GET",
    "/v1/recordings/{id}/progress",
    ById,
    RecordingProgress,
    _RECORDERS,
    "Which chunks are stored already",
    cost=4,
)

OPEN_RECORDINGS = Operation(
    "open_recordings",
    "GET",
    "/v1/open-recordings",
    Nothing,
    OpenRecordings,
    _RECORDERS,
    "Which sessions of the calling node run, as far as auth knows",
    cost=10,
)

LIST_RECORDINGS = Operation(
    "list_recordings",
    "GET",
    "/v1/recordings",
    ListRecordings,
    RecordingList,
    (Permitted("recording", "list"), Users()),
    "Recordings, newest first; without a rule, one's own",
    cost=10,
)

GET_RECORDING = Operation(
    "get_recording",
    "GET",
    "/v1/recordings/{id}",
    ById,
    RecordingDetails,
    (Permitted("recording", "read"), Users()),
    "One recording; without a rule, one's own",
    cost=10,
)


@frozen
class OpenedKey:
    """The data key ``number`` of a recording, as it is."""

    number: int
    secret: bytes = field(repr=False)


@frozen
class OpenedKeys:
    """The data keys of a recording; none if it is not sealed."""

    keys: tuple[OpenedKey, ...]


GET_RECORDING_KEYS = Operation(
    "get_recording_keys",
    "GET",
    "/v1/recordings/{id}/keys",
    ById,
    OpenedKeys,
    (Permitted("recording", "read"), Users()),
    "The keys that a sealed recording is read with; without a rule, of one's own",
    cost=4,
)

GET_CHUNK = Operation(
    "get_chunk",
    "GET",
    "/v1/recordings/{id}/chunks/{number}",
    GetChunk,
    Octets,
    (Permitted("recording", "read"), Users(), *_RECORDERS),
    "One chunk; without a rule, of one's own; a node, of its own that is still open",
    cost=2,
    ranges=True,
)

GET_INDEX = Operation(
    "get_index",
    "GET",
    "/v1/recordings/{id}/index",
    GetIndex,
    Octets,
    (Permitted("recording", "read"), Users()),
    "The index of a recording, to seek in it; without a rule, of one's own",
    cost=4,
    ranges=True,
)
