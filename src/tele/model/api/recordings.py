"""Requests and responses about recordings."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import field, frozen

from tele.model.api.members import PAGE
from tele.model.bounds import Between
from tele.model.resources import OMITTED
from tele.model.session import Manifest, Recording, RecordingStart, RecordingState

#: Numbers of chunks.
CHUNK: Final = Between(0, 9_999_999)


@frozen
class StartRecording:
    """Said when the first channel opens; idempotent."""

    id: str
    start: RecordingStart


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
    """Ids of a node's sessions that nobody said the end of."""

    ids: tuple[str, ...]


@frozen
class ListRecordings:
    """Recordings, newest first, optionally filtered; those of ``id``, the beginning of one, by id.

    ``node`` is a name or an id. ``since`` and ``until`` count by when auth heard of them. A page
    may have fewer than ``limit``, or none, and still say how to go on.
    """

    limit: int = field(default=200, validator=PAGE)
    after: str = ""
    id: str = ""
    user: str = ""
    node: str = ""
    since: datetime | None = None
    until: datetime | None = None


@frozen
class RecordingList:
    """``next`` continues the list."""

    items: tuple[Recording, ...]
    next: str = ""


@frozen
class GetChunk:
    """One chunk, by number from 0."""

    id: str
    number: int = field(validator=CHUNK)


@frozen
class Octets:
    """Stored bytes."""

    data: bytes


@frozen
class RecordingDetails:
    """``manifest`` is None until its node has closed the recording; ``available`` counts chunks.

    ``missing`` are numbers of chunks that ought to be there and are not, in order: those that the
    manifest names; without one, those before the last that is there.
    """

    recording: Recording
    available: int
    manifest: Manifest | None = None
    state: RecordingState = RecordingState.UNFINISHED
    missing: tuple[int, ...] = ()
