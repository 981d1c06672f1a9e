"""How do frames become chunks? Gathered, then cut: when large, when asked, and at the end.

Laws of this file:

* A full chunk is packed beside whoever writes, on another thread if there is one: at most
  one, so that what waits is bounded, and the next one can name it.
* A frame that is a JSON object stays one frame, whatever a client made it hold: in pieces nobody
  could read what was launched.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest
from tele.tape.layout import DATA_LIMIT, FRAME_HEAD, NO_CHUNK, digest, pack_chunk

#: A chunk is cut when its frames have so many bytes: each costs auth the same.
CUT_AT = 2 * 1024 * 1024
_BYTES = frozenset((FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.INPUT))

Packed = tuple[ChunkDigest, bytes]
#: Does work, now or soon.
Worker = Callable[[Callable[[], Packed]], "Future[Packed]"]


def at_once(work: Callable[[], Packed]) -> Future[Packed]:
    """Do ``work`` now."""
    done: Future[Packed] = Future()
    done.set_result(work())
    return done


def _pack(raw: bytearray, number: int, previous: bytes, last: bool) -> Packed:
    chunk = pack_chunk(raw, number, previous, last=last)
    return ChunkDigest(number, len(chunk), digest(chunk).hex()), chunk


class TapeWriter:
    """Writes one recording. ``previous`` and ``number`` go on after chunks that exist."""

    def __init__(
        self, number: int = 0, previous: bytes = NO_CHUNK, worker: Worker = at_once
    ) -> None:
        self._raw = bytearray()
        self._number = number
        self._previous = previous
        self._worker = worker
        self._begun: Future[Packed] | None = None
        self.frames = 0
        self.finished = False

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
        if len(data) <= DATA_LIMIT or frame.kind not in _BYTES:
            self._raw += FRAME_HEAD.pack(frame.time, frame.channel, frame.kind, len(data))
            self._raw += data
            self.frames += 1
            return
        for at in range(0, len(data), DATA_LIMIT):
            self.add(Frame(frame.time, frame.channel, frame.kind, data[at : at + DATA_LIMIT]))

    def begin(self) -> None:
        """Begin to pack what waits. :meth:`collect` what was begun before."""
        raw, self._raw = self._raw, bytearray()
        self._begun = self._worker(partial(_pack, raw, self._number, self._previous, False))

    def collect(self) -> Packed | None:
        """Return the chunk that was begun, waiting for it if need be."""
        begun, self._begun = self._begun, None
        return None if begun is None else self._take(begun.result())

    def cut(self, *, last: bool = False) -> Packed | None:
        """Return the next chunk and how a manifest names it; None when there is nothing to cut.

        :meth:`collect` what was begun before. After ``last`` nothing more may be added.
        """
        if not self._raw and not last:
            return None
        cut = self._take(_pack(self._raw, self._number, self._previous, last))
        self._raw.clear()
        self.finished = last
        return cut

    def _take(self, packed: Packed) -> Packed:
        self._number += 1
        self._previous = bytes.fromhex(packed[0].sha256)
        return packed
