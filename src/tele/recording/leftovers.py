"""What is left of an interrupted recording, and how does it continue?

Invariants:

* A chunk follows the one that it names; a chunk that auth acknowledged is always in the sequence.
* Numbers of frames that are nowhere are stated in a gap, unless a chunk that is known to be lost
  may have them.
* No recording has frames with numbers and others without.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, evolve, field, frozen

from tele.errors import BadRecording
from tele.model.codec import encode
from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.recording.spool import SpoolFolder, Stored, stored
from tele.tape.layout import NO_CHUNK, Chunk, read_chunk
from tele.tape.order import stated_ranges
from tele.tape.verify import OpenChunk
from tele.tape.writer import Packed, TapeWriter

STOPPED: Final = "the recorder ended before the session"
NOT_WRITTEN: Final = "the machine stopped before it was on the disk"


@frozen
class Here:
    """A chunk that is in the spool and can be read."""

    known: Stored
    previous: bytes
    terminal: bool


@frozen
class Left:
    """What the spool has of a recording: readable chunks, numbers of torn ones, and summaries of
    those that auth acknowledged.
    """

    chunks: Mapping[int, Here]
    torn: tuple[int, ...]
    acknowledged: Mapping[int, Stored]
    interactive: bool
    manifest: Manifest | None

    @property
    def is_numbered(self) -> bool | None:
        """Whether its frames have numbers; None if that is not known."""
        for known in (*(here.known for here in self.chunks.values()), *self.acknowledged.values()):
            return known.sequence is not None
        return None


def survey(folder: SpoolFolder) -> Left:
    """In a thread: read the spool, one chunk at a time. May raise OSError."""
    folder.repair()
    chunks: dict[int, Here] = {}
    torn: list[int] = []
    for number in folder.numbers():
        chunk = folder.read(number)
        if chunk is None:
            torn.append(number)
        else:
            chunks[number] = _here(*chunk)
    return Left(chunks, tuple(torn), folder.acknowledged(), folder.interactive, folder.manifest)


def _here(chunk: Chunk, known: Stored) -> Here:
    return Here(known, chunk.previous, any(_is_terminal(frame) for frame in chunk.frames()))


@define
class Chain:
    """The chunks of a recording in sequence. ``previous`` is None after a chunk whose digest is not
    known.
    """

    digests: list[ChunkDigest] = field(factory=list)
    previous: bytes | None = NO_CHUNK
    frames: int = 0
    time: int = 0
    sequence: int = 0
    finished: bool = False
    interactive: bool = False
    is_numbered: bool | None = None

    @property
    def next(self) -> int:
        """The number of the next chunk."""
        return len(self.digests)

    def read(self, here: Here) -> None:
        """Append a chunk from the spool or from auth; it has the digest of the one before."""
        if self.previous is None:
            before = self.digests[-1]
            self.digests[-1] = ChunkDigest(before.number, before.size, here.previous.hex())
        self.interactive = self.interactive or here.terminal
        self.known(here.known)

    def known(self, known: Stored, *, there: bool = True) -> None:
        """Append a chunk that auth has, or had."""
        self.digests.append(known.digest)
        self.previous = bytes.fromhex(known.digest.sha256)
        self.frames += known.frames if there else 0
        self.time = max(self.time, known.time)
        self.sequence = max(self.sequence, known.sequence or 0)
        self.is_numbered = known.sequence is not None
        self.finished = known.last

    def lost(self) -> None:
        """Append a chunk of which nothing is known."""
        self.digests.append(ChunkDigest(self.next, 0, ""))
        self.previous = None


async def follow(
    left: Left,
    there: frozenset[int],
    fetch: Callable[[int], Awaitable[bytes]],
    open_chunk: OpenChunk = read_chunk,
) -> Chain:
    """Return the sequence of chunks; auth has those in ``there``, and ``fetch`` reads one.

    Raises :class:`BadRecording` if a chunk at auth cannot be read.
    """
    chain = Chain()
    top = max((*there, *left.acknowledged), default=-1)
    while not chain.finished:
        number = chain.next
        here = left.chunks.get(number)
        if here is not None and chain.previous in (None, here.previous):
            chain.read(here)
        elif number in left.acknowledged:
            chain.known(left.acknowledged[number], there=number in there)
        elif number in there:
            data = await fetch(number)
            chunk = open_chunk(data, number, chain.previous)
            chain.read(_here(chunk, stored(chunk, len(data))))
        elif number < top:
            chain.lost()
        else:
            break
    return chain


def rest(
    writer: TapeWriter, start: RecordingStart, folder: SpoolFolder, left: Left, chain: Chain
) -> Iterator[Packed]:
    """Yield the chunks that end a recording: frames of later chunks, after a gap, and END.

    Each is written before the next is made. It never overwrites a chunk that is not read yet, since
    it holds the frames of at least one later chunk.
    """
    first = chain.next
    if first == 0:  # the first frame is missing, too
        writer.add(Frame(0, 0, FrameKind.START, encode(start)))
    later = sorted(number for number in left.chunks if number >= first)
    if (later and not writer.is_numbered) or (
        not later and any(number >= first for number in left.torn)
    ):
        writer.add(_gap(chain.time, writer.sequence, []))
    for number in later:
        found = folder.read(number)
        frames = [] if found is None else list(found[0].frames())
        after = numbered_after(frames, writer.sequence) if writer.is_numbered else frames
        for frame in after:
            is_new = writer.is_numbered or frame.time > chain.time
            if is_new and frame.kind not in (FrameKind.START, FrameKind.END):
                writer.add(evolve(frame, time=max(frame.time, chain.time)))
        here = left.chunks[number]
        chain.time = max(chain.time, here.known.time)
        chain.interactive = chain.interactive or here.terminal
        if writer.is_full and (cut := writer.cut()) is not None:
            yield cut
    writer.add(Frame(chain.time, 0, FrameKind.END, json.dumps({"reason": STOPPED}).encode()))
    end = writer.cut(last=True)
    if end is not None:
        yield end


def numbered_after(frames: Iterable[Frame], last: int) -> Iterator[Frame]:
    """Yield the frames of one chunk after number ``last``, with gaps for numbers that are nowhere.

    What was lost when the chunk was written is stated in it, right before the next frame.
    """
    gaps: list[Frame] = []
    for frame in frames:
        if frame.kind is FrameKind.GAP:
            gaps.append(frame)
        elif frame.kind not in UNNUMBERED:
            if frame.sequence > last:
                yield from _stated(gaps, last, frame.sequence - 1, frame.time)
                last = frame.sequence
                yield frame
            gaps = []
    if gaps:
        yield from _stated(gaps, last, max(last, gaps[-1].sequence), gaps[-1].time)


def _stated(gaps: Sequence[Frame], last: int, until: int, time: int) -> Iterator[Frame]:
    """Yield gaps that state each number after ``last`` up to ``until`` once."""
    kept, missing = [], [(last + 1, until)]
    for gap in gaps:
        try:
            ranges = stated_ranges(gap)
        except BadRecording:
            continue
        if all(any(a <= low <= high <= b for a, b in missing) for low, high in ranges):
            for low, high in ranges:
                parts = [part for a, b in missing for part in _without(a, b, low, high)]
                missing = parts
            kept.append(gap)
    missing = [(low, high) for low, high in missing if low <= high]
    if missing:
        yield _gap(min([time, *(gap.time for gap in kept)]), until, missing)
    yield from kept


def _without(a: int, b: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield what is left of the numbers ``a`` to ``b`` without ``low`` to ``high``."""
    if high < a or b < low:
        yield a, b
        return
    if a < low:
        yield a, low - 1
    if high < b:
        yield high + 1, b


def _gap(time: int, number: int, frames: list[tuple[int, int]]) -> Frame:
    body: dict[str, Any] = {"lost": {}, "reason": NOT_WRITTEN}
    if frames:
        body["frames"] = frames
    return Frame(time, 0, FrameKind.GAP, json.dumps(body).encode(), number)


def _is_terminal(frame: Frame) -> bool:
    """Whether a frame opens a channel that has a terminal."""
    if frame.kind is not FrameKind.OPEN:
        return False
    try:
        opened = json.loads(frame.data)
    except ValueError:
        return False
    return isinstance(opened, dict) and bool(opened.get("pty"))
