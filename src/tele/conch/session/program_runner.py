"""How does a session run a program that has descriptors?

Invariants:

* The descriptors of a program are closed here, once, whatever happens first: its end, the
  client's, or a client that left before it was started.
* Output is all there before the end is told. A session with a terminal ends with its
  program, though others may hold the terminal; without one, when its pipes are closed.
"""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from tele.conch.connection.pumps import Pump, Sink
from tele.conch.session.programs import (
    END_OF_WRITE,
    Exit,
    IHoldsDescriptors,
    IProgram,
    ProgramRequest,
    PtyRequest,
)
from tele.log import make_logger

if TYPE_CHECKING:
    from tele.conch.session.channel import SessionChannel

log = make_logger(__name__)

STDERR = 1
_OPENSSH = b"SSH-2.0-OpenSSH_"


class ProgramRunner:
    """Runs one program of ``programs`` (:class:`ISessionPrograms`) for ``channel``."""

    def __init__(self, channel: SessionChannel, programs: Any) -> None:
        self._channel = channel
        self._programs = programs
        self._program: Any = None
        self._terminal = False
        self._sink: Sink | None = None
        self._pumps: list[Pump] = []
        self._exit: Exit | None = None
        self._told = False
        self._connected = False
        self._closed = False
        self._awaits_tap = False

    # -- starting ---------------------------------------------------------------------
    def env(self, name: str, value: str) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        return bool(self._programs.env_allowed(name))

    def terminal(self, request: PtyRequest) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        grant = getattr(self._channel.avatar, "grant", None)
        return grant is None or bool(grant.permit_pty)

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """See :class:`tele.conch.session.channel.Runner`."""
        self._terminal = request.pty is not None
        starting: Deferred[Any] = self._programs.start(request, number)
        return starting.addCallback(self._started)

    def _started(self, program: Any) -> None:
        self._program = IProgram(program)
        program.exited.addBoth(self._exited)
        if self._closed:
            self._let_go()

    def connect(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        self._connected = True
        stdin, stdout = self._program.stdin, self._program.stdout
        if stdin is not None:
            if stdin == stdout:
                stdin = os.dup(stdin)
            self._sink = Sink(self._reactor, stdin, self._channel, self._input_refused)

    def go(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        program = self._program
        tap = program.tap
        for descriptor, code, hear in (
            (program.stdout, None, None if tap is None else tap.output),
            (program.stderr, STDERR, None if tap is None else tap.error),
        ):
            if descriptor is not None:
                behind = None if tap is None else self._tap_is_behind
                pump = Pump(
                    self._reactor, descriptor, self._channel, code, self._tell, hear, behind
                )
                self._pumps.append(pump)
        if self._exit is not None:
            self._ending()

    @property
    def _reactor(self) -> Any:
        return self._channel.conn.transport.clock

    # -- bytes ------------------------------------------------------------------------
    def input(self, view: memoryview) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        if self._program.tap is not None:
            self._program.tap.input(view)
        if self._sink is None:
            self._channel.consumed(len(view))
        else:
            self._sink.write(view)

    def input_ended(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`. A terminal has no end but its hang-up."""
        if self._sink is not None and not self._terminal:
            self._sink.end()

    def _input_refused(self) -> None:
        """Tell a client that would understand (OpenSSH PROTOCOL, section 2.1)."""
        if self._channel.conn.transport.otherVersionString.startswith(_OPENSSH):
            self._channel.conn.sendRequest(self._channel, END_OF_WRITE, b"")

    def kick(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        for pump in list(self._pumps):
            pump.kick()

    def output_refused(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`.

        What writes into a closed pipe hears of it by SIGPIPE. A terminal stays open, for keys, and
        what writes to it waits as soon as it is full: as under sshd, instead of sending for ever
        what the client throws away.
        """
        for pump in self._pumps:
            pump.close()
        self._tell()

    def stop_output(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`. Pumps look for themselves."""

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
        self.kick()

    # -- what else a client asks ------------------------------------------------------
    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        self._program.resize(columns, rows, width, height)
        if self._program.tap is not None:
            self._program.tap.resized(columns, rows)

    def signal(self, name: str) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        return bool(self._program.signal(name))

    def send_break(self) -> bool:
        """See :class:`tele.conch.session.channel.Runner`."""
        if not self._pumps or self._pumps[0].ended:
            return False
        try:
            termios.tcsendbreak(self._program.stdout, 0)
        except termios.error:
            return False
        return True

    # -- the end ----------------------------------------------------------------------
    def _exited(self, result: Any) -> None:
        if isinstance(result, Exit):
            self._exit = result
        else:
            log.failure("a program was lost", result)
            self._exit = Exit(None, message="the program was lost")
        if self._closed:
            self._tell_tap()
        elif self._connected:
            self._ending()

    def _ending(self) -> None:
        """It ended: read what is left. As sshd does, wait for pipes, not for terminals."""
        if self._terminal:
            for pump in list(self._pumps):
                pump.finish()
        self._tell()

    def _tell(self) -> None:
        if self._exit is None or self._closed or not all(pump.ended for pump in self._pumps):
            return
        self._tell_tap()
        self._channel.program_ended(self._exit)

    def _tell_tap(self) -> None:
        tap = self._program.tap
        if tap is not None and not self._told:
            self._told = True
            tap.exited(self._exit)

    def close(self) -> None:
        """See :class:`tele.conch.session.channel.Runner`."""
        self._closed = True
        if self._program is not None:
            self._let_go()

    def _let_go(self) -> None:
        program = self._program
        if self._connected:
            for pump in self._pumps:
                pump.close()
            if self._sink is not None:
                self._sink.close()
        else:
            for descriptor in {program.stdin, program.stdout, program.stderr} - {None}:
                os.close(descriptor)
        if self._exit is None:
            program.hang_up()
        holder: Any = IHoldsDescriptors(program, None)
        if holder is not None:
            holder.descriptors_closed()
