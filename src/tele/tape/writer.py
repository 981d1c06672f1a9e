"""How do frames become chunks? Gathered, then cut: when large, when asked, and at the end."""

from __future__ import annotations

from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest
from tele.tape.layout import DATA_LIMIT, FRAME_HEAD, NO_CHUNK, digest, pack_chunk, pack_frame

#: A chunk is cut when its frames have so many bytes.
CUT_AT = 1024 * 1024


class TapeWriter:
    """Writes one recording. ``previous`` and ``number`` go on after chunks that exist."""

    def __init__(self, number: int = 0, previous: bytes = NO_CHUNK) -> None:
        self._raw = bytearray()
        self._number = number
        self._previous = previous
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
        """Take a frame; data longer than a frame may have become several frames."""
        data = frame.data
        if len(data) <= DATA_LIMIT:
            self._raw += pack_frame(frame)
            self.frames += 1
            return
        for at in range(0, len(data), DATA_LIMIT):
            self.add(Frame(frame.time, frame.channel, frame.kind, data[at : at + DATA_LIMIT]))

    def add_data(self, time: int, channel: int, kind: FrameKind, view: memoryview) -> None:
        """Take bytes of a stream without making a Frame of them; at most DATA_LIMIT."""
        self._raw += FRAME_HEAD.pack(time, channel, kind, len(view))
        self._raw += view
        self.frames += 1

    def cut(self, *, last: bool = False) -> tuple[ChunkDigest, bytes] | None:
        """Return the next chunk and how a manifest names it; None when there is nothing to cut.

        After ``last`` nothing more may be added.
        """
        if not self._raw and not last:
            return None
        chunk = pack_chunk(self._raw, self._number, self._previous, last=last)
        self._previous = digest(chunk)
        named = ChunkDigest(self._number, len(chunk), self._previous.hex())
        self._number += 1
        self._raw.clear()
        self.finished = last
        return named, chunk
