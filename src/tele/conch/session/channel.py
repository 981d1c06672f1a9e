"""What does a client ask of a session, and what is it told (RFC 4254, section 6)?

Reads the requests and tells how it ended; a *runner* runs what was asked for: a
:class:`~tele.conch.session.program_runner.ProgramRunner` where the avatar is or adapts to
:class:`~tele.conch.session.programs.ISessionPrograms`, else a
:class:`~tele.conch.compat.session_runner.ConchRunner` for Conch's own ``ISession``.

Invariants:

* One program a channel. What came before the program runs is kept, bounded by the window.
* Output follows the answer to the request that started the program; the exit follows all
  output; CLOSE follows the exit.
* What is refused is answered with a failure, and logged with the reason; a command, which
  people wait for, is answered on standard error.
* A field that is longer than we take is refused; one that is not as the RFC says ends the
  connection.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from tele.conch.compat.session_runner import ConchRunner
from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Answer, Channel, read_all
from tele.conch.connection.refusals import terminal_lines
from tele.conch.session.program_runner import ProgramRunner
from tele.conch.session.programs import (
    END_OF_WRITE,
    Exit,
    ISessionPrograms,
    ProgramRequest,
    PtyRequest,
)
from tele.conch.session.session_forwarding import AGENT_REQUEST, ISessionForwards, read_display
from tele.errors import TeleError, quoted
from tele.log import make_logger
from tele.wire.fields import Reader, boolean, string, uint32

log = make_logger(__name__)

STDERR: Final = 1
#: Variables that a client may set; bytes of a variable's or a signal's name.
ENVIRONMENT_LIMIT: Final = 128
NAME_LIMIT: Final = 256
#: Bytes that execve takes as one string, its NUL included (MAX_ARG_STRLEN): of a command, and of
#: all variables together.
STRING_LIMIT: Final = 128 * 1024
TERM_LIMIT: Final = 128
#: Rows and columns; pixels are what the kernel has room for.
SIZE_LIMIT: Final = 10_000
PIXEL_LIMIT: Final = 65_535
#: Terminal modes; there are fewer opcodes with an argument that we know the length of.
MODES_LIMIT: Final = 160
#: The exit status of what could not be started.
FAILED_STATUS: Final = 254

_TTY_OP_END: Final = 0
#: RFC 4254, section 8: from here on opcodes have no argument that we know the length of.
_TTY_OP_UNKNOWN: Final = 160


class Runner(Protocol):
    """Runs one program for one channel, and tells it by ``program_ended`` how that ended."""

    def env(self, name: str, value: str) -> bool:
        """Set a variable; False if it may not be."""

    def terminal(self, request: PtyRequest) -> bool:
        """A terminal is wanted; False if there is none to be had."""

    def start(self, request: ProgramRequest, number: int) -> Deferred[None]:
        """Start; fails with a :class:`TeleError` whose text is for the person."""

    def connect(self) -> None:
        """The client knows that it runs: input may come."""

    def go(self) -> None:
        """Output may be sent."""

    def input(self, view: memoryview) -> None:
        """Take input, and credit it when it is used up."""

    def input_ended(self) -> None:
        """There is no more input."""

    def kick(self) -> None:
        """There may be room for output again."""

    def stop_output(self) -> None:
        """What was written has to wait: write no more for now."""

    def output_refused(self) -> None:
        """The client wants no more output, though it goes on (OpenSSH PROTOCOL, 2.1)."""

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """The terminal has a new size."""

    def signal(self, name: str) -> bool:
        """Signal it; False if that cannot be."""

    def send_break(self) -> bool:
        """Send a break to its terminal; False if that cannot be."""

    def close(self) -> None:
        """The channel is gone: so is whoever listened."""


def read_modes(data: bytes) -> tuple[tuple[int, int], ...]:
    """Read encoded terminal modes up to their end or the first that nobody defined.

    Of more than there are opcodes the rest is not looked at.
    """
    reader = Reader(data)
    modes: list[tuple[int, int]] = []
    while not reader.at_end() and len(modes) < MODES_LIMIT:
        opcode = reader.byte()
        if opcode == _TTY_OP_END or opcode >= _TTY_OP_UNKNOWN:
            break
        modes.append((opcode, reader.uint32()))
    return tuple(modes)


def _read_size(reader: Reader) -> tuple[int, int, int, int]:
    columns, rows, width, height = (reader.uint32() for _ in range(4))
    characters = min(columns, SIZE_LIMIT), min(rows, SIZE_LIMIT)
    return (*characters, min(width, PIXEL_LIMIT), min(height, PIXEL_LIMIT))


def _read_pty(reader: Reader) -> PtyRequest | None:
    term = reader.string()
    size = _read_size(reader)
    modes = read_modes(reader.string())
    if len(term) > TERM_LIMIT or not term.isascii() or not term.decode("ascii").isprintable():
        return None
    return PtyRequest(term.decode("ascii"), *size, modes)


class SessionChannel(Channel):
    """The server's end of a session."""

    name = b"session"

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._made_runner: Runner | None = None
        self._env: dict[str, str] = {}
        self._pty: PtyRequest | None = None
        self._display: Any = None
        self._asked = False
        self._started = False
        self._connected = False
        self._early = Backlog()
        self._exit: Exit | None = None
        self._told = False

    @property
    def _runner(self) -> Runner:
        if self._made_runner is None:
            programs = ISessionPrograms(self.avatar, None)
            self._made_runner = (
                ConchRunner(self) if programs is None else ProgramRunner(self, programs)
            )
        return self._made_runner

    # -- requests ---------------------------------------------------------------------
    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """Call ``request_<name>``; requests of OpenSSH's have no names that methods can have."""
        if requestType == AGENT_REQUEST:
            return self._forward_agent(data)
        if requestType == END_OF_WRITE:
            return self._output_refused(data)
        return super().requestReceived(requestType, data)

    def _output_refused(self, data: bytes) -> bool:
        """``ssh host yes | head``: nobody reads any more, and the program has to hear of it."""
        read_all(data, lambda _: None)
        if self._connected and self._started:
            self._runner.output_refused()
        return True

    def request_env(self, data: bytes) -> Answer:
        """Keep a variable that the client may set."""
        name, value = read_all(data, lambda r: (r.string(), r.string()))
        shown = quoted(name)
        if self._asked:
            return self.decline(f"variable {shown} after the program was started")
        if len(name) > NAME_LIMIT or not name.isascii() or b"\0" in value:
            return self.decline(f"{shown} is no variable, or its value holds NUL")
        size = len(name) + len(value) + 2  # as execve counts it: NAME=value and NUL
        octets = sum(len(k) + len(os.fsencode(v)) + 2 for k, v in self._env.items())
        if len(self._env) >= ENVIRONMENT_LIMIT or octets + size > STRING_LIMIT:
            return self.decline(
                f"variable {shown} of {size} bytes: there may be {ENVIRONMENT_LIMIT} variables of"
                f" {STRING_LIMIT} bytes together"
            )
        key, text = name.decode("ascii"), os.fsdecode(value)
        if not self._runner.env(key, text):
            return self.decline(f"variable {shown} may not be set by clients")
        self._env[key] = text
        return True

    def request_pty_req(self, data: bytes) -> Answer:
        """Remember the terminal that is wanted."""
        wanted = read_all(data, _read_pty)
        if wanted is None:
            return self.decline(f"TERM is not {TERM_LIMIT} printable characters at most")
        if self._asked or self._pty is not None:
            return self.decline("there is a terminal, or a program, already")
        if not self._runner.terminal(wanted):
            return self.decline("a terminal is not allowed, or there is none")
        self._pty = wanted
        return True

    def _forward_agent(self, data: bytes) -> Answer:
        read_all(data, lambda _: None)
        forwards = ISessionForwards(self.avatar, None)
        if forwards is None or self._asked:
            return False
        forwarding: Deferred[Any] = forwards.agent()
        return forwarding.addCallbacks(lambda _: True, _not_forwarded)

    def request_x11_req(self, data: bytes) -> Answer:
        """Forward the client's display."""
        forwards = ISessionForwards(self.avatar, None)
        if forwards is None or self._asked or self._display is not None:
            return self.decline("there is a display, or a program, already, or none can be had")
        wanted = read_all(data, read_display)
        if wanted is None:
            return self.decline("its protocol or cookie is none that xauth could be told of")
        forwarding: Deferred[Any] = forwards.display(wanted)
        return forwarding.addCallbacks(self._has_display, _not_forwarded)

    def _has_display(self, display: Any) -> bool:
        if not self.is_open:
            display.close()
            return False
        self._display = display
        return True

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
        """The client's terminal has another size."""
        columns, rows, width, height = read_all(data, _read_size)
        if self._pty is None:
            return False
        if self._started:
            self._runner.resize(columns, rows, width, height)
        else:
            self._pty = evolve(self._pty, columns=columns, rows=rows, width=width, height=height)
        return True

    def request_signal(self, data: bytes) -> Answer:
        """Signal the program."""
        name = read_all(data, lambda r: r.string())
        if not self._started:
            return self.decline("no program runs")
        known = len(name) <= NAME_LIMIT and name.isalnum()
        if not known or not self._runner.signal(name.decode("ascii")):
            return self.decline(f"signal {quoted(name)} is none, or not for this program")
        return True

    def request_break(self, data: bytes) -> Answer:
        """Send a break (RFC 4335), whose length a pseudo-terminal does not know."""
        read_all(data, lambda r: r.uint32())
        return self._started and self._pty is not None and self._runner.send_break()

    # -- starting ---------------------------------------------------------------------
    def _start(self, kind: str, command: bytes) -> Answer:
        if self._asked:
            return self.decline("a channel has one program")
        self._asked = True
        if b"\0" in command or len(command) >= STRING_LIMIT:
            self._exit = Exit(
                FAILED_STATUS,
                message=(
                    f"a command of {len(command)} bytes cannot be run: at most"
                    f" {STRING_LIMIT - 1}, and no NUL; send what is longer on standard input, or"
                    " in a file"
                ),
            )
            log.info("{avatar!s}: {why}", avatar=self.avatar, why=self._exit.message)
            return True
        request = ProgramRequest(kind, command, dict(self._env), self._pty, self._display)
        starting = maybeDeferred(self._runner.start, request, (self.id or 0) + 1)
        return starting.addCallbacks(self._has_started, self._not_started)

    def _has_started(self, _: object) -> bool:
        self._started = self.is_open
        return self._started

    def _not_started(self, failure: Failure) -> bool:
        """Tell the person why: clients show standard error, and nothing of a refusal."""
        error = failure.value
        if isinstance(error, TeleError):
            text = str(error)
        else:
            log.failure("a program could not be started", failure)
            text = "the session could not be started"
        self._exit = Exit(FAILED_STATUS, message=text)
        return True

    def request_answered(self) -> None:
        """Output may follow the answer now, not before it."""
        if self._connected or not self.is_open:
            return
        if self._started:
            self._connected = True
            runner = self._runner
            runner.connect()
            while self._early:
                view, _ = self._early.first(self.localMaxPacket)
                with view:
                    size = len(view)
                    runner.input(view)
                self._early.drop(size)
            if self.remote_eof:
                runner.input_ended()
            runner.go()
        elif self._exit is not None:
            self._connected = True
            self.writeExtended(STDERR, terminal_lines(self._exit.message))
            self._tell_exit()

    # -- bytes ------------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Input for the program; what comes before it runs waits."""
        if self._exit is not None:
            self.consumed(len(view))
        elif self._connected:
            self._runner.input(view)
        else:
            self._early.append(view)

    def extended_view(self, code: int, view: memoryview) -> None:
        """A client has nothing to say on standard error."""
        self.consumed(len(view))

    def eofReceived(self) -> None:
        """The client sends no more input."""
        if self._connected and self._started:
            self._runner.input_ended()

    def window_opened(self) -> None:
        """There is credit again."""
        super().window_opened()
        self._kick()

    def drained(self) -> None:
        """What was queued has left."""
        self._kick()
        self._tell_exit()

    def stopWriting(self) -> None:
        """What was written waits."""
        if self._started:
            self._runner.stop_output()

    def startWriting(self) -> None:
        """There is room again."""
        self._kick()

    def _kick(self) -> None:
        if self._connected and self._started:
            self._runner.kick()

    # -- the end ----------------------------------------------------------------------
    def program_ended(self, how: Exit) -> None:
        """The program ended, and all its output was written to us."""
        if self._exit is None:
            self._exit = how
            self._tell_exit()

    def notice(self, text: str) -> bool:
        """Show the person a line of ours, on the terminal or on standard error; False if there is
        nobody to see it.
        """
        if not self._connected or not self.is_open or self._exit is not None:
            return False
        line = f"\r\ntele: {text}\r\n".encode()
        if self._pty is None:
            self.writeExtended(STDERR, line)
        else:
            self.write(line)
        return True

    def _tell_exit(self) -> None:
        how = self._exit
        if how is None or self._told or self.has_queue or not self._connected:
            return
        self._told = True
        self.send_eof()
        if how.signal is not None:
            body = (
                string(how.signal.encode("ascii", "replace"))
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
        """The channel is gone: so is whoever listened to the program."""
        super().closed()
        self._early.clear()
        if self._display is not None:
            self._display.close()
        if self._made_runner is not None:
            self._made_runner.close()


def _not_forwarded(failure: Failure) -> bool:
    failure.trap(TeleError)
    log.info("not forwarded: {why!s}", why=failure.value)
    return False
