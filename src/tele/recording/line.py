"""How is one recorder kept from harming the session that it records?

A connection may have several recorders; each has a :class:`RecorderLine`.

Invariants:

* Nothing that a recorder raises leaves this module, except a refusal of the session.
* A recorder that does not open, or takes no data, is given up after a time-out. What a session does
  with a recorder that failed depends on the role: see :mod:`tele.recording.tee`.
* Frames before a recording is open are kept as far as they are about programs; bytes are counted.
  Both are written, with gaps, when it opens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.errors import TeleError, Unavailable
from tele.interfaces import IRecorder, IRecording, IReportingRecording
from tele.log import make_logger
from tele.model.frame import Frame
from tele.model.session import RecordingStart
from tele.recording.backlog import Backlog
from tele.single_flight import SingleFlight

log = make_logger(__name__)

#: Nanoseconds between two attempts to record a session that runs without a recording.
AGAIN: Final = 1_000_000_000
#: Seconds within which a recorder has to open a recording, and to close it.
OPEN_SECONDS: Final = 20.0
CLOSE_SECONDS: Final = 60.0
#: Seconds that a recorder may pause a session, unless it reports itself what it loses.
PAUSE_SECONDS: Final = 60.0


class Session(Protocol):
    """What a line needs of the connection that it records."""

    start: RecordingStart
    strict: bool

    def elapsed(self) -> int:
        """Return nanoseconds since the start."""

    @property
    def number(self) -> int:
        """The number of the last frame."""

    def lost(self, name: str, reason: str) -> None:
        """The recorder ``name`` loses frames, or has failed."""


class RecorderLine:
    """The recorder ``name`` of one connection. Without a ``clock`` nothing times out."""

    def __init__(
        self, name: str, recorder: IRecorder, session: Session, clock: IReactorTime | None
    ) -> None:
        self.name = name
        #: Why it could not be recorded from its start, or no more, if so.
        self.problem = ""
        self._recorder = recorder
        self._session = session
        self._clock = clock
        self._opening = SingleFlight(self._open)
        #: A recorder that has not answered in time may still do so.
        self._pending: Deferred[Any] | None = None
        self._tried = 0
        self.recording: IRecording | None = None
        self._backlog: Backlog | None = None
        self._failed = False
        self._ended: str | None = None
        self._resuming: list[Callable[[], None]] = []
        self._pausing: IDelayedCall | None = None

    @property
    def is_active(self) -> bool:
        """Whether it takes frames."""
        return self.recording is not None or self._backlog is not None

    # -- opening ----------------------------------------------------------------------
    async def ready(self) -> None:
        """Return when the recording is open; raises a TeleError if the session is refused.

        Unless the session is strict, it also returns when it cannot be opened for now.
        """
        if not (self.is_active or self._failed):
            await self._opening.call()

    async def _open(self) -> None:
        self._tried = self._session.elapsed()
        try:
            recording = await self._answer()
        except Unavailable as error:  # for now; any other error is a refusal
            if self._session.strict:
                raise
            self._not_recorded(str(error))
            return
        except TeleError:
            raise
        except Exception:
            log.failure("recorder failed", recorder=self.name)
            problem = f"the recorder {self.name} failed"
            if self._session.strict:
                raise Unavailable(f"the session cannot be recorded: {problem}") from None
            self._fail(problem)
            return
        self._adopt(recording)
        if self._ended is not None:
            raise Unavailable("the connection ended while its recording was opened")

    def _answer(self) -> Deferred[IRecording]:
        """Return what the recorder answers in time."""
        answer: Deferred[IRecording] = Deferred()
        timer: IDelayedCall | None = None

        def late() -> None:
            seconds = f"{OPEN_SECONDS:.0f} s"
            answer.errback(
                Unavailable(f"the recorder {self.name} opened no recording within {seconds}")
            )

        def done(result: Any) -> None:
            self._pending = None
            if answer.called:
                self._came_late(result)
                return
            if timer is not None:
                timer.cancel()
            answer.callback(result)  # a Failure is an errback

        if self._clock is not None:
            timer = self._clock.callLater(OPEN_SECONDS, late)
        if self._pending is None:
            self._pending = maybeDeferred(self._recorder.open, self._session.start)
        self._pending.addBoth(done)
        return answer

    def _came_late(self, result: Any) -> None:
        """The recorder answered after its time: what it opened is used, or closed."""
        if isinstance(result, Failure):
            log.warn("recorder failed", recorder=self.name, error=result.value)
        elif self.recording is None and not self._failed:
            self._adopt(result)

    def _adopt(self, recording: IRecording) -> None:
        self.recording = recording
        if IReportingRecording.providedBy(recording):
            recording.on_loss(lambda reason: self._session.lost(self.name, reason))
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            for frame in backlog.take(self._session.elapsed(), self._session.number):
                self.write(frame)
            log.info(
                "recording of session started late",
                session_id=self._session.start.id,
                recorder=self.name,
            )
        if self._ended is not None:
            self.close(self._ended)

    def _not_recorded(self, reason: str) -> None:
        if self._backlog is None:
            self._backlog = Backlog()
            self.problem = reason
            log.warn(
                "session not recorded",
                session_id=self._session.start.id,
                user=self._session.start.user,
                recorder=self.name,
                error=reason,
            )
        self._backlog.because(reason)

    def _try_again(self) -> None:
        """Something passes that is not recorded: perhaps it can be now."""
        if self._opening.is_running or self._pending is not None:
            return
        if self._ended is None and self._session.elapsed() - self._tried < AGAIN:
            return
        self._opening.call().addErrback(
            lambda failure: (
                None
                if failure.check(TeleError)
                else log.failure("recording not opened", failure=failure)
            )
        )

    # -- data -------------------------------------------------------------------------
    def write(self, frame: Frame) -> None:
        """Record one frame."""
        if self.recording is not None:
            try:
                self.recording.write(frame)
            except Exception:
                log.failure("recorder failed", recorder=self.name)
                self._fail(f"the recorder {self.name} failed")
        elif self._backlog is not None:
            self._backlog.keep(frame)
            self._try_again()

    @property
    def paused(self) -> bool:
        """Whether the recorder is behind."""
        if self.recording is None:
            return False
        try:
            return bool(self.recording.paused)
        except Exception:
            log.failure("recorder failed", recorder=self.name)
            self._fail(f"the recorder {self.name} failed")
            return False

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the recorder has caught up, or is given up."""
        recording = self.recording
        if recording is None:
            callback()
            return
        self._resuming.append(callback)
        if len(self._resuming) > 1:
            return
        if self._clock is not None and not IReportingRecording.providedBy(recording):
            self._pausing = self._clock.callLater(PAUSE_SECONDS, self._paused_too_long)
        try:
            recording.when_resumed(self._resume)
        except Exception:
            log.failure("recorder failed", recorder=self.name)
            self._fail(f"the recorder {self.name} failed")

    def _paused_too_long(self) -> None:
        self._pausing = None
        self._fail(f"the recorder {self.name} took no data for {PAUSE_SECONDS:.0f} s")

    def _resume(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        resuming, self._resuming = self._resuming, []
        for callback in resuming:
            callback()

    # -- the end ----------------------------------------------------------------------
    def _fail(self, reason: str) -> None:
        """Give the recorder up for this session."""
        if self._failed:
            return
        self._failed = True
        self.problem = self.problem or reason
        self._backlog = None
        log.error(
            "session not recorded",
            session_id=self._session.start.id,
            user=self._session.start.user,
            recorder=self.name,
            error=reason,
        )
        self._close(reason)
        self._session.lost(self.name, reason)
        self._resume()

    def close(self, reason: str) -> None:
        """The connection ended."""
        self._ended = reason
        if self.recording is not None:
            self._close(reason)
        elif self._backlog is not None:
            self._try_again()  # for the last time

    def _close(self, reason: str) -> None:
        recording, self.recording = self.recording, None
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if recording is None:
            return
        closing = maybeDeferred(recording.close, reason, self._session.number)
        if self._clock is not None and not IReportingRecording.providedBy(recording):
            closing.addTimeout(CLOSE_SECONDS, self._clock)
        closing.addErrback(
            lambda failure: log.error(
                "recording not closed", recorder=self.name, error=failure.value
            )
        )
