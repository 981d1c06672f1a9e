"""What is wrong with the chunks of a recording? All of it, each to its chunk.

:mod:`tele.tape.verify` stops at the first fault; this goes on, for a person who has to find out
what happened to a recording.

Invariants:

* What :func:`tele.tape.verify.verify` refuses has a fault here.
* A chunk is compared with the manifest by itself: one that is wrong is not blamed on its
  neighbours. What is in it is not read.
* Sealed chunks are checked as they are stored, and by their heads. What is in them is checked if
  they were opened, and else counted as not opened.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection

import attrs

from tele.errors import BadRecording, quoted
from tele.model.frame import Frame, FrameKind
from tele.model.session import Manifest, RecordingStart
from tele.tape.faults import FaultKind, Faults
from tele.tape.layout import NO_CHUNK, Chunk, ChunkHead, Facts, read_chunk, read_head
from tele.tape.order import SequenceCheck, named
from tele.tape.verify import VERSION, read_start

#: Opens a sealed chunk: its bytes, its number and the digest of the one before it, if known.
OpenChunk = Callable[[bytes, int, bytes | None], Chunk]


def session_text(start: RecordingStart) -> str:
    """Return which session this is, for a person."""
    return (
        f"session {quoted(start.id)} of {quoted(start.user)} as {quoted(start.login)} on"
        f" {quoted(start.node)}"
    )


def chunks_text(first: int, last: int) -> str:
    """Return a range of chunks in words."""
    return f"chunk {first} is" if first == last else f"chunks {first} to {last} are"


class ChunkExaminer:
    """Takes the chunks of one recording, in the order in which they are stored.

    ``start`` is the session that it has to be of, ``missing`` the numbers of chunks that are known
    to be lost. ``chunks`` and ``frames`` count what was taken; ``sealed`` the chunks that were not
    opened; ``ended`` is whether the marked last chunk was there.
    """

    def __init__(
        self,
        start: RecordingStart | None,
        manifest: Manifest | None,
        missing: Collection[int],
        faults: Faults,
        open_chunk: OpenChunk | None = None,
    ) -> None:
        self._start = start
        self._manifest = manifest
        self._missing = frozenset(missing)
        self._faults = faults
        self._open = open_chunk
        self._named = {} if manifest is None else {c.sha256: c.number for c in manifest.chunks}
        self._numbered = None if manifest is None else manifest.version >= VERSION
        self._seen: set[int] = set()
        self._expected = 0
        #: Digest of the chunk before, if that is known to be the right one.
        self._previous: bytes | None = NO_CHUNK
        #: The head of that chunk, and what the last one with frames stated of them.
        self._head: ChunkHead | None = None
        self._facts: Facts | None = None
        #: The digest of a chunk of another session, and which session that is.
        self._foreign = (b"", "")
        self._order = SequenceCheck()
        #: First number that was given to a frame in a chunk, and the chunk.
        self._begins: tuple[list[int], list[int]] = ([], [])
        self._last: Frame | None = None
        self._whole = True
        self.chunks = self.frames = self.sealed = 0
        self.ended = False

    def take(self, number: int, data: bytes) -> None:
        """Take the chunk that is stored as ``number``."""
        self.chunks += 1
        if number < self._expected:
            self._out_of_order(number, data)
            return
        if number > self._expected:
            self._absent(self._expected, number)
        self._seen.add(number)
        self._expected = number + 1
        if number in self._missing:
            self._fault(FaultKind.PLACE, f"chunk {number} is stated as lost, and is there", number)
        head = self._read_head(number, data)
        if head is None:
            self._lose()
            return
        self._check_last(head)
        self._check_key(head)
        self._previous, self._head = hashlib.sha256(data).digest(), head
        self.ended = self.ended or head.last
        self._read_frames(head, data)

    def _fault(self, kind: FaultKind, text: str, chunk: int | None = None) -> None:
        self._faults.add(kind, text, chunk)

    def _lose(self) -> None:
        """Go on after a chunk of which nothing can be said."""
        self._previous = self._head = self._facts = None
        self._whole = False
        self._order.hole()

    def _out_of_order(self, number: int, data: bytes) -> None:
        if number in self._seen:
            self._fault(FaultKind.REPEATED, f"chunk {number} is there twice", number)
        else:
            self._fault(
                FaultKind.MOVED, f"chunk {number} stands after chunk {self._expected - 1}", number
            )
            self._seen.add(number)
        self._compare(number, data)

    def _absent(self, first: int, end: int) -> None:
        """Note that the chunks from ``first`` up to ``end`` are not there."""
        number = first
        while number < end:
            until = number + 1
            lost = number in self._missing
            while until < end and (until in self._missing) is lost:
                until += 1
            if not lost:
                tail = " at the end" if self._manifest and end == len(self._manifest.chunks) else ""
                self._fault(
                    FaultKind.MISSING, f"{chunks_text(number, until - 1)} missing{tail}", number
                )
            number = until
        self._lose()

    # -- one chunk ------------------------------------------------------------------------
    def _compare(self, number: int, data: bytes) -> bool:
        """Compare a chunk with the manifest; returns whether it is the one that is named."""
        if self._manifest is None:
            return True
        digest = hashlib.sha256(data).hexdigest()
        whose = self._whose(number, data)
        if number >= len(self._manifest.chunks):
            self._fault(
                FaultKind.EXTRA,
                f"chunk {number} is not in the manifest, which names"
                f" {len(self._manifest.chunks)}{whose}",
                number,
            )
            return False
        wanted = self._manifest.chunks[number]
        if (wanted.size, wanted.sha256) == (len(data), digest):
            return True
        other = self._named.get(digest)
        if other is not None and other != number:
            self._fault(
                FaultKind.MOVED,
                f"chunk {other} stands in the place of chunk {number}",
                number,
            )
        else:
            self._fault(
                FaultKind.CHANGED,
                f"chunk {number} is not the one that the manifest names{whose}",
                number,
            )
        return False

    def _whose(self, number: int, data: bytes) -> str:
        """Return what a chunk that is not the right one says of itself."""
        try:
            head = read_head(data, number)
        except BadRecording as error:
            return f": {error}"
        foreign = ""
        if head.number == 0 and not head.key:
            foreign = self._session_of(data)
        elif self._foreign[1] and head.previous == self._foreign[0]:
            foreign = self._foreign[1]
        if foreign:
            self._foreign = (hashlib.sha256(data).digest(), foreign)
            return f": it is of {foreign}"
        return "" if head.number == number else f": it says that it is chunk {head.number}"

    def _session_of(self, data: bytes) -> str:
        """Return the session whose first chunk this is, unless it is the right one."""
        try:
            for frame in read_chunk(data, 0).frames():
                start = read_start(frame)
                return "" if start == self._start else session_text(start)
        except BadRecording:
            return ""  # the caller states what is wrong with the chunk
        return ""

    def _read_head(self, number: int, data: bytes) -> ChunkHead | None:
        """Return the head of a chunk that is in its place, or nothing."""
        if not self._compare(number, data):
            return None
        try:
            head = read_head(data, number)
        except BadRecording as error:
            self._fault(FaultKind.UNREADABLE, str(error), number)
            return None
        if head.number != number:
            self._fault(
                FaultKind.MOVED, f"chunk {head.number} stands in the place of chunk {number}",
                number,
            )  # fmt: skip
            return None
        numbered = head.facts is not None
        if self._numbered is None:
            self._numbered = numbered
        if self._numbered is not numbered:
            self._fault(
                FaultKind.CHANGED, f"chunk {number} is of another version than the recording",
                number,
            )  # fmt: skip
            return None
        if head.previous != (self._before(number) or head.previous):
            before = f"chunk {number - 1}: one of the two was changed or replaced"
            self._fault(
                FaultKind.CHAIN,
                f"chunk {number} does not follow {before}"
                if number
                else "chunk 0 is not the first one: it names one before it",
                number,
            )
            return None
        return head

    def _before(self, number: int) -> bytes | None:
        """Return the digest of the chunk before, if it is known."""
        if number == 0:
            return NO_CHUNK
        if self._manifest is None:
            return self._previous
        return _digest(self._manifest.chunks[number - 1].sha256)

    def _check_last(self, head: ChunkHead) -> None:
        number = head.number
        if self._manifest is None:
            if self.ended:
                self._fault(FaultKind.END, f"chunk {number} follows the last chunk", number)
            return
        end = len(self._manifest.chunks) - 1
        if head.last and number != end:
            self._fault(
                FaultKind.END,
                f"chunk {number} is marked as the last one, the manifest names more",
                number,
            )
        elif number == end and not head.last:
            self._fault(
                FaultKind.END,
                f"chunk {number}, the last that the manifest names, is not marked as the last one:"
                " the end is missing",
                number,
            )

    def _check_key(self, head: ChunkHead) -> None:
        keys = 0 if self._manifest is None else self._manifest.keys
        if self._manifest is not None and not min(keys, 1) <= head.key <= keys:
            self._fault(
                FaultKind.CHANGED,
                f"chunk {head.number} has data key {head.key}, the manifest names {keys}",
                head.number,
            )

    def _check_facts(self, before: Facts, head: ChunkHead, facts: Facts) -> None:
        """Compare what two heads state of their frames, which needs no key."""
        if not before.last_time <= facts.first_time <= facts.last_time:
            self._fault(FaultKind.TIME, f"time runs backwards in chunk {head.number}", head.number)
        if 0 < facts.first <= before.last:
            self._fault(
                FaultKind.FRAMES,
                f"{named(facts.first, min(facts.last, before.last))} in chunk"
                f" {head.number} and before it",
                head.number,
            )

    # -- frames ---------------------------------------------------------------------------
    def _read_frames(self, head: ChunkHead, data: bytes) -> None:
        number, facts = head.number, head.facts
        before = self._facts
        if facts is not None and facts.frames:
            self._facts = facts
        if facts is not None and head.key and self._open is None:
            self.sealed += 1
            self.frames += facts.frames
            self._last = None
            self._order.hole()
            if before is not None and facts.frames:
                self._check_facts(before, head, facts)
            return
        try:
            opened = self._open if head.key and self._open is not None else read_chunk
            chunk = opened(data, number, None)
            for place, frame in enumerate(chunk.all_frames()):
                if place == 0 and facts is not None:
                    self._begin(number, facts.first)
                self._take_frame(number, frame)
        except BadRecording as error:
            self._fault(FaultKind.UNREADABLE, str(error), number)
            self._whole = False
            self._order.hole()

    def _begin(self, chunk: int, first: int) -> None:
        numbers, chunks = self._begins
        if first and (not numbers or first > numbers[-1]):
            numbers.append(first)
            chunks.append(chunk)

    def _take_frame(self, chunk: int, frame: Frame | int) -> None:
        self.frames += isinstance(frame, Frame)
        if self._numbered:
            self._check_number(chunk, frame)
        if not isinstance(frame, Frame):
            return
        if chunk == 0 and self._last is None:
            self._check_start(frame)
        elif frame.kind is FrameKind.START:
            self._fault(FaultKind.SESSION, f"another session starts in chunk {chunk}", chunk)
        last, self._last = self._last, frame
        if last is not None and last.kind is FrameKind.END:
            self._fault(FaultKind.END, f"it continues after its end, in chunk {chunk}", chunk)
        if last is not None and frame.time < last.time:
            self._fault(
                FaultKind.TIME,
                f"time runs backwards in chunk {chunk}, from {last.time / 1e9:.3f} s to"
                f" {frame.time / 1e9:.3f} s",
                chunk,
            )

    def _check_start(self, frame: Frame) -> None:
        try:
            start = read_start(frame)
        except BadRecording as error:
            self._fault(FaultKind.SESSION, str(error), 0)
            return
        if self._start is None or start == self._start:
            return
        differ = [
            f"{a.name} is {quoted(getattr(start, a.name))}, not"
            f" {quoted(getattr(self._start, a.name))}"
            for a in attrs.fields(RecordingStart)
            if getattr(start, a.name) != getattr(self._start, a.name)
        ]
        self._fault(
            FaultKind.SESSION, f"its first frame is of another session: {'; '.join(differ)}", 0
        )

    def _check_number(self, chunk: int, frame: Frame | int) -> None:
        try:
            if isinstance(frame, Frame):
                self._order.take(frame)
            else:
                self._order.number(frame)
        except BadRecording as error:
            ends = isinstance(frame, Frame) and frame.kind is FrameKind.END
            if ends and (skipped := self._order.skipped):
                for first, last in skipped:
                    where = self._chunk_of(first)
                    self._fault(FaultKind.FRAMES, f"{named(first, last)} missing", where)
                return
            self._fault(FaultKind.FRAMES, str(error), chunk)

    def _chunk_of(self, number: int) -> int | None:
        """Return the chunk that ought to have a frame."""
        numbers, chunks = self._begins
        at = bisect_right(numbers, number) - 1
        return chunks[at] if at >= 0 else None

    # -- the end --------------------------------------------------------------------------
    def end(self) -> None:
        """Check what can be said after all chunks."""
        if self._manifest is None:
            return
        total = len(self._manifest.chunks)
        if beyond := sorted(number for number in self._missing if not 0 <= number < total):
            self._fault(
                FaultKind.MANIFEST,
                f"{chunks_text(beyond[0], beyond[-1])} stated as lost, and not in the manifest",
            )
        if self._expected < total:
            self._absent(self._expected, total)
            return
        if not total:
            self._fault(FaultKind.END, "its manifest names no chunk")
        if self._last is not None and self._head is not None:
            self._check_end_frame(self._last, self._manifest)
        if self._whole and not self._missing and self.frames != self._manifest.frames:
            self._fault(
                FaultKind.FRAMES,
                f"it has {self.frames} frames, the manifest states {self._manifest.frames}",
            )

    def _check_end_frame(self, last: Frame, manifest: Manifest) -> None:
        number = len(manifest.chunks) - 1
        if last.kind is not FrameKind.END:
            self._fault(FaultKind.END, "its last frame is not the end of the session", number)
        elif last.sequence != manifest.sequence:
            self._fault(
                FaultKind.END,
                f"its end is after frame {last.sequence}, in the manifest after"
                f" {manifest.sequence}",
                number,
            )


def _digest(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) or None
    except ValueError:
        return None
