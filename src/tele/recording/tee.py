"""How does what passes on a connection get onto its recording?

:class:`ConnectionTape` is one connection's; it opens the recording with the first channel.
:class:`RecordedPrograms` stands between a session and whoever starts its programs, so that
neither knows of the other.

Invariants:

* A terminal is recorded whole. Other output is recorded up to a limit, and what is beyond
  it is counted in a gap: a copy of every file that is copied is no record, it is a leak.
* Input is recorded only if asked for.
* Whether content is recorded follows from what was launched, never from what was asked for.
* A session that cannot be recorded is refused if a role says so. If none does it goes on, with one
  line in the log and a word in the audit; what is launched and the like is kept, the rest is
  counted, and both are on the recording, with a gap, as soon as it can be opened. The person is
  not told: whoever filled the disk would learn that it worked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.errors import TeleError, Unavailable
from tele.interfaces import IRecorder
from tele.log import make_logger
from tele.model.frame import Frame, FrameKind
from tele.model.session import Launched, RecordingStart
from tele.single_flight import SingleFlight
from tele.tape.writer import BYTES

log = make_logger(__name__)

#: Bytes of a channel without a terminal that are recorded, each of output and errors.
CAPTURE_LIMIT: Final = 8 * 1024 * 1024


#: Bytes of facts that are kept of a session that is not recorded yet.
KEPT_LIMIT: Final = 64 * 1024
#: Nanoseconds between two attempts to record a session that goes on without.
AGAIN: Final = 1_000_000_000


class _Backlog:
    """What passes while there is no recording: facts are kept, up to a limit, and bytes counted."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._size = 0
        self._lost: Counter[str] = Counter()
        self._reasons: dict[str, None] = {}

    def keep(self, frame: Frame) -> None:
        """Keep or count one frame."""
        if frame.kind in BYTES or self._size + len(frame.data) > KEPT_LIMIT:
            self._lost[frame.kind.name.lower()] += len(frame.data)
            return
        self._size += len(frame.data)
        self.frames.append(frame)

    def because(self, reason: str) -> None:
        """It cannot be recorded for this reason, too."""
        self._reasons[reason] = None

    def gap(self, time: int) -> Frame:
        """Return the frame that says what is not there."""
        said = {"lost": dict(self._lost), "reason": "; ".join(self._reasons)}
        return Frame(time, 0, FrameKind.GAP, json.dumps(said).encode())


class ConnectionTape:
    """The recording of one connection. ``elapsed()`` is nanoseconds since its start.

    With ``strict`` nothing runs that cannot be recorded.
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
        self._recording: Any = None
        self._backlog: _Backlog | None = None
        self._tried = 0
        self._ended: str | None = None

    async def ready(self) -> None:
        """Return when the recording is open; raises a TeleError if it cannot be.

        If it need not be it returns also when it cannot be opened for now.
        """
        if self._recording is None and self._backlog is None:
            await self._opening.call()

    async def _open(self) -> None:
        self._tried = self._elapsed()
        try:
            recording = await self._recorder.open(self._start)
        except Unavailable as error:  # for now; whatever else it says is a refusal
            if self._strict:
                raise
            self._not_recorded(str(error))
            return
        self._recording = recording
        self._write_backlog()
        if self._ended is not None:
            self._close(self._ended)
            raise Unavailable("the connection ended while its recording was opened")

    def _not_recorded(self, reason: str) -> None:
        if self._backlog is None:
            self._backlog = _Backlog()
            self.problem = reason
            log.warn(
                "session {id} of {user!r} goes on and is not recorded: {why}",
                id=self._start.id, user=self._start.user, why=reason,
            )  # fmt: skip
        self._backlog.because(reason)

    def _write_backlog(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is None:
            return
        for frame in (*backlog.frames, backlog.gap(self._elapsed())):
            self._recording.write(frame)
        log.info("session {id} is recorded from now on", id=self._start.id)

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
                else log.failure("a recording could not be opened", failure=failure)
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
        """Call ``callback`` once, when it is not behind any more."""
        if self._recording is None:
            callback()
        else:
            self._recording.when_resumed(callback)

    def write(self, channel: int, kind: FrameKind, data: bytes) -> None:
        """Record bytes."""
        if self._recording is not None:
            self._recording.write(Frame(self._elapsed(), channel, kind, data))
        elif self._backlog is not None:
            self._backlog.keep(Frame(self._elapsed(), channel, kind, data))
            self._try_again()

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Record a fact."""
        self.write(channel, kind, json.dumps(fields, sort_keys=True).encode())

    def close(self, reason: str) -> None:
        """The connection ended."""
        self._ended = reason
        if self._recording is not None:
            self._close(reason)
        elif self._backlog is not None:
            self._try_again()  # the last chance

    def _close(self, reason: str) -> None:
        recording, self._recording = self._recording, None
        recording.close(reason).addErrback(
            lambda failure: log.error("a recording is not closed: {why!s}", why=failure.value)
        )


