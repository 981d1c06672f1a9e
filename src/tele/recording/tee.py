"""How does what passes on a connection get onto its recording?

:class:`ConnectionTape` is one connection's; it opens the recording with the first channel.
:class:`RecordedPrograms` stands between a session and whoever starts its programs, so that
neither knows of the other.

Laws of this file:

* A terminal is recorded whole. Other output is recorded up to a limit, and what is beyond
  it is counted in a gap: a copy of every file that is copied is no record, it is a leak.
* Input is recorded only if asked for.
* Whether content is recorded follows from what was launched, never from what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.interfaces import IRecorder, IRecording
from tele.loop import make_logger
from tele.model.frame import Frame, FrameKind
from tele.model.session import Launched, RecordingStart

log = make_logger(__name__)

#: Bytes of a channel without a terminal that are recorded, each of output and errors.
CAPTURE_LIMIT: Final = 8 * 1024 * 1024


class ConnectionTape:
    """The recording of one connection. ``elapsed()`` is nanoseconds since its start."""

    def __init__(
        self,
        recorder: IRecorder,
        start: RecordingStart,
        elapsed: Callable[[], int],
        *,
        record_input: bool = False,
    ) -> None:
        self.record_input = record_input
        self._recorder = recorder
        self._start = start
        self._elapsed = elapsed
        self._opening: Deferred[IRecording] | None = None
        self._recording: Any = None
        self._waiting: list[Deferred[None]] = []

    async def ready(self) -> None:
        """Return when the recording is open; raises a TeleError if it cannot be."""
        if self._recording is not None:
            return
        if self._opening is None:
            self._opening = self._recorder.open(self._start)
            try:
                self._recording = await self._opening
            except Exception as error:
                # Whoever asks later makes it be tried again.
                self._opening = None
                for waiter in self._take_waiting():
                    waiter.errback(error)
                raise
            for waiter in self._take_waiting():
                waiter.callback(None)
            return
        answer: Deferred[None] = Deferred()
        self._waiting.append(answer)
        await answer

    def _take_waiting(self) -> list[Deferred[None]]:
        waiting, self._waiting = self._waiting, []
        return waiting

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
        self._recording.when_resumed(callback)

    def write(self, channel: int, kind: FrameKind, data: bytes) -> None:
        """Record bytes."""
        if self._recording is not None:
            self._recording.write(Frame(self._elapsed(), channel, kind, data))

    def note(self, channel: int, kind: FrameKind, /, **fields: Any) -> None:
        """Record a fact."""
        self.write(channel, kind, json.dumps(fields, sort_keys=True).encode())

    def close(self, reason: str) -> None:
        """The connection ended."""
        if self._recording is not None:
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
