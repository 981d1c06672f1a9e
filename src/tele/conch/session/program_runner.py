"""How does a session run a program that has descriptors?

Invariants:

* The descriptors of a program are closed here, once, whatever happens first: the end of the
  program, of the client, or of a client before the program was started.
* All output is sent before the exit is reported. A session with a terminal ends with its program,
  though other processes may hold the terminal; one without when its pipes are closed.
"""

from __future__ import annotations

import os
import termios
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.held_output import not_reported
from tele.conch.connection.held_pump import HeldPump
from tele.conch.connection.permissions import permissions_of
from tele.conch.connection.pumps import Observe, Pump, Sink
from tele.conch.session.echo import EchoFilter, TerminalSink
from tele.conch.session.programs import (
    END_OF_WRITE,
    Exit,
    IHoldsDescriptors,
    IProgram,
    ISessionPrograms,
    ProgramRequest,
    PtyRequest,
)
from tele.conch.session.runner import RunnerChannel
from tele.errors import Unavailable
from tele.log import make_logger
from tele.reactor import Reactor

log = make_logger(__name__)

STDERR: Final = 1
_OPENSSH: Final = b"SSH-2.0-OpenSSH_"


class _Phase(Enum):
    STARTING = "the program is being started"
    STARTED = "it runs; its output is not read yet"
    RUNNING = "its output is read"
    ENDED = "it exited and its output was read"
    CLOSED = "the channel is closed"


class _Event(Enum):
    STARTED = "the program was started"
    OUTPUT = "output may be sent"
    ENDED = "it exited and its output was read"
    CLOSED = "the channel was closed"


_NEXT: Final[Mapping[_Phase, Mapping[_Event, _Phase]]] = {
    _Phase.STARTING: {_Event.STARTED: _Phase.STARTED, _Event.CLOSED: _Phase.CLOSED},
    _Phase.STARTED: {_Event.OUTPUT: _Phase.RUNNING, _Event.CLOSED: _Phase.CLOSED},
    _Phase.RUNNING: {_Event.ENDED: _Phase.ENDED, _Event.CLOSED: _Phase.CLOSED},
    _Phase.ENDED: {_Event.CLOSED: _Phase.CLOSED},
    # The client left while the program was started.
    _Phase.CLOSED: {_Event.STARTED: _Phase.CLOSED},
}