class ProgramTap:
    """Hears one program (the attributes of ``conch.programs.ITap``)."""

    def __init__(
        self, tape: ConnectionTape, channel: int, *, terminal: bool, content: bool
    ) -> None:
        self._tape = tape
        self._channel = channel
        self._terminal = terminal
        self._content = content
        self._seen = {FrameKind.OUTPUT: 0, FrameKind.ERROR: 0, FrameKind.INPUT: 0}
        self._kept = dict(self._seen)

    @property
    def paused(self) -> bool:
        """Whether to read nothing more for now."""
        return self._tape.paused

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it may go on."""
        self._tape.when_resumed(callback)

    def _hear(self, kind: FrameKind, view: memoryview) -> None:
        length = len(view)
        self._seen[kind] += length
        if not self._terminal:
            room = (CAPTURE_LIMIT if self._content else 0) - self._kept[kind]
            if room <= 0:
                return
            view = view[:room]
        self._kept[kind] += len(view)
        self._tape.write(self._channel, kind, bytes(view))

    def output(self, view: memoryview) -> None:
        """The program wrote this."""
        self._hear(FrameKind.OUTPUT, view)

    def error(self, view: memoryview) -> None:
        """The program wrote this to its standard error."""
        self._hear(FrameKind.ERROR, view)

    def input(self, view: memoryview) -> None:
        """The client sent this."""
        if self._tape.record_input:
            self._hear(FrameKind.INPUT, view)
        else:
            self._seen[FrameKind.INPUT] += len(view)
            self._kept[FrameKind.INPUT] += len(view)

    def resized(self, columns: int, rows: int) -> None:
        """The window changed."""
        self._tape.note(self._channel, FrameKind.RESIZE, columns=columns, rows=rows)

    def exited(self, exit: Any) -> None:  # noqa: A002 (the name in ITap)
        """The program ended and all that it wrote was heard."""
        lost = {
            kind.name.lower(): self._seen[kind] - self._kept[kind]
            for kind in self._seen
            if self._seen[kind] > self._kept[kind]
        }
        if lost:
            reason = f"beyond the first {CAPTURE_LIMIT} bytes" if self._content else "file transfer"
            self._tape.note(self._channel, FrameKind.GAP, lost=lost, reason=reason)
        if exit.signal is not None:
            self._tape.note(self._channel, FrameKind.EXIT, signal=exit.signal, core=exit.core)
        else:
            self._tape.note(self._channel, FrameKind.EXIT, status=exit.status)
        self._tape.note(self._channel, FrameKind.CLOSE)


class RecordedPrograms:
    """Starts programs through ``programs``, recorded.

    ``programs`` is a ``conch.programs.ISessionPrograms`` that says what it launches, as
    ``node.programs.NodePrograms`` does.
    """

    def __init__(self, programs: Any, tape: ConnectionTape) -> None:
        self._programs = programs
        self._tape = tape

    def env_allowed(self, name: str) -> bool:
        """Whether the client may set this variable."""
        return bool(self._programs.env_allowed(name))

    def start(
        self,
        request: Any,
        channel_number: int,
        launching: Callable[[Launched], None] = lambda _: None,
    ) -> Deferred[Any]:
        """Run a program; nothing runs that cannot be recorded.

        ``launching`` is called with what is launched, right before it is.
        """
        return Deferred.fromCoroutine(self._start(request, channel_number, launching))

    async def _start(
        self, request: Any, channel: int, launching: Callable[[Launched], None]
    ) -> Any:
        await self._tape.ready()
        asked = Launched(request.kind, request.command)
        known: list[Launched] = []

        def opens(launched: Launched) -> None:
            known.append(launched)
            self._open(request, channel, launched, asked)
            launching(launched)

        try:
            program = await self._programs.start(request, channel, opens)
        except Exception as error:
            if not known:
                self._open(request, channel, asked, asked)
            self._tape.note(channel, FrameKind.CLOSE, error=str(error)[:512])
            raise
        program.tap = ProgramTap(
            self._tape,
            channel,
            terminal=request.pty is not None,
            content=not known[-1].files,
        )
        return program

    def _open(self, request: Any, channel: int, launched: Launched, asked: Launched) -> None:
        pty = request.pty
        said: dict[str, Any] = {"kind": launched.kind, "command": _text(launched.command)}
        if (launched.kind, launched.command) != (asked.kind, asked.command):
            said["asked"] = {"kind": asked.kind, "command": _text(asked.command)}
        if pty is not None:
            pty = {"term": pty.term, "columns": pty.columns, "rows": pty.rows}
        self._tape.note(channel, FrameKind.OPEN, env=dict(request.env), pty=pty, **said)


def _text(command: bytes) -> str:
    return command.decode("utf-8", "replace")
