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
    """Sent when the first channel opens; idempotent."""

    id: str
    start: RecordingStart


@frozen
class UpdateRecording:
    """Changes of a recording: ``interactive`` when a terminal was opened, ``ended`` at the end,
    ``incomplete`` the reason if its node cannot complete it.
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
    """The chunk is stored. ``over`` is the limit that the recording is over, if any: its node has
    to record less of it.
    """

    over: str = field(default="", metadata=OMITTED)


@frozen
class FinishRecording:
    """All chunks are stored; the manifest names them.

    ``missing`` are the numbers of lost chunks that the manifest names, in order; with any the
    recording is closed as incomplete.
    """

    id: str
    manifest: Manifest
    missing: tuple[int, ...] = ()


@frozen
class RecordingProgress:
    """The numbers of the stored chunks, for resuming; ``complete`` with the manifest.

    ``closed``: incomplete, with a manifest; nothing more is accepted.
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

    ``node`` is a name or an id. ``since`` and ``until`` are times of receipt by auth. A page may
    have fewer than ``limit`` recordings, or none, and still have a ``next``.
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

    ``missing`` are the numbers of chunks that are not stored, in order, of those that the manifest
    names; without a manifest, of those before the last stored one.
    """

    recording: Recording
    available: int
    manifest: Manifest | None = None
    state: RecordingState = RecordingState.UNFINISHED
    missing: tuple[int, ...] = ()
