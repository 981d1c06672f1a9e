"""What did a session record? A recorder in memory.

Invariant: it answers at once; a refusal comes before the session starts.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from tele.errors import TeleError
from tele.interfaces import IRecorder, IRecording
from tele.model.frame import Frame
from tele.model.session import RecordingStart


@implementer(IRecording)
@define
class MemoryRecording:
    """The recording of one session. ``closed`` is the reason of its end. Set ``paused`` to stop the
    session, and call :meth:`resume`.
    """

    start: RecordingStart
    frames: list[Frame] = field(factory=list)
    closed: str | None = None
    paused: bool = False
    _waiting: list[Callable[[], None]] = field(factory=list, init=False)

    def write(self, frame: Frame) -> None:
        """See :class:`tele.interfaces.IRecording`."""
        self.frames.append(frame)

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """See :class:`tele.interfaces.IRecording`."""
        if self.paused:
            self._waiting.append(callback)
        else:
            callback()

    def resume(self) -> None:
        """Let the session continue."""
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        """See :class:`tele.interfaces.IRecording`."""
        self.closed = reason
        return succeed(None)


@implementer(IRecorder)
@define
class MemoryRecorder:
    """Keeps the frames of each session, or refuses with ``refusal``."""

    refusal: TeleError | None = None
    recordings: list[MemoryRecording] = field(factory=list)

    def open(self, start: RecordingStart) -> Deferred[IRecording]:
        """See :class:`tele.interfaces.IRecorder`."""
        if self.refusal is not None:
            return fail(self.refusal)
        self.recordings.append(MemoryRecording(start))
        return succeed(self.recordings[-1])

    @property
    def frames(self) -> list[Frame]:
        """All frames of all sessions."""
        return [frame for each in self.recordings for frame in each.frames]
