"""What of a program is recorded?

:class:`RecordedPrograms` wraps the object that starts programs, so that sessions need not know
about recording.

Invariants:

* Output of a terminal is recorded completely. Other output is recorded up to a limit; bytes beyond
  it are counted in a gap: recordings must not hold a copy of every file that is transferred.
* Input is recorded only if configured.
* Whether content is recorded depends on the program that was launched, never on the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.model.frame import FrameKind
from tele.model.session import Launched
from tele.recording.tee import ConnectionTape

#: Bytes of a channel without a terminal that are recorded, each of output and errors.
CAPTURE_LIMIT: Final = 8 * 1024 * 1024


class ProgramTap:
    """Observes one program (see ``conch.session.programs.ITap``)."""

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
        """Whether the program is not to be read from for now."""
        return self._tape.paused

    def when_resumed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it may be read from again."""
        self._tape.when_resumed(callback)

    def _observe(self, kind: FrameKind, view: memoryview) -> None:
        length = len(view)
        self._seen[kind] += length
        if not self._terminal:
            left = (CAPTURE_LIMIT if self._content else 0) - self._kept[kind]
            if left <= 0:
                return
            view = view[:left]
        self._kept[kind] += len(view)
        self._tape.write(self._channel, kind, bytes(view))

    def output(self, view: memoryview) -> None:
        """The program wrote this."""
        self._observe(FrameKind.OUTPUT, view)

    def error(self, view: memoryview) -> None:
        """The program wrote this to its standard error."""
        self._observe(FrameKind.ERROR, view)

    def input(self, view: memoryview) -> None:
        """The client sent this."""
        if self._tape.record_input:
            self._observe(FrameKind.INPUT, view)
        else:
            self._seen[FrameKind.INPUT] += len(view)
            self._kept[FrameKind.INPUT] += len(view)

    def resized(self, columns: int, rows: int) -> None:
        """The window changed."""
        self._tape.note(self._channel, FrameKind.RESIZE, columns=columns, rows=rows)

    def exited(self, exit: Any) -> None:  # noqa: A002 (the name in ITap)
        """The program ended and all its output was observed."""
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

    ``programs`` is a ``conch.session.programs.ISessionPrograms`` that reports what it launches, as
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
