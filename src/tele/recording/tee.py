"""How do the data of a connection get into its recording?

:class:`ConnectionTape` belongs to one connection; it opens the recording with the first channel.
:mod:`tele.recording.program_tap` writes to it what programs do.

Invariant: a session that cannot be recorded is refused if a role demands it. Otherwise it runs,
with a log line and a note in its audit event: frames about programs are kept, bytes are counted,
and both are written, with a gap, as soon as the recording can be opened. The user is not notified:
who filled the disk on purpose would learn that it worked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import maybeDeferred

from tele.errors import TeleError, Unavailable
from tele.interfaces import IRecorder, IRecording
from tele.log import make_logger
from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.losses import Losses
from tele.single_flight import SingleFlight
from tele.tape.layout import DATA_LIMIT
from tele.tape.writer import BYTES

log = make_logger(__name__)

#: Bytes of JSON frames that are kept of a session that is not recorded yet.
KEPT_LIMIT: Final = 64 * 1024
#: Nanoseconds between two attempts to record a session that runs without a recording.
AGAIN: Final = 1_000_000_000


class _Backlog:
    """Frames while there is no recording: JSON frames are kept up to a limit, bytes counted."""

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
            self.frames.append(self._gap(frame.time, frame.sequence - 1))
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


class ConnectionTape:
    """The recording of one connection. ``elapsed()`` is nanoseconds since its start.

    With ``strict`` no program runs that cannot be recorded.
    """

    def __init__(
        self,
        recorder: IRecorder,
        start: RecordingStart,
        elapsed: Callable[[], int],
        *,
        record_input: bool = False,
        strict: bool = True,
    ) -> None:
        self.record_input = record_input
        #: Why it could not be recorded from its start, if so.
        self.problem = ""
        self._recorder = recorder
        self._start = start
        self._elapsed = elapsed
        self._strict = strict
        self._opening = SingleFlight(self._open)
        self._recording: IRecording | None = None
        self._backlog: _Backlog | None = None
        self._tried = 0
        #: The number of the last frame; they are given before anything can drop a frame.
        self._number = 0
        self._ended: str | None = None

    async def ready(self) -> None:
        """Return when the recording is open; raises a TeleError if it cannot be opened.

        Unless ``strict``, it also returns when it cannot be opened for now.
        """
        if self._recording is None and self._backlog is None:
            await self._opening.call()

    async def _open(self) -> None:
        self._tried = self._elapsed()
        try:
            recording = await self._recorder.open(self._start)
        except Unavailable as error:  # for now; any other error is a refusal
            if self._strict:
                raise
            self._not_recorded(str(error))
            return
        self._recording = recording
        self._write_backlog(recording)
        if self._ended is not None:
            self._close(recording, self._ended)
            raise Unavailable("the connection ended while its recording was opened")

    def _not_recorded(self, reason: str) -> None:
        if self._backlog is None:
            self._backlog = _Backlog()
            self.problem = reason
            log.warn(
                "session not recorded",
                session_id=self._start.id,
                user=self._start.user,
                error=reason,
            )
        self._backlog.because(reason)

    def _write_backlog(self, recording: IRecording) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is None:
            return
        for frame in backlog.take(self._elapsed(), self._number):
            recording.write(frame)
        log.info("recording of session started late", session_id=self._start.id)

    def _try_again(self) -> None:
        """Something passes that is not recorded: perhaps it can be now."""
        if self._opening.is_running:
            return
        if self._ended is None and self._elapsed() - self._tried < AGAIN:
            return
        self._opening.call().addErrback(
            lambda failure: (
                None
                if failure.check(TeleError)
                else log.failure("recording not opened", failure=failure)
            )
        )

    @property
    def started(self) -> bool:
        """Whether anything was recorded."""
        return self._recording is not None

    @property
    def paused(self) -> bool:
        """Whether the recorder is behind."""
        return self._recording is not None and bool(self._recording.paused)

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the recorder has caught up."""
        if self._recording is None:
            callback()
        else:
            self._recording.when_resumed(callback)

    def write(self, channel: int, kind: FrameKind, data: bytes) -> None:
        """Record bytes; more than a frame may have become several frames."""
        if kind in BYTES and len(data) > DATA_LIMIT:
            for at in range(0, len(data), DATA_LIMIT):
                self._write(channel, kind, data[at : at + DATA_LIMIT])
        else:
            self._write(channel, kind, data)

    def _write(self, channel: int, kind: FrameKind, data: bytes) -> None:
        if self._recording is None and self._backlog is None:
            return
        if kind not in UNNUMBERED:
            self._number += 1
        frame = Frame(self._elapsed(), channel, kind, data, self._number)
        if self._recording is not None:
            self._recording.write(frame)
        elif self._backlog is not None:
            self._backlog.keep(frame)
            self._try_again()

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Record a fact."""
        self.write(channel, kind, json.dumps(fields, sort_keys=True).encode())

    def close(self, reason: str) -> None:
        """The connection ended."""
        self._ended = reason
        if self._recording is not None:
            self._close(self._recording, reason)
        elif self._backlog is not None:
            self._try_again()  # for the last time

    def _close(self, recording: IRecording, reason: str) -> None:
        self._recording = None
        maybeDeferred(recording.close, reason, self._number).addErrback(
            lambda failure: log.error("recording not closed", error=failure.value)
        )
