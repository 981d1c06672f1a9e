"""Where in its chunk does each frame begin? For readers that begin in the middle of a recording.

Invariant: a frame is read only where the frames before it end, or where an index says; if that is
wrong, what is read is refused or of an unknown kind, never beyond the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

from tele.errors import BadRecording
from tele.model.frame import Frame, FrameKind
from tele.tape.layout import FRAME_HEAD, FRAME_HEAD_2, Chunk

_KINDS = frozenset(FrameKind)


def placed_frames(chunk: Chunk, at: int = 0) -> Iterator[tuple[int, Frame]]:
    """Yield frames from byte ``at`` of the chunk's frames on, each with the byte after it.

    Those of unknown kinds are skipped. Raises :class:`BadRecording`.
    """
    raw = chunk.raw
    head = FRAME_HEAD if chunk.facts is None else FRAME_HEAD_2
    while at < len(raw):
        if len(raw) - at < head.size:
            raise BadRecording(f"chunk {chunk.number} ends within a frame")
        *sequence, time, channel, kind, length = head.unpack_from(raw, at)
        at += head.size
        if length > len(raw) - at:
            raise BadRecording(f"chunk {chunk.number} ends within a frame")
        data, at = raw[at : at + length], at + length
        if kind in _KINDS:
            yield at, Frame(time, channel, FrameKind(kind), data, *sequence)
