"""How does a session run a program on a server behind this one?

It is the server's end of a session as any other: the same requests, the same refusals. Only the
program is elsewhere.

Invariants:

* A peer gets credit when what it sent has left on the other side: the queue between the two is
  at most one window in each direction, and a recorder that is behind stops the server.
* How the program ended follows all of its output, with EOF: OpenSSH's client closes a session
  whose two directions have ended, and takes no status after that. No other request waits for data.
* The tap observes data before they are passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred

from tele.conch.connection.held_output import not_reported
from tele.conch.connection.permissions import permissions_of
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import (
    END_OF_WRITE,
    Exit,
    ISessionPrograms,
    ProgramRequest,
    PtyRequest,
)
from tele.conch.session.remote_output import RemoteOutput
from tele.conch.session.remote_program import IRemoteProgram
from tele.conch.session.runner import RunnerChannel
from tele.errors import Unavailable
from tele.wire.fields import uint32

_OPENSSH: Final = b"SSH-2.0-OpenSSH_"


class _Phase(Enum):
    STARTING = "the program is being started"
    STARTED = "it runs; its output is not passed on yet"
    RUNNING = "its output is passed on"
    ENDED = "it ended and its output was passed on"
    CLOSED = "the channel is closed"


class _Event(Enum):
    STARTED = "the program was started"
    OUTPUT = "output may be sent"
    ENDED = "it ended and its output was passed on"
    CLOSED = "the channel was closed"


_NEXT: Final[Mapping[_Phase, Mapping[_Event, _Phase]]] = {
    _Phase.STARTING: {_Event.STARTED: _Phase.STARTED, _Event.CLOSED: _Phase.CLOSED},
    _Phase.STARTED: {_Event.OUTPUT: _Phase.RUNNING, _Event.CLOSED: _Phase.CLOSED},
    _Phase.RUNNING: {_Event.ENDED: _Phase.ENDED, _Event.CLOSED: _Phase.CLOSED},
    _Phase.ENDED: {_Event.CLOSED: _Phase.CLOSED},
    # The client left while the program was started.
    _Phase.CLOSED: {_Event.STARTED: _Phase.CLOSED},
}


class RemoteRunner:
    """The :class:`~tele.conch.session.runner.Runner` of ``programs`` that run elsewhere (see
    :class:`IRemoteProgram`), for ``channel``.
    """

    def __init__(self, channel: RunnerChannel, programs: ISessionPrograms) -> None:
        self._channel = channel
        self._programs = programs
        self._phase = _Phase.STARTING
        self._program: Any = None
        self._output: Any = None
        self._has_terminal = self._has_ended = False
        self._unregister: Callable[[], None] = lambda: None

    def _advance(self, event: _Event) -> None:
        self._phase = _NEXT[self._phase][event]

    # -- starting ---------------------------------------------------------------------
    def set_env(self, name: str, value: str) -> bool:
        """See :class:`Runner`."""
        return self._programs.env_allowed(name)

    def request_pty(self, request: PtyRequest) -> bool:
        """See :class:`Runner`."""
        return permissions_of(self._channel.avatar).permit_pty

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`Runner`."""
        self._has_terminal = request.pty is not None
        starting: Deferred[Any] = self._programs.start(request, number)
        return starting.addCallback(self._started)

    def _started(self, program: Any) -> None:
        self._program = IRemoteProgram(program)
        self._output = RemoteOutput(self._channel, self._program, self._check_end)
        self._advance(_Event.STARTED)
        if self._phase is _Phase.CLOSED:
            self._leave()

    def start_input(self) -> None:
        """See :class:`Runner`."""

    def start_output(self) -> None:
        """See :class:`Runner`."""
        self._advance(_Event.OUTPUT)
        tap = self._program.tap
        if tap is not None and tap.holds and self._has_terminal:
            self._unregister = tap.on_notice(self._notice)
        self._program.attach(self)

    def _notice(self, text: str) -> None:
        self._channel.notice(text)

    # -- input ------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`Runner`."""
        program = self._program
        if program.tap is not None:
            program.tap.input(view)
            if program.tap.wants_typed:
                program.tap.typed_hidden()  # whether the terminal echoes is not seen from here
        queued = program.send_view(view)
        self._channel.consumed(len(view) - queued)

    def input_sent(self, count: int) -> None:
        """See :class:`~tele.conch.session.remote_program.OutputReceiver`."""
        self._channel.consumed(count)

    def input_ended(self) -> None:
        """See :class:`Runner`. What that means to a terminal is the server's to say."""
        self._program.send_eof()

    def input_closed(self) -> None:
        """Tell a client that knows this request (OpenSSH PROTOCOL, section 2.1)."""
        if self._channel.conn.transport.otherVersionString.startswith(_OPENSSH):
            self._channel.conn.sendRequest(self._channel, END_OF_WRITE, b"")

    # -- output -----------------------------------------------------------------------
    def output(self, code: int | None, view: memoryview) -> None:
        """See :class:`~tele.conch.session.remote_program.OutputReceiver`."""
        self._output.take(code, view)

    def output_sent(self, count: int) -> None:
        """Queued bytes were sent to the client."""
        if self._output is not None:
            self._output.sent(count)

    def resume_output(self) -> None:
        """See :class:`Runner`. Credit resumes the server."""

    def pause_output(self) -> None:
        """See :class:`Runner`. Without credit the server pauses."""

    def close_output(self) -> None:
        """See :class:`Runner`."""
        self._program.close_output()
        self._output.drop()
        self._check_end()

    # -- requests ---------------------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`Runner`."""
        self._program.resize(columns, rows, width, height)
        if self._program.tap is not None:
            self._program.tap.resized(columns, rows)

    def signal(self, name: str) -> bool:
        """See :class:`Runner`."""
        return bool(self._program.signal(name))

    def send_break(self) -> bool:
        """See :class:`Runner`."""
        return bool(self._program.send_break(uint32(0)))

    # -- the end ----------------------------------------------------------------------
    def ended(self) -> None:
        """See :class:`~tele.conch.session.remote_program.OutputReceiver`."""
        self._has_ended = True
        if self._phase is _Phase.CLOSED:
            self._notify_tap()
        else:
            self._check_end()

    def _check_end(self) -> None:
        """Pass the end on, after what waits for the tap."""
        if self._phase is not _Phase.RUNNING or not self._output.is_empty:
            return
        if self._has_ended:
            self._advance(_Event.ENDED)
            self._notify_tap()
            tap = self._program.tap
            wait = tap.hold() if tap is not None and tap.holds else None
            if wait is None:
                self._report_end()
            else:
                wait.addCallbacks(lambda _: self._report_end(), not_reported)

    def _report_end(self) -> None:
        if self._phase is _Phase.ENDED:
            self._channel.program_ended(self._program.exit)

    def _notify_tap(self) -> None:
        if self._program.tap is not None:
            self._program.tap.exited(self._program.exit)

    def close(self) -> None:
        """See :class:`Runner`."""
        self._unregister()
        was_running = self._phase in (_Phase.STARTED, _Phase.RUNNING)
        self._advance(_Event.CLOSED)
        if was_running:
            self._leave()

    def _leave(self) -> None:
        """The client is gone: hang the program up."""
        self._output.drop()
        self._program.hang_up()
        self._program.attach(self)


class RemoteSessionChannel(SessionChannel):
    """The server's end of a session whose programs run on a server behind this one."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, make_runner=self._make, **named)
        self._remote: RemoteRunner | None = None

    def _make(self, channel: RunnerChannel) -> RemoteRunner:
        programs = ISessionPrograms(channel.avatar, None)
        if programs is None:
            raise Unavailable("this server runs no programs")
        self._remote = RemoteRunner(channel, programs)
        return self._remote

    def queue_sent(self, count: int) -> None:
        """See :class:`Channel`."""
        if self._remote is not None:
            self._remote.output_sent(count)

    def program_ended(self, how: Exit) -> None:
        """See :class:`RunnerChannel`; the user is told why it is not known how it ended."""
        if how.status is None and how.signal is None and how.message:
            self.notice(how.message)
        super().program_ended(how)
