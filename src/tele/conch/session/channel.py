"""What does a client ask of a session, and how is it told the end (RFC 4254, section 6)?

Reads requests and reports how the program exited; a :class:`~tele.conch.session.runner.Runner`
runs it.

Invariants:

* One program for each channel. Input that comes before the program runs is queued, at most a
  window.
* Output follows the reply to the request that started the program; the exit status follows all
  output; CLOSE follows the exit status.
* A refused request is answered with a failure and logged with the reason. The reason for a refused
  command, which users wait for, goes to standard error.
* A field that exceeds our limits is refused; one that is malformed ends the connection.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Answer, read_all
from tele.conch.connection.refusals import terminal_lines
from tele.conch.session.program_runner import run_programs
from tele.conch.session.programs import END_OF_WRITE, Exit, ProgramRequest, PtyRequest
from tele.conch.session.runner import MakeRunner, Runner, RunnerChannel
from tele.conch.session.session_forwarding import (
    AGENT_REQUEST,
    IDisplay,
    ISessionForwards,
    read_display,
)
from tele.conch.session.session_phases import NEXT, Event, Phase
from tele.conch.session.session_requests import TERM_LIMIT, read_pty, read_size, signal_name
from tele.conch.transport.outgoing import SEND_BATCH
from tele.errors import TeleError, quoted
from tele.log import make_logger
from tele.wire.fields import boolean, string, uint32

log = make_logger(__name__)

STDERR: Final = 1
#: Variables that a client may set; bytes of a variable's or a signal's name.
ENVIRONMENT_LIMIT: Final = 128
NAME_LIMIT: Final = 256
#: Bytes that execve takes as one string, its NUL included (MAX_ARG_STRLEN): of a command, and of
#: all variables together.
STRING_LIMIT: Final = 128 * 1024
#: The exit status when no program could be started.
FAILED_STATUS: Final = 254

_RUNNING: Final = Phase.RUNNING  # looked up for each packet of input
_HAS_PROGRAM: Final = (Phase.STARTED, Phase.RUNNING)
_HAS_OUTPUT: Final = (Phase.RUNNING, Phase.EXITED)
_TAKES_INPUT: Final = (Phase.IDLE, Phase.STARTING, Phase.STARTED)


class SessionChannel(RunnerChannel):
    """The server's end of a session. ``make_runner`` makes what runs its program, at the first
    request that needs it.
    """

    name = b"session"

    def __init__(self, *args: Any, make_runner: MakeRunner = run_programs, **named: Any) -> None:
        super().__init__(*args, **named)
        self._make_runner = make_runner
        self._phase = Phase.IDLE
        self._env: dict[str, str] = {}
        self._pty: PtyRequest | None = None
        self._display: IDisplay | None = None
        self._early = Backlog()
        self._exit = Exit(None)

    @cached_property
    def _runner(self) -> Runner:
        return self._make_runner(self)

    @property
    def has_terminal(self) -> bool:
        """Whether the client has requested a terminal, and got it."""
        return self._pty is not None

    def _advance(self, event: Event) -> None:
        self._phase = NEXT[self._phase][event]

    # -- requests ---------------------------------------------------------------------
    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """Call ``request_<name>``, or the method of a request with ``@`` in its name."""
        if requestType == AGENT_REQUEST:
            return self._forward_agent(data)
        if requestType == END_OF_WRITE:
            return self._close_output(data)
        return super().requestReceived(requestType, data)

    def _close_output(self, data: bytes) -> bool:
        """``ssh host yes | head``: the client takes no more output."""
        read_all(data, lambda _: None)
        if self._phase is Phase.RUNNING:
            self._runner.close_output()
        return True

    def request_env(self, data: bytes) -> Answer:
        """Set an environment variable."""
        name, value = read_all(data, lambda r: (r.string(), r.string()))
        shown = quoted(name)
        if self._phase is not Phase.IDLE:
            return self.decline(f"variable {shown} after the program was started")
        if len(name) > NAME_LIMIT or not name.isascii() or b"\0" in value:
            return self.decline(f"{shown} is no variable, or its value holds NUL")
        size = len(name) + len(value) + 2  # as execve counts it: NAME=value and NUL
        octets = sum(len(k) + len(os.fsencode(v)) + 2 for k, v in self._env.items())
        if len(self._env) >= ENVIRONMENT_LIMIT or octets + size > STRING_LIMIT:
            return self.decline(
                f"variable {shown} of {size} bytes exceeds the limit of {ENVIRONMENT_LIMIT}"
                f" variables of {STRING_LIMIT} bytes together"
            )
        key, text = name.decode("ascii"), os.fsdecode(value)
        if not self._runner.set_env(key, text):
            return self.decline(f"variable {shown} may not be set by clients")
        self._env[key] = text
        return True

    def request_pty_req(self, data: bytes) -> Answer:
        """Request a terminal for the program."""
        pty = read_all(data, read_pty)
        if pty is None:
            return self.decline(f"TERM is longer than {TERM_LIMIT} characters or not printable")
        if self._phase is not Phase.IDLE or self._pty is not None:
            return self.decline("the session has a terminal or a program already")
        if not self._runner.request_pty(pty):
            return self.decline("a terminal is not permitted")
        self._pty = pty
        return True

    def _forward_agent(self, data: bytes) -> Answer:
        read_all(data, lambda _: None)
        forwards = ISessionForwards(self.avatar, None)
        if forwards is None or self._phase is not Phase.IDLE:
            return False
        forwarding: Deferred[Any] = forwards.agent()
        return forwarding.addCallbacks(lambda _: True, self._not_forwarded)

    def request_x11_req(self, data: bytes) -> Answer:
        """Forward the client's display."""
        forwards = ISessionForwards(self.avatar, None)
        if forwards is None or self._phase is not Phase.IDLE or self._display is not None:
            return self.decline("X11 is not forwarded here, or not after another request")
        request = read_all(data, read_display)
        if request is None:
            return self.decline("xauth cannot take this authentication protocol or cookie")
        forwarding: Deferred[Any] = forwards.display(request)
        return forwarding.addCallbacks(self._has_display, self._not_forwarded)

    def _has_display(self, display: IDisplay) -> bool:
        if not self.is_open:
            display.close()
            return False
        self._display = display
        return True

    def _not_forwarded(self, failure: Failure) -> bool:
        failure.trap(TeleError)
        log.info(
            "session forwarding refused", user=str(self.avatar), error=failure.getErrorMessage()
        )
        return False

    def request_shell(self, data: bytes) -> Answer:
        """Run the login shell."""
        read_all(data, lambda _: None)
        return self._start("shell", b"")

    def request_exec(self, data: bytes) -> Answer:
        """Run a command."""
        return self._start("exec", read_all(data, lambda r: r.string()))

    def request_subsystem(self, data: bytes) -> Answer:
        """Run a subsystem."""
        return self._start("subsystem", read_all(data, lambda r: r.string()))

    def request_window_change(self, data: bytes) -> Answer:
        """Set the size of the terminal."""
        columns, rows, width, height = read_all(data, read_size)
        if self._pty is None:
            return False
        if self._phase in _HAS_PROGRAM:
            self._runner.resize(columns, rows, width, height)
        else:
            self._pty = evolve(self._pty, columns=columns, rows=rows, width=width, height=height)
        return True

    def request_signal(self, data: bytes) -> Answer:
        """Signal the program."""
        name = read_all(data, lambda r: r.string())
        if self._phase not in _HAS_PROGRAM:
            return self.decline("no program is running")
        known = len(name) <= NAME_LIMIT and name.isalnum()
        if not known or not self._runner.signal(name.decode("ascii")):
            return self.decline(f"signal {quoted(name)} cannot be sent to this program")
        return True

    def request_break(self, data: bytes) -> Answer:
        """Send a break (RFC 4335); a pseudo-terminal ignores its length."""
        read_all(data, lambda r: r.uint32())
        return self._phase in _HAS_PROGRAM and self._pty is not None and self._runner.send_break()

    # -- starting ---------------------------------------------------------------------
    def _start(self, kind: str, command: bytes) -> Answer:
        if self._phase is not Phase.IDLE:
            return self.decline("the session has a program already")
        self._advance(Event.REQUESTED)
        if b"\0" in command or len(command) >= STRING_LIMIT:
            error = (
                f"a command of {len(command)} bytes cannot be run: at most {STRING_LIMIT - 1}, and"
                " no NUL; send what is longer on standard input, or in a file"
            )
            log.info("command refused", user=str(self.avatar), error=error)
            return self._fail(error)
        request = ProgramRequest(kind, command, dict(self._env), self._pty, self._display)
        starting = maybeDeferred(lambda: self._runner.start(request, (self.id or 0) + 1))
        return starting.addCallbacks(self._has_started, self._not_started)

    def _has_started(self, _: object) -> bool:
        if self.is_open:
            self._advance(Event.STARTED)
        return self.is_open

    def _not_started(self, failure: Failure) -> bool:
        error = failure.value
        if isinstance(error, TeleError):
            return self._fail(str(error))
        log.failure("program start failed", failure)
        return self._fail("the session could not be started")

    def _fail(self, text: str) -> bool:
        """No program runs. Clients show standard error, and nothing of a refused request: accept
        it, and tell the user there.
        """
        self._advance(Event.FAILED)
        self._exit = Exit(FAILED_STATUS, message=text)
        return True

    def replied(self) -> None:
        """Output may follow the reply now, not before it."""
        if not self.is_open:
            return
        if self._phase is Phase.STARTED:
            self._advance(Event.ANSWERED)
            self._run()
        elif self._phase is Phase.FAILED:
            self._advance(Event.ANSWERED)
            self.writeExtended(STDERR, terminal_lines(self._exit.message))
            self._report_exit()

    def _run(self) -> None:
        runner = self._runner
        runner.start_input()
        while self._early:
            view, _ = self._early.first(self.localMaxPacket)
            with view:
                size = len(view)
                runner.input(view)
            self._early.drop(size)
        if self.remote_eof:
            runner.input_ended()
        if self.is_open:
            runner.start_output()

    # -- data -------------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Input for the program; queued until it runs, dropped after its exit."""
        if self._phase is _RUNNING:
            self._runner.input(view)
        elif self._phase in _TAKES_INPUT:
            self._early.append(view)
        else:
            self.consumed(len(view))

    def extended_view(self, code: int, view: memoryview) -> None:
        """Drop extended data: RFC 4254 defines none from a client."""
        self.consumed(len(view))

    def eofReceived(self) -> None:
        """The client sent EOF."""
        if self._phase is Phase.RUNNING:
            self._runner.input_ended()

    def window_opened(self) -> None:
        """See :class:`tele.conch.connection.channel.Channel`."""
        super().window_opened()
        self._resume()

    def drained(self) -> None:
        """See :class:`tele.conch.connection.channel.Channel`."""
        self._resume()
        self._report_exit()

    def stopWriting(self) -> None:
        """The queue is long."""
        if self._phase in _HAS_OUTPUT:
            self._runner.pause_output()

    def startWriting(self) -> None:
        """The queue is short again."""
        self._resume()

    def _resume(self) -> None:
        if self._phase in _HAS_OUTPUT:
            self._runner.resume_output()

    # -- the end ----------------------------------------------------------------------
    def program_ended(self, how: Exit) -> None:
        """See :class:`RunnerChannel`."""
        if self._phase is Phase.RUNNING:
            self._advance(Event.EXITED)
            self._exit = how
            self._report_exit()

    def notice(self, text: str) -> bool:
        """Show the user a message of ours, on the terminal or on standard error; False if no
        program runs, and none starts on a terminal.
        """
        waits = self._phase is Phase.STARTING and self._pty is not None
        if not (waits or self._phase is Phase.RUNNING) or not self.is_open:
            return False
        line = f"\r\ntele: {text}\r\n".encode()
        if self._pty is None:
            self.writeExtended(STDERR, line)
        else:
            self.write(line)
        return True

    def _report_exit(self) -> None:
        if self._phase not in (Phase.EXITED, Phase.REFUSED) or self.has_queue:
            return
        self._advance(Event.REPORTED)
        SEND_BATCH.gather()  # the client wakes up once for what belongs together
        try:
            self._send_exit(self._exit)
        finally:
            SEND_BATCH.deliver()

    def _send_exit(self, how: Exit) -> None:
        self.send_eof()
        if how.signal is not None:
            body = (
                string(signal_name(how.signal).encode("ascii", "replace"))
                + boolean(how.core)
                + string(how.message.encode("utf-8")[:NAME_LIMIT])
                + string(b"")
            )
            self.conn.sendRequest(self, b"exit-signal", body)
        else:
            status = FAILED_STATUS if how.status is None else how.status
            self.conn.sendRequest(self, b"exit-status", uint32(status & 0xFFFF_FFFF))
        self.loseConnection()

    def closed(self) -> None:
        """The channel is closed: end what belongs to it."""
        super().closed()
        self._early.clear()
        if self._display is not None:
            self._display.close()
        if "_runner" in vars(self):
            self._runner.close()
