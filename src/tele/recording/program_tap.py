"""What of a program is recorded?

:class:`RecordedPrograms` wraps the object that starts programs, so that sessions need not know
about recording.

Invariants:

* Output of a terminal is recorded completely. Of other output the beginning and the end are
  recorded, and the SHA-256 of all of it; bytes between them are counted in a gap: recordings must
  not hold a copy of every file that is transferred.
* Input is recorded only if configured; on a terminal only what it showed, so no password.
* Whether content is recorded depends on the program that was launched, never on the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.model.frame import FrameKind
from tele.model.session import Launched
from tele.recording.capture import Capture, CaptureLimits
from tele.recording.tee import ConnectionTape

NOT_SHOWN: Final = "input of a terminal is not recorded unless the terminal is known to echo"
#: The streams of a program, as frames of CAPTURE name them.
_STREAMS: Final = {
    FrameKind.OUTPUT: "output",
    FrameKind.ERROR: "error",
    FrameKind.INPUT: "input",
}


class ProgramTap:
    """Observes one program (see ``conch.session.programs.ITap``).

    With a ``terminal`` all of its output is recorded; otherwise as much as ``limits`` allow, and
    nothing without ``content``.
    """

    drops_input = False

    def __init__(
        self,
        tape: ConnectionTape,
        channel: int,
        limits: CaptureLimits,
        *,
        terminal: bool,
        content: bool,
    ) -> None:
        self._tape = tape
        self._channel = channel
        self._terminal = terminal
        self._captures: dict[FrameKind, Capture] = {}
        if content and not terminal:
            recorded = [FrameKind.OUTPUT, FrameKind.ERROR]
            if tape.record_input:
                recorded.append(FrameKind.INPUT)
            self._captures = {kind: Capture(limits) for kind in recorded}
        #: Up to where the SHA-256 of a stream was recorded while it passed.
        self._captured: dict[FrameKind, int] = {}
        #: Whether it was told that there is input that is not recorded.
        self._hidden = False
        #: Bytes of files that passed.
        self._files = {FrameKind.OUTPUT: 0, FrameKind.ERROR: 0, FrameKind.INPUT: 0}

    @property
    def paused(self) -> bool:
        """Whether the program is not to be read from for now."""
        return self._tape.paused

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it may be read from again."""
        self._tape.when_resumed(callback)

    @property
    def holds(self) -> bool:
        """Whether output waits for :meth:`hold`."""
        return self._tape.holds

    def hold(self) -> Deferred[None] | None:
        """Hold what was recorded so far: None if it may reach the client now.

        Of output that is not recorded itself the SHA-256 is at auth first.
        """
        for kind, capture in self._captures.items():
            if capture.is_beyond_head and capture.count != self._captured.get(kind):
                self._captured[kind] = capture.count
                self._tape.note(
                    self._channel,
                    FrameKind.CAPTURE,
                    stream=_STREAMS[kind],
                    bytes=capture.count,
                    sha256=capture.sha256,
                    so_far=True,
                )
        return self._tape.held(self._tape.number)

    def on_notice(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback`` with messages for the user until what is returned is called."""
        return self._tape.on_notice(callback)

    def _observe(self, kind: FrameKind, views: Sequence[memoryview]) -> None:
        if not self._terminal:
            capture = self._captures.get(kind)
            if capture is None:
                self._files[kind] += sum(map(len, views))
                return
            views = capture.take(*views)
        for view in views:
            self._tape.write(self._channel, kind, view)

    def output(self, *views: memoryview) -> None:
        """The program wrote this."""
        self._observe(FrameKind.OUTPUT, views)

    def error(self, *views: memoryview) -> None:
        """The program wrote this to its standard error."""
        self._observe(FrameKind.ERROR, views)

    def input(self, view: memoryview) -> None:
        """The client sent this."""
        if self._tape.record_input and not self._terminal:
            self._observe(FrameKind.INPUT, (view,))

    @property
    def wants_typed(self) -> bool:
        """Whether to tell what is typed on a terminal."""
        return self._terminal and self._tape.record_input

    def typed(self, data: bytes) -> None:
        """The terminal took this and showed it."""
        self._tape.write(self._channel, FrameKind.INPUT, data)

    def typed_hidden(self) -> None:
        """The terminal took something and did not show it: said once, without its length."""
        if not self._hidden:
            self._hidden = True
            self._tape.note(self._channel, FrameKind.GAP, lost={}, reason=NOT_SHOWN)

    def resized(self, columns: int, rows: int) -> None:
        """The window changed."""
        self._tape.note(self._channel, FrameKind.RESIZE, columns=columns, rows=rows)

    def exited(self, exit: Any) -> None:  # noqa: A002 (the name in ITap)
        """The program ended and all its output was observed."""
        self._end_files()
        self._end_captures()
        if exit.signal is not None:
            self._tape.note(self._channel, FrameKind.EXIT, signal=exit.signal, core=exit.core)
        else:
            self._tape.note(self._channel, FrameKind.EXIT, status=exit.status)
        self._tape.note(self._channel, FrameKind.CLOSE)

    def _end_files(self) -> None:
        lost = {_STREAMS[kind]: count for kind, count in self._files.items() if count}
        if lost:
            self._tape.note(self._channel, FrameKind.GAP, lost=lost, reason="file transfer")

    def _end_captures(self) -> None:
        for kind, capture in self._captures.items():
            captured, stream = capture.end(), _STREAMS[kind]
            if captured.lost:
                kept = f"the first {captured.head} and the last {len(captured.tail)} bytes"
                self._tape.note(
                    self._channel,
                    FrameKind.GAP,
                    lost={stream: captured.lost},
                    reason=f"only {kept} of {stream} are recorded",
                )
            if captured.tail:
                self._tape.write(self._channel, kind, captured.tail)
            self._tape.note(
                self._channel,
                FrameKind.CAPTURE,
                stream=stream,
                bytes=captured.count,
                sha256=captured.sha256,
                head=captured.head,
                tail=len(captured.tail),
            )


class RecordedPrograms:
    """Starts programs through ``programs``, recorded.

    ``programs`` is a ``conch.session.programs.ISessionPrograms`` that reports what it launches, as
    ``node.programs.NodePrograms`` does. ``limits`` are for what has no terminal.
    """

    def __init__(self, programs: Any, tape: ConnectionTape, limits: CaptureLimits) -> None:
        self._programs = programs
        self._tape = tape
        self._limits = limits

    def env_allowed(self, name: str) -> bool:
        """Whether the client may set this variable."""
        return bool(self._programs.env_allowed(name))

    def start(
        self,
        request: Any,
        channel_number: int,
        launching: Callable[[Launched], None] = lambda _: None,
    ) -> Deferred[Any]:
        """Run a program, when the recording is open.

        ``launching`` is called with what is launched, right before.
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
            self._limits,
            terminal=request.pty is not None,
            content=not known[-1].files,
        )
        return program

    def _open(self, request: Any, channel: int, launched: Launched, asked: Launched) -> None:
        pty = request.pty
        opened: dict[str, Any] = {"kind": launched.kind, "command": _text(launched.command)}
        if (launched.kind, launched.command) != (asked.kind, asked.command):
            opened["asked"] = {"kind": asked.kind, "command": _text(asked.command)}
        if pty is not None:
            pty = {"term": pty.term, "columns": pty.columns, "rows": pty.rows}
        self._tape.note(channel, FrameKind.OPEN, env=dict(request.env), pty=pty, **opened)


def _text(command: bytes) -> str:
    return command.decode("utf-8", "replace")
