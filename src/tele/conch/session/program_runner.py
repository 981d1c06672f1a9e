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
from typing import Any, Final

from twisted.python.failure import Failure

from tele.conch.connection.held_pump import HeldPump
from tele.conch.connection.pumps import Observe, Pump, Sink
from tele.conch.session.echo import EchoFilter, TerminalSink
from tele.conch.session.programs import Exit, IHoldsDescriptors, IProgram, ISessionPrograms
from tele.conch.session.runner import RunnerChannel
from tele.conch.session.session_runner import Phase, RunnerEvent, SessionRunner, programs_of
from tele.log import make_logger
from tele.reactor import Reactor

log = make_logger(__name__)

STDERR: Final = 1


class ProgramRunner(SessionRunner):
    """The :class:`~tele.conch.session.runner.Runner` of ``programs``, for ``channel``."""

    def __init__(self, channel: RunnerChannel, programs: ISessionPrograms) -> None:
        super().__init__(channel, programs)
        #: Descriptors of the program that neither sink nor pumps own.
        self._descriptors: set[int] = set()
        self._sink: Sink | None = None
        self._echo: EchoFilter | None = None
        self._pumps: list[Pump] = []
        self._exit: Exit | None = None
        self._awaits_tap = False

    # -- starting ---------------------------------------------------------------------
    def _started(self, program: Any) -> None:
        self._program = IProgram(program)
        self._descriptors = {program.stdin, program.stdout, program.stderr} - {None}
        self._advance(RunnerEvent.STARTED)
        program.exited.addBoth(self._exited)
        if self._phase is Phase.CLOSED:
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
            return Sink(self._reactor, stdin, self._channel, self.input_closed)
        self._echo = EchoFilter(self._reactor, stdin, tap.typed, tap.typed_hidden)
        return TerminalSink(self._reactor, stdin, self._channel, self.input_closed, self._echo)

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
        self._show_notices()
        self._advance(RunnerEvent.OUTPUT)
        if self._exit is not None:
            self._finish_output()

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
        """See :class:`Runner`. The program reads it while it is observed, in the same turn."""
        tap = self._program.tap
        if self._has_terminal and tap is not None and tap.drops_input:
            self._channel.consumed(len(view))
            return
        if self._sink is None:
            self._channel.consumed(len(view))
        else:
            self._sink.write(view)
        if tap is not None:
            tap.input(view)

    def input_ended(self) -> None:
        """See :class:`Runner`. A terminal has no end of input but its hang-up."""
        if self._sink is not None and not self._has_terminal:
            self._sink.end()

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
        if self._phase is Phase.CLOSED:
            self._notify_tap()
        elif self._phase is Phase.RUNNING:
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
            or self._phase is not Phase.RUNNING
            or not all(pump.ended for pump in self._pumps)
        ):
            return
        self._end()

    def _how(self) -> Exit | None:
        return self._exit

    def _notify_tap(self) -> None:
        if self._echo is not None:
            self._echo.end()
        super()._notify_tap()

    def close(self) -> None:
        """See :class:`Runner`."""
        unreported = self._exit is not None and self._phase is not Phase.ENDED
        self._advance(RunnerEvent.CLOSED)
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


def run_programs(channel: RunnerChannel) -> ProgramRunner:
    """Return what runs the programs of the avatar of ``channel``."""
    return ProgramRunner(channel, programs_of(channel))
