"""What is kept of a session while it has no recording?

Frames with JSON objects are kept up to a limit, bytes are counted. What was not kept is stated in a
gap right before the next frame that was.
"""

from __future__ import annotations

from typing import Final

from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.recording.losses import Losses
from tele.tape.writer import BYTES

#: Bytes of JSON frames that are kept of a session that is not recorded yet.
KEPT_LIMIT: Final = 64 * 1024


class Backlog:
    """The frames of one session, until it has a recording."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._size = 0
        self._losses = Losses()
        self._reasons: dict[str, None] = {}

    def keep(self, frame: Frame) -> None:
        """Keep or count one frame."""
        is_over = self._size + len(frame.data) > KEPT_LIMIT
        if frame.kind in BYTES or is_over:
            self._losses.lose(frame)
            return
        if self._losses:
            number = frame.sequence - (frame.kind not in UNNUMBERED)
            self.frames.append(self._gap(frame.time, number))
            self._size += len(self.frames[-1].data)
        self._size += len(frame.data)
        self.frames.append(frame)

    def because(self, reason: str) -> None:
        """Add a reason of the gap."""
        self._reasons[reason] = None

    def take(self, time: int, number: int) -> list[Frame]:
        """Return what was kept, with gaps for what was lost up to the frame ``number``."""
        return [*self.frames, self._gap(time, number)]

    def _gap(self, time: int, number: int) -> Frame:
        body = self._losses.take("; ".join(self._reasons))
        return Frame(time, 0, FrameKind.GAP, body, number)
