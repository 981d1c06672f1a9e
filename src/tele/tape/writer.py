"""How do frames become chunks? They are collected, and cut when large, on request, and at the end.

Invariants:

* Cutting is cheap; packing costs CPU and may be done in a thread, one chunk after the other: each
  contains the digest of the one before.
* A frame with a JSON object is never split, whatever its size, so that it can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest
from tele.tape.layout import DATA_LIMIT, FRAME_HEAD, NO_CHUNK, digest, pack_chunk

#: A chunk is cut when its frames have so many bytes: each costs auth the same.
CUT_AT = 2 * 1024 * 1024
#: Kinds whose data are bytes of a stream.
BYTES = frozenset((FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.INPUT))

Packed = tuple[ChunkDigest, bytes]


def _pack(raw: bytearray, number: int, previous: bytes, last: bool) -> Packed:
    chunk = pack_chunk(raw, number, previous, last=last)
    return ChunkDigest(number, len(chunk), digest(chunk).hex()), chunk


class TapeWriter:
    """Writes one recording. ``previous`` and ``number`` continue after existing chunks."""

    def __init__(self, number: int = 0, previous: bytes = NO_CHUNK) -> None:
        self._raw = bytearray()
        self._number = number
        self._previous = previous
        self._frames_before = 0
        self._time = 0
        self.frames = 0
        self.finished = False
        #: Of the chunk that was taken last: the number of frames, and the time of the last one.
        self.taken = (0, 0)

    @property
    def waiting(self) -> int:
        """Bytes of frames that are not in a chunk yet."""
        return len(self._raw)

    @property
    def is_full(self) -> bool:
        """Whether a chunk ought to be cut now."""
        return len(self._raw) >= CUT_AT

    def add(self, frame: Frame) -> None:
        """Add a frame; longer bytes than a frame may have are split into several frames."""
        data = frame.data
        if len(data) <= DATA_LIMIT or frame.kind not in BYTES:
            self._raw += FRAME_HEAD.pack(frame.time, frame.channel, frame.kind, len(data))
            self._raw += data
            self.frames += 1
            self._time = frame.time
            return
        for at in range(0, len(data), DATA_LIMIT):
            self.add(Frame(frame.time, frame.channel, frame.kind, data[at : at + DATA_LIMIT]))

    def take(self, *, last: bool = False) -> Callable[[], Packed] | None:
        """Return a function that packs the pending frames; None if there are none.

        It may be called in a thread; pass its result to :meth:`packed` before the next call.
        After ``last`` nothing more may be added.
        """
        if not self._raw and not last:
            return None
        raw, self._raw = self._raw, bytearray()
        self.taken = (self.frames - self._frames_before, self._time)
        self._frames_before = self.frames
        self.finished = last
        return partial(_pack, raw, self._number, self._previous, last)

    def packed(self, packed: Packed) -> None:
        """Continue after this chunk."""
        self._number += 1
        self._previous = bytes.fromhex(packed[0].sha256)

    def cut(self, *, last: bool = False) -> Packed | None:
        """Return the next chunk and its entry of the manifest; None if there are no frames."""
        pack = self.take(last=last)
        if pack is None:
            return None
        packed = pack()
        self.packed(packed)
        return packed
