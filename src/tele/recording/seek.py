"""How does a player begin in the middle of a long recording? At a keyframe of its index.

Invariants:

* Each chunk that is read is the one that the manifest names: only the screen of a keyframe is taken
  on trust of auth's index. Without a manifest each chunk names the one before, up to the last one,
  which the index names.
* No more is read than the tables, one keyframe, and the chunks from it on.
* Without an index, or with one that cannot be read or is of other chunks, a recording is played
  from its beginning; where a keyframe cannot be read, from an earlier one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Protocol

from attrs import frozen

from tele.errors import BadRecording, InvalidInput, NotFound
from tele.model.api.recordings import GET_CHUNK, GET_INDEX, GetChunk, GetIndex, IndexState
from tele.model.frame import Frame
from tele.model.session import Manifest, RecordingState
from tele.recording.playback import Perform, Source, Step, schedule
from tele.tape.index import HEAD_SIZE, Index, Keyframe, Mark, read_state, tables_end
from tele.tape.layout import read_chunk
from tele.tape.placed import placed_frames
from tele.tape.sealed_index import ReadState, read_any_index
from tele.tape.verify import OpenChunk

#: Bytes that are read to open an index; the rest of its tables, if they are longer, after that.
FIRST_PART: Final = 256 * 1024
#: Keyframes that are tried if one cannot be read.
KEYFRAMES_TRIED: Final = 3
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
    """A recording at auth that has an index. ``manifest`` is None if its host never closed it."""

    id: str
    index: Index
    manifest: Manifest | None
    missing: frozenset[int]
    perform: Perform
    open_chunk: OpenChunk = read_chunk
    read_state: ReadState = read_state

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
        for _ in range(KEYFRAMES_TRIED):
            if keyframe is None:
                break
            try:
                return self._from_keyframe(keyframe, idle_limit)
            except BadRecording:
                before = keyframe.time - 1
                keyframe = self.index.keyframe(channel, before) if before >= 0 else None
        return self._from_opening(channel, idle_limit)

    def _from_keyframe(self, keyframe: Keyframe, idle_limit: float | None) -> Position:
        """Begin with the screen of a keyframe. Raises :class:`BadRecording` if it is damaged."""
        first = self.index.states + keyframe.offset
        request = GetIndex(self.id, first, first + keyframe.packed)
        try:
            state = self.read_state(keyframe, self.perform(GET_INDEX, request).data)
        except NotFound:
            raise BadRecording("the index is being made again") from None
        frames = self._frames(keyframe.chunk, keyframe.at)
        return Position(
            keyframe.time / SECOND, keyframe.columns, keyframe.rows, keyframe.newline, state,
            schedule(frames, keyframe.channel, idle_limit, after=keyframe.time),
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
        before: tuple[int, bytes] | None = None
        for each in self._numbers(number):
            try:
                data: bytes = self.perform(GET_CHUNK, GetChunk(self.id, each)).data
            except NotFound:
                raise BadRecording(f"chunk {each} is missing from the archive") from None
            follows = before is not None and before[0] == each - 1
            chunk = self.open_chunk(data, each, before[1] if before and follows else None)
            self._check(each, len(data), chunk.digest)
            before = each, chunk.digest
            for _, frame in placed_frames(chunk, at if each == number else 0):
                if frame.time < last:
                    raise BadRecording(f"time runs backwards in chunk {each}")
                last = frame.time
                yield frame

    def _numbers(self, first: int) -> Iterator[int]:
        if self.manifest is None:
            return (place.number for place in self.index.chunks if place.number >= first)
        numbers = range(first, len(self.manifest.chunks))
        return (number for number in numbers if number not in self.missing)

    def _check(self, number: int, size: int, digest: bytes) -> None:
        """Raise :class:`BadRecording` for a chunk that is not the one that is to be there."""
        if self.manifest is None:
            if number == self.index.chunks[-1].number and digest != self.index.digest:
                raise BadRecording(f"chunk {number} is not the one that auth made the index of")
            return
        named = self.manifest.chunks[number]
        if (size, digest.hex()) != (named.size, named.sha256):
            raise BadRecording(f"chunk {number} is not the one that the manifest names")


def open_seekable(source: Source, perform: Perform | None) -> IndexedRecording | None:
    """Return ``source`` for seeking, or None if it has no index that can be read.

    ``perform`` is that of auth; a file has none.
    """
    details = source.details
    closed = source.manifest is not None or source.state is RecordingState.INCOMPLETE
    if perform is None or details is None or not closed:
        return None
    if details.index is not IndexState.READY:
        _ask_for(source.id, perform)
        return None
    try:
        data = perform(GET_INDEX, GetIndex(source.id, 0, FIRST_PART)).data
        if (end := tables_end(data[:HEAD_SIZE])) > len(data):
            data += perform(GET_INDEX, GetIndex(source.id, len(data), end)).data
        index, read = read_any_index(data, source.secrets, source.id)
    except (NotFound, BadRecording):
        return None
    if not is_of(index, source.manifest, source.missing):
        return None
    return IndexedRecording(
        source.id, index, source.manifest, frozenset(source.missing), perform, source.open_chunk,
        read,
    )  # fmt: skip


def is_of(index: Index, manifest: Manifest | None, missing: tuple[int, ...]) -> bool:
    """Whether an index was made of the chunks of a recording; some may be lost since."""
    if not index.chunks:
        return False
    if manifest is None:
        return True
    indexed = {each.number for each in index.chunks}
    named = {each.number: each.sha256 for each in manifest.chunks}
    last = index.chunks[-1].number
    complete = named.keys() - set(missing) <= indexed <= named.keys()
    return complete and named[last] == index.digest.hex()


def _ask_for(recording_id: str, perform: Perform) -> None:
    """Let auth make the index: a recording of an older version has none until it is asked for."""
    try:
        perform(GET_INDEX, GetIndex(recording_id, 0, HEAD_SIZE))
    except (NotFound, InvalidInput):
        return
