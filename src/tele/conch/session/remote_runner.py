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

from typing import Any

from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import Exit, ISessionPrograms
from tele.conch.session.remote_output import RemoteOutput
from tele.conch.session.remote_program import IRemoteProgram
from tele.conch.session.runner import RunnerChannel
from tele.conch.session.session_runner import Phase, RunnerEvent, SessionRunner, programs_of
from tele.wire.fields import uint32


class RemoteRunner(SessionRunner):
    """The :class:`~tele.conch.session.runner.Runner` of ``programs`` that run elsewhere (see
    :class:`IRemoteProgram`), for ``channel``.
    """

    def __init__(self, channel: RunnerChannel, programs: ISessionPrograms) -> None:
        super().__init__(channel, programs)
        self._output: Any = None
        self._has_ended = False

    # -- starting ---------------------------------------------------------------------
    def _started(self, program: Any) -> None:
        self._program = IRemoteProgram(program)
        self._output = RemoteOutput(self._channel, self._program, self._check_end)
        self._advance(RunnerEvent.STARTED)
        if self._phase is Phase.CLOSED:
            self._leave()

    def start_input(self) -> None:
        """See :class:`Runner`."""

    def start_output(self) -> None:
        """See :class:`Runner`."""
        self._advance(RunnerEvent.OUTPUT)
        self._show_notices()
        self._program.attach(self)

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
    def send_break(self) -> bool:
        """See :class:`Runner`."""
        return bool(self._program.send_break(uint32(0)))

    # -- the end ----------------------------------------------------------------------
    def ended(self) -> None:
        """See :class:`~tele.conch.session.remote_program.OutputReceiver`."""
        self._has_ended = True
        if self._phase is Phase.CLOSED:
            self._notify_tap()
        else:
            self._check_end()

    def _check_end(self) -> None:
        """Pass the end on, after what waits for the tap."""
        if self._phase is not Phase.RUNNING or not self._output.is_empty:
            return
        if self._has_ended:
            self._end()

    def _how(self) -> Exit | None:
        how: Exit = self._program.exit
        return how

    def close(self) -> None:
        """See :class:`Runner`."""
        self._unregister()
        was_running = self._phase in (Phase.STARTED, Phase.RUNNING)
        self._advance(RunnerEvent.CLOSED)
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
        self._remote = RemoteRunner(channel, programs_of(channel))
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
