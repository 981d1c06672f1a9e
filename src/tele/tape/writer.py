"""How do frames become chunks? They are collected, and cut when large, on request, and at the end.

Invariants:

* Cutting is cheap; packing costs CPU and may be done in a thread, one chunk after the other: each
  contains the digest of the one before.
* A frame with a JSON object is never split, whatever its size, so that it can be read.
* A recording has numbered frames, or none: old ones that are continued have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attrs import frozen

from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import ChunkDigest
from tele.tape.layout import (
    DATA_LIMIT,
    FRAME_HEAD,
    FRAME_HEAD_2,
    NO_CHUNK,
    Facts,
    Seal,
    digest,
    pack_chunk,
    pack_chunk_2,
)

#: A chunk is cut when its frames have so many bytes: each costs auth the same.
CUT_AT = 2 * 1024 * 1024
#: Kinds whose data are bytes of a stream.
BYTES = frozenset((FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.INPUT))

Packed = tuple[ChunkDigest, bytes]


@frozen
class Taken:
    """What is in a chunk: the number of frames, the time of the last one, and the last number that
    was given; None in recordings without numbers.
    """

    frames: int = 0
    time: int = 0
    sequence: int | None = None


def _pack(
    parts: Sequence[bytes],
    facts: Facts | None,
    number: int,
    previous: bytes,
    last: bool,
    seal: Seal | None,
) -> Packed:
    raw = b"".join(parts)
    if facts is None:
        chunk = pack_chunk(raw, number, previous, last=last)
    else:
        chunk = pack_chunk_2(raw, facts, number, previous, last=last, seal=seal)
    return ChunkDigest(number, len(chunk), digest(chunk).hex()), chunk


class TapeWriter:
    """Writes one recording. ``previous``, ``number`` and ``sequence``, the last number of a frame,
    continue after existing chunks. Without ``numbered`` frames have no numbers (version 1).
    ``seal`` seals each chunk of numbered frames.
    """

    def __init__(
        self,
        number: int = 0,
        previous: bytes = NO_CHUNK,
        sequence: int = 0,
        *,
        numbered: bool = True,
        seal: Seal | None = None,
    ) -> None:
        self._seal = seal
        self._raw: list[bytes] = []
        self._size = 0
        self._facts = Facts()
        #: The number of the next chunk.
        self.number = number
        self._previous = previous
        self.is_numbered = numbered
        self._frames_before = 0
        self._time = 0
        self.frames = 0
        #: The last number that was given to a frame, or stated as lost.
        self.sequence = sequence
        self.finished = False
        #: Of the chunk that was taken last.
        self.taken = Taken()

    @property
    def waiting(self) -> int:
        """Bytes of frames that are not in a chunk yet."""
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether a chunk ought to be cut now."""
        return self._size >= CUT_AT

    def add(self, frame: Frame) -> None:
        """Add a frame. One without a number gets the next one.

        Longer bytes than a frame may have are split into several frames if they have no number.
        """
        data = frame.data
        split = len(data) > DATA_LIMIT and frame.kind in BYTES
        if split and not (self.is_numbered and frame.sequence):
            for at in range(0, len(data), DATA_LIMIT):
                self.add(Frame(frame.time, frame.channel, frame.kind, data[at : at + DATA_LIMIT]))
            return
        if self.is_numbered:
            self._add_numbered(frame)
        else:
            self._append(FRAME_HEAD.pack(frame.time, frame.channel, frame.kind, len(data)))
        self._append(data)
        self.frames += 1
        self._time = frame.time

    def _add_numbered(self, frame: Frame) -> None:
        number = frame.sequence
        if not number and frame.kind is not FrameKind.START:
            number = self.sequence + (frame.kind not in UNNUMBERED)
        self.sequence = max(self.sequence, number)
        self._append(
            FRAME_HEAD_2.pack(number, frame.time, frame.channel, frame.kind, len(frame.data))
        )
        self._facts.add(frame.kind, number, frame.time)

    def _append(self, data: bytes) -> None:
        self._raw.append(data)
        self._size += len(data)

    def take(self, *, last: bool = False) -> Callable[[], Packed] | None:
        """Return a function that packs the pending frames; None if there are none.

        It may be called in a thread; pass its result to :meth:`packed` before the next call.
        After ``last`` nothing more may be added.
        """
        if not self._raw and not last:
            return None
        raw, self._raw, self._size = self._raw, [], 0
        facts, self._facts = self._facts, Facts()
        sequence = self.sequence if self.is_numbered else None
        self.taken = Taken(self.frames - self._frames_before, self._time, sequence)
        self._frames_before = self.frames
        self.finished = last
        stated = facts if self.is_numbered else None
        return partial(_pack, raw, stated, self.number, self._previous, last, self._seal)

    def packed(self, packed: Packed) -> None:
        """Continue after this chunk."""
        self.number += 1
        self._previous = bytes.fromhex(packed[0].sha256)

    def cut(self, *, last: bool = False) -> Packed | None:
        """Return the next chunk and its entry of the manifest; None if there are no frames."""
        pack = self.take(last=last)
        if pack is None:
            return None
        packed = pack()
        self.packed(packed)
        return packed