class ProgramRunner:
    """The :class:`~tele.conch.session.runner.Runner` of ``programs``, for ``channel``."""

    def __init__(self, channel: RunnerChannel, programs: ISessionPrograms) -> None:
        self._channel = channel
        self._programs = programs
        self._phase = _Phase.STARTING
        self._program: Any = None
        self._has_terminal = False
        #: Descriptors of the program that neither sink nor pumps own.
        self._descriptors: set[int] = set()
        self._sink: Sink | None = None
        self._echo: EchoFilter | None = None
        #: Ends messages of the tap.
        self._unregister: Callable[[], None] = _nothing
        self._pumps: list[Pump] = []
        self._exit: Exit | None = None
        self._awaits_tap = False

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
        self._program = IProgram(program)
        self._descriptors = {program.stdin, program.stdout, program.stderr} - {None}
        self._advance(_Event.STARTED)
        program.exited.addBoth(self._exited)
        if self._phase is _Phase.CLOSED:
            self._release()

    def start_input(self) -> None:
        """See :class:`Runner`."""
        stdin, stdout = self._program.stdin, self._program.stdout
        if stdin is not None:
            if stdin == stdout:
                stdin = os.dup(stdin)
            self._sink = self._make_sink(stdin)
            self._descriptors.discard(stdin)

    def _make_sink(self, stdin: int) -> Sink:
        tap = self._program.tap
        if not self._has_terminal or tap is None or not tap.wants_typed:
            return Sink(self._reactor, stdin, self._channel, self._input_closed)
        self._echo = EchoFilter(self._reactor, stdin, tap.typed, tap.typed_hidden)
        return TerminalSink(self._reactor, stdin, self._channel, self._input_closed, self._echo)

    def start_output(self) -> None:
        """See :class:`Runner`."""
        program, tap = self._program, self._program.tap
        for descriptor, code, observe in (
            (program.stdout, None, None if tap is None else tap.output),
            (program.stderr, STDERR, None if tap is None else tap.error),
        ):
            if descriptor is not None:
                pump = self._make_pump(descriptor, code, observe)
                self._pumps.append(pump)
                self._descriptors.discard(descriptor)
        if self._has_terminal and tap is not None and tap.holds:
            self._unregister = tap.on_notice(self._notice)
        self._advance(_Event.OUTPUT)
        if self._exit is not None:
            self._finish_output()

    def _notice(self, text: str) -> None:
        self._channel.notice(text)

    def _make_pump(self, descriptor: int, code: int | None, observe: Observe | None) -> Pump:
        reactor, channel, tap = self._reactor, self._channel, self._program.tap
        if tap is None or observe is None:
            return Pump(reactor, descriptor, channel, code, self._end_if_read)
        behind, done = self._tap_is_behind, self._end_if_read
        if tap.holds:
            return HeldPump(reactor, descriptor, channel, code, done, observe, behind, tap.hold)
        return Pump(reactor, descriptor, channel, code, done, observe, behind)

    @property
    def _reactor(self) -> Reactor:
        reactor: Reactor = self._channel.conn.transport.clock
        return reactor

    # -- data -------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`Runner`."""
        if self._program.tap is not None:
            self._program.tap.input(view)
        if self._sink is None:
            self._channel.consumed(len(view))
        else:
            self._sink.write(view)

    def input_ended(self) -> None:
        """See :class:`Runner`. A terminal has no end of input but its hang-up."""
        if self._sink is not None and not self._has_terminal:
            self._sink.end()

    def _input_closed(self) -> None:
        """Tell a client that knows this request (OpenSSH PROTOCOL, section 2.1)."""
        if self._channel.conn.transport.otherVersionString.startswith(_OPENSSH):
            self._channel.conn.sendRequest(self._channel, END_OF_WRITE, b"")

    def resume_output(self) -> None:
        """See :class:`Runner`."""
        for pump in list(self._pumps):
            pump.resume()

    def pause_output(self) -> None:
        """See :class:`Runner`. Pumps ask the channel themselves."""

    def close_output(self) -> None:
        """See :class:`Runner`.

        A program that writes to a closed pipe gets SIGPIPE. A terminal stays open, for input, and
        a program that writes to it blocks as soon as it is full, as under sshd.
        """
        for pump in self._pumps:
            pump.close()
        self._end_if_read()

    def _tap_is_behind(self) -> bool:
        tap = self._program.tap
        if not tap.paused:
            return False
        if not self._awaits_tap:
            self._awaits_tap = True
            tap.when_resumed(self._tap_resumed)
        return True

    def _tap_resumed(self) -> None:
        self._awaits_tap = False
        self.resume_output()

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
        if not self._pumps or self._pumps[0].ended:
            return False
        try:
            termios.tcsendbreak(self._program.stdout, 0)
        except termios.error:
            return False
        return True

    # -- the end ----------------------------------------------------------------------
    def _exited(self, result: Exit | Failure) -> None:
        if isinstance(result, Exit):
            self._exit = result
        else:
            log.failure("program lost", result)
            self._exit = Exit(None, message="the program was lost")
        if self._phase is _Phase.CLOSED:
            self._notify_tap()
        elif self._phase is _Phase.RUNNING:
            self._finish_output()

    def _finish_output(self) -> None:
        """The program exited: read what is left. As sshd does, wait for pipes to be closed, not for
        terminals.
        """
        if self._has_terminal:
            for pump in list(self._pumps):
                pump.finish()
        self._end_if_read()

    def _end_if_read(self) -> None:
        if (
            self._exit is None
            or self._phase is not _Phase.RUNNING
            or not all(pump.ended for pump in self._pumps)
        ):
            return
        self._advance(_Event.ENDED)
        self._notify_tap()
        tap = self._program.tap
        wait = tap.hold() if tap is not None and tap.holds else None
        if wait is None:
            self._report_end()
        else:
            wait.addCallbacks(lambda _: self._report_end(), not_reported)

    def _report_end(self) -> None:
        if self._phase is _Phase.ENDED and self._exit is not None:
            self._channel.program_ended(self._exit)

    def _notify_tap(self) -> None:
        if self._echo is not None:
            self._echo.end()
        if self._program.tap is not None:
            self._program.tap.exited(self._exit)

    def close(self) -> None:
        """See :class:`Runner`."""
        unreported = self._exit is not None and self._phase is not _Phase.ENDED
        self._advance(_Event.CLOSED)
        if self._program is None:
            return
        self._release()
        if unreported:
            self._notify_tap()

    def _release(self) -> None:
        """Close the descriptors, and hang up a program that still runs."""
        self._unregister()
        for pump in self._pumps:
            pump.close()
        if self._sink is not None:
            self._sink.close()
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self._exit is None:
            self._program.hang_up()
        holder = IHoldsDescriptors(self._program, None)
        if holder is not None:
            holder.descriptors_closed()


def _nothing() -> None:
    """There is nothing to end."""


def run_programs(channel: RunnerChannel) -> ProgramRunner:
    """Return what runs the programs of the avatar of ``channel``."""
    programs = ISessionPrograms(channel.avatar, None)
    if programs is None:
        raise Unavailable("this server runs no programs")
    return ProgramRunner(channel, programs)
