"""How do frames become chunks? Gathered, then cut: when large, when asked, and at the end.

Invariants:

* Cutting is cheap; packing costs CPU and may be done in a thread. Chunk by chunk: the next one
  names the one before, so it is taken after that was packed.
* A frame that is a JSON object stays one frame, whatever a client made it hold: in pieces nobody
  could read what was launched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest
from tele.tape.layout import DATA_LIMIT, FRAME_HEAD, NO_CHUNK, digest, pack_chunk

#: A chunk is cut when its frames have so many bytes: each costs auth the same.
CUT_AT = 2 * 1024 * 1024
#: Kinds whose data are bytes as they passed.
BYTES = frozenset((FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.INPUT))

Packed = tuple[ChunkDigest, bytes]


def _pack(raw: bytearray, number: int, previous: bytes, last: bool) -> Packed:
    chunk = pack_chunk(raw, number, previous, last=last)
    return ChunkDigest(number, len(chunk), digest(chunk).hex()), chunk


class TapeWriter:
    """Writes one recording. ``previous`` and ``number`` go on after chunks that exist."""

    def __init__(self, number: int = 0, previous: bytes = NO_CHUNK) -> None:
        self._raw = bytearray()
        self._number = number
        self._previous = previous
        self._frames_before = 0
        self._time = 0
        self.frames = 0
        self.finished = False
        #: Of what was taken last: the number of its frames, and the time of the last one.
        self.taken = (0, 0)

    @property
    def waiting(self) -> int:
        """How many bytes of frames are not in a chunk yet."""
        return len(self._raw)

    @property
    def is_full(self) -> bool:
        """Whether a chunk ought to be cut now."""
        return len(self._raw) >= CUT_AT

    def add(self, frame: Frame) -> None:
        """Take a frame; bytes longer than a frame may have become several frames."""
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
        """Return what packs the frames that wait; None when there is nothing to cut.

        It may be called in a thread. :meth:`packed` takes what it returns, before anything else is
        taken. After ``last`` nothing more may be added.
        """
        if not self._raw and not last:
            return None
        raw, self._raw = self._raw, bytearray()
        self.taken = (self.frames - self._frames_before, self._time)
        self._frames_before = self.frames
        self.finished = last
        return partial(_pack, raw, self._number, self._previous, last)

    def packed(self, packed: Packed) -> None:
        """Go on after this chunk."""
        self._number += 1
        self._previous = bytes.fromhex(packed[0].sha256)

    def cut(self, *, last: bool = False) -> Packed | None:
        """Return the next chunk and how a manifest names it; None when there is nothing to cut."""
        pack = self.take(last=last)
        if pack is None:
            return None
        packed = pack()
        self.packed(packed)
        return packed
