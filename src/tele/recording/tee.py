"""How do the data of a connection get into its recording?

:class:`ConnectionTape` belongs to one connection; it opens the recordings with the first channel.
:mod:`tele.recording.program_tap` writes to it what programs do. Each recorder of the node has a
:class:`tele.recording.line.RecorderLine`.

Invariants:

* Frames are numbered here, before anything can drop one.
* A session that cannot be recorded is refused if a role demands it, and ends when a recorder fails
  or loses frames: then nothing more is started on the connection. Otherwise it runs, with a log
  line, a note in its audit events, and a gap in what is recorded. The user is not notified then:
  who filled the disk on purpose would learn that it worked.
* In a mode that says so, output is held until auth has it (:mod:`tele.recording.hold`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorTime

from tele.errors import Unavailable
from tele.interfaces import IRecorder, ISyncRecording, NamedRecorder
from tele.log import make_logger
from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.hold import OutputHold
from tele.recording.line import RecorderLine
from tele.tape.layout import DATA_LIMIT
from tele.tape.writer import BYTES

log = make_logger(__name__)

WAITING: Final = "recording: waiting for auth ..."
RESUMED: Final = "recording: resumed"
_AWAY: Final = "auth is away"
_FACT: Final = json.JSONEncoder(sort_keys=True).encode
#: Nanoseconds between two reports that one recorder loses frames.
REPORT_AGAIN: Final = 60_000_000_000


class TapeState(Enum):
    """Whether output passes, waits for auth, or passes no more."""

    RUNNING = "running"
    HELD = "held"
    ENDED = "ended"


class ConnectionTape:
    """The recordings of one connection. ``elapsed()`` is nanoseconds since its start.

    :param recorders: one, or several with their names.
    :param strict: no program runs that cannot be recorded.
    :param sync: output is held until auth has it; a session that waits longer than
        ``sync_end_after`` seconds ends. Needs a clock.
    :param clock: without one nothing times out.
    """

    def __init__(
        self,
        recorders: IRecorder | Sequence[NamedRecorder],
        start: RecordingStart,
        elapsed: Callable[[], int],
        *,
        record_input: bool = False,
        strict: bool = True,
        sync: bool = False,
        sync_end_after: float = 300.0,
        clock: IReactorTime | None = None,
    ) -> None:
        self.record_input = record_input
        self.start = start
        self.strict = strict
        self.elapsed = elapsed
        #: The number of the last frame; they are given before anything can drop a frame.
        self.number = 0
        #: Why it has ended before its connection, for the user; empty if it has not.
        self.ended_because = ""
        if not isinstance(recorders, Sequence):
            recorders = (NamedRecorder(type(recorders).__name__, recorders),)
        self._lines = [RecorderLine(each.name, each.recorder, self, clock) for each in recorders]
        self._clock = clock
        self._hold: OutputHold | None = None
        if sync and clock is not None:
            self._hold = OutputHold(
                clock,
                sync_end_after,
                self._synced,
                self._held,
                lambda reason: self.lost("", reason),
                self.end,
            )
        self._on_end: dict[Callable[[str], None], None] = {}
        self._on_notice: dict[Callable[[str], None], None] = {}
        self._on_loss: Callable[[str, str], None] = lambda _name, _reason: None
        #: When the loss of each recorder was reported, in nanoseconds.
        self._reported: dict[str, int] = {}
        #: Losses while a frame is written: it goes to all recorders first.
        self._losses: list[tuple[str, str]] | None = None
        self._closed = False

    # -- beginning --------------------------------------------------------------------
    async def ready(self) -> None:
        """Return when the recordings are open; raises a TeleError if one cannot be opened.

        Unless ``strict``, it also returns when one cannot be opened for now.
        """
        self._check()
        if all(line.is_active for line in self._lines) and self._hold is None:
            return  # since an earlier program of the connection
        opening = [Deferred.fromCoroutine(line.ready()) for line in self._lines]
        results: list[tuple[bool, Any]] = await DeferredList(opening, consumeErrors=True)
        for good, result in results:
            if not good:
                result.raiseException()
        self._check()
        if self._hold is not None and self.started and self._sync_recording() is None:
            raise Unavailable(
                "the session cannot be recorded: no recorder of this host knows what auth has of a"
                " recording, which the recording mode needs"
            )

    def _check(self) -> None:
        if self.ended_because:
            raise Unavailable(self.ended_because)

    @property
    def problem(self) -> str:
        """Why it could not be recorded from its start, or not to its end, if so."""
        return next((line.problem for line in self._lines if line.problem), "")

    @property
    def started(self) -> bool:
        """Whether anything was recorded."""
        return any(line.recording is not None for line in self._lines)

    # -- pausing ----------------------------------------------------------------------
    @property
    def paused(self) -> bool:
        """Whether a recorder is behind."""
        for line in self._lines:  # noqa: SIM110 - a generator costs more, at each read of output
            if line.paused:
                return True
        return False

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the recorders have caught up."""
        for line in self._lines:
            if line.paused:
                line.when_resumed(lambda: self.when_resumed(callback))
                return
        callback()

    # -- output that has to be at auth first --------------------------------------------
    @property
    def holds(self) -> bool:
        """Whether output may have to wait (:meth:`held`)."""
        return self._hold is not None

    @property
    def state(self) -> TapeState:
        """Whether output passes."""
        if self.ended_because:
            return TapeState.ENDED
        held = self._hold is not None and self._hold.is_held
        return TapeState.HELD if held else TapeState.RUNNING

    def held(self, sequence: int) -> Deferred[None] | None:
        """Return None if output up to the frame ``sequence`` may go to the client now.

        Otherwise fires when it may. Fails with :class:`Unavailable` when the session has ended:
        what is held is not sent any more. It may be cancelled.
        """
        return None if self._hold is None else self._hold.held(sequence)

    def on_notice(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback`` with a line for a terminal that has to know why nothing is shown.

        Returns a function that ends this.
        """
        self._on_notice[callback] = None
        return lambda: self._on_notice.pop(callback, None)

    def _sync_recording(self) -> ISyncRecording | None:
        for line in self._lines:
            if ISyncRecording.providedBy(line.recording):
                return line.recording
        return None

    def _synced(self, sequence: int) -> Deferred[None]:
        recording = self._sync_recording()
        if recording is None:
            raise LookupError("there is no such recording")
        waiting: Deferred[None] = maybeDeferred(recording.synced, sequence)
        return waiting

    def _held(self, is_held: bool) -> None:
        if is_held:
            self.note(0, FrameKind.PAUSE, state="held", reason=_AWAY)
        else:
            self.note(0, FrameKind.PAUSE, state="resumed", reason="")
        for callback in list(self._on_notice):
            callback(WAITING if is_held else RESUMED)

    # -- frames -----------------------------------------------------------------------
    def write(self, channel: int, kind: FrameKind, data: bytes | memoryview) -> None:
        """Record bytes, of which a copy is made; more than a frame may have become several."""
        if kind in BYTES and len(data) > DATA_LIMIT:
            for at in range(0, len(data), DATA_LIMIT):
                self._write(channel, kind, bytes(data[at : at + DATA_LIMIT]))
        else:
            self._write(channel, kind, bytes(data))

    def _write(self, channel: int, kind: FrameKind, data: bytes) -> None:
        if not any(line.is_active for line in self._lines):
            return
        if kind not in UNNUMBERED:
            self.number += 1
        frame = Frame(self.elapsed(), channel, kind, data, self.number)
        outer, self._losses = self._losses, [] if self._losses is None else self._losses
        for line in self._lines:
            line.write(frame)
        losses, self._losses = self._losses, outer
        for name, reason in losses if outer is None else ():
            self.lost(name, reason)

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Record a fact."""
        self.write(channel, kind, _FACT(fields).encode())

    # -- failing ----------------------------------------------------------------------
    def on_loss(self, callback: Callable[[str, str], None]) -> None:
        """Call ``callback`` with recorder and reason when a session goes on that loses frames."""
        self._on_loss = callback

    def on_end(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback`` once, with the reason, when the session has to end.

        It is called at once if it has ended. Returns a function that ends this.
        """
        if self.ended_because:
            callback(self.ended_because)
        else:
            self._on_end[callback] = None
        return lambda: self._on_end.pop(callback, None)

    def lost(self, name: str, reason: str) -> None:
        """The recorder ``name`` loses frames, or has failed."""
        if self._losses is not None:
            self._losses.append((name, reason))
            return
        if self._closed or self.ended_because:
            return
        if self.strict:
            self.end(reason)
            return
        moment = self.elapsed()
        if moment - self._reported.get(name, -REPORT_AGAIN) >= REPORT_AGAIN:
            self._reported[name] = moment
            self._on_loss(name, reason)
        if self._hold is not None:
            self._hold.lost()

    def end(self, reason: str) -> None:
        """End the session: nothing is shown or started any more."""
        if self._closed or self.ended_because:
            return
        self.ended_because = f"the session cannot be recorded any more: {reason}"
        log.error(
            "session ended: not recorded",
            session_id=self.start.id,
            user=self.start.user,
            error=reason,
        )
        if self._hold is not None:
            self._hold.close(self.ended_because)
        ending, self._on_end = list(self._on_end), {}
        for callback in ending:
            callback(self.ended_because)

    def close(self, reason: str) -> None:
        """The connection ended."""
        self._closed = True
        if self._hold is not None:
            self._hold.close(reason)
        for line in self._lines:
            line.close(reason)
