"""A recorder of which a test says how much auth has."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tele.interfaces import IRecorder, ISyncRecording
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.sync import Acknowledged


@implementer(ISyncRecording)
@define(eq=False)
class SyncRecording:
    """A recording of which auth has what the test says, or all with ``away`` false."""

    recorder: SyncRecorder
    frames: list[Frame] = field(factory=list)
    known: Acknowledged = field(factory=Acknowledged)
    paused: bool = False

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)
        if not self.recorder.away:
            self.known.advance(frame.sequence)

    def synced(self, sequence: int) -> Deferred[None]:
        return self.known.wait(sequence)

    def when_resumed(self, callback: Any) -> None:
        callback()

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        return succeed(None)

    def kinds(self, kind: FrameKind) -> bytes:
        return b"".join(f.data for f in self.frames if f.kind is kind)


@implementer(IRecorder)
@define(eq=False)
class SyncRecorder:
    """Keeps frames. While ``away``, auth gets none of them."""

    away: bool = False
    recordings: list[SyncRecording] = field(factory=list)

    def open(self, start: RecordingStart) -> Deferred[Any]:
        self.recordings.append(SyncRecording(self))
        return succeed(self.recordings[-1])

    def come_back(self) -> None:
        """Auth gets all that there is."""
        self.away = False
        for each in self.recordings:
            each.known.advance(each.frames[-1].sequence)

    @property
    def frames(self) -> list[Frame]:
        """All frames of all sessions."""
        return [frame for each in self.recordings for frame in each.frames]
