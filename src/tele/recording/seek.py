"""How does a player begin in the middle of a long recording? At a keyframe of its index.

Invariants:

* Each chunk that is read is the one that the manifest names: only the screen of a keyframe is taken
  on trust of auth's index.
* No more is read than the tables, one keyframe, and the chunks from it on.
* Without an index, or with one that cannot be read, a recording is played from its beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Protocol

from attrs import frozen

from tele.errors import BadRecording, InvalidInput, NotFound
from tele.model.api.recordings import GET_CHUNK, GET_INDEX, GetChunk, GetIndex, IndexState
from tele.model.frame import Frame
from tele.model.session import Manifest
from tele.recording.playback import Perform, Source, Step, schedule
from tele.tape.examine import OpenChunk
from tele.tape.index import HEAD_SIZE, Index, Mark, read_index, read_state, tables_end
from tele.tape.layout import read_chunk
from tele.tape.placed import placed_frames

SECOND: Final = 1_000_000_000


@frozen
class Position:
    """Where to begin: a screen, and what follows.

    ``at`` is the time of the screen in seconds, not after the one that was asked for; ``state`` is
    fed to a blank terminal of ``columns`` and ``rows``. ``steps`` is what follows.
    """

    at: float
    columns: int
    rows: int
    newline: bool
    state: bytes
    steps: Iterator[Step]


class Seekable(Protocol):
    """A recording that can be played from any time. Times are in seconds."""

    @property
    def length(self) -> float:
        """The time of the last frame."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Commands and files, in order."""

    def position(self, at: float, channel: int = 0, idle_limit: float | None = None) -> Position:
        """Return where to begin for ``at``; channel 0 is the first one."""


@frozen
class IndexedRecording:
    """A recording at auth that has an index."""

    id: str
    index: Index
    manifest: Manifest
    missing: frozenset[int]
    perform: Perform
    open_chunk: OpenChunk = read_chunk

    @property
    def length(self) -> float:
        """See :class:`Seekable`."""
        return self.index.length / SECOND

    @property
    def marks(self) -> tuple[Mark, ...]:
        """See :class:`Seekable`."""
        return self.index.marks

    def position(self, at: float, channel: int = 0, idle_limit: float | None = None) -> Position:
        """See :class:`Seekable`. Raises :class:`BadRecording`."""
        channel = channel or self.index.main_channel()
        time = int(min(max(at, 0.0), self.length) * SECOND)
        keyframe = self.index.keyframe(channel, time)
        if keyframe is None:
            return self._from_opening(channel, idle_limit)
        first = self.index.states + keyframe.offset
        request = GetIndex(self.id, first, first + keyframe.packed)
        state = read_state(keyframe, self.perform(GET_INDEX, request).data)
        frames = self._frames(keyframe.chunk, keyframe.at)
        return Position(
            keyframe.time / SECOND, keyframe.columns, keyframe.rows, keyframe.newline, state,
            schedule(frames, channel, idle_limit, after=keyframe.time),
        )  # fmt: skip

    def has_terminal(self, channel: int) -> bool:
        """Whether the channel (0: the first one) has a terminal, which keyframes are of."""
        number = channel or self.index.main_channel()
        return any(each.terminal for each in self.index.channels if each.number == number)

    def _from_opening(self, channel: int, idle_limit: float | None) -> Position:
        """Begin where the channel was opened, with a blank screen."""
        found = next((each for each in self.index.channels if each.number == channel), None)
        opened = 0 if found is None else found.opened
        places = self.index.chunks
        at = bisect_left(places, opened, key=lambda each: each.last_time)
        number = places[at].number if at < len(places) else 0
        steps = schedule(self._frames(number, 0), channel, idle_limit)
        columns, rows = (found.columns, found.rows) if found is not None else (0, 0)
        newline = found is not None and not found.terminal
        return Position(opened / SECOND, columns or 80, rows or 24, newline, b"", steps)

    def _frames(self, number: int, at: int) -> Iterator[Frame]:
        """Yield frames from byte ``at`` of the frames of chunk ``number`` on."""
        last = 0
        for named in self.manifest.chunks[number:]:
            if named.number in self.missing:
                continue
            request = GetChunk(self.id, named.number)
            try:
                data: bytes = self.perform(GET_CHUNK, request).data
            except NotFound:
                raise BadRecording(f"chunk {named.number} is missing from the archive") from None
            chunk = self.open_chunk(data, named.number, None)
            if (len(data), chunk.digest.hex()) != (named.size, named.sha256):
                raise BadRecording(f"chunk {named.number} is not the one that the manifest names")
            begin = at if named.number == number else 0
            for _, frame in placed_frames(chunk, begin):
                if frame.time < last:
                    raise BadRecording(f"time runs backwards in chunk {named.number}")
                last = frame.time
                yield frame


def open_seekable(
    source: Source, perform: Perform | None, open_chunk: OpenChunk = read_chunk
) -> IndexedRecording | None:
    """Return ``source`` for seeking, or None if it has no index that can be read.

    ``perform`` is that of auth; a file has none.
    """
    details, manifest = source.details, source.manifest
    if perform is None or details is None or manifest is None:
        return None
    if details.index is not IndexState.READY:
        _ask_for(source.id, perform)
        return None
    try:
        head = perform(GET_INDEX, GetIndex(source.id, 0, HEAD_SIZE)).data
        index = read_index(perform(GET_INDEX, GetIndex(source.id, 0, tables_end(head))).data)
    except (NotFound, BadRecording):
        return None
    if any(each.number >= len(manifest.chunks) for each in index.chunks):
        return None  # it is of other chunks
    return IndexedRecording(
        source.id, index, manifest, frozenset(source.missing), perform, open_chunk
    )


def _ask_for(recording_id: str, perform: Perform) -> None:
    """Let auth make the index: a recording of an older version has none until it is asked for."""
    try:
        perform(GET_INDEX, GetIndex(recording_id, 0, HEAD_SIZE))
    except (NotFound, InvalidInput):
        return
