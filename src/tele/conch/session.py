"""What does a session channel do (RFC 4254, section 6)?

Parses the requests, has the program started by whoever the avatar says
(:class:`tele.conch.programs.ISessionPrograms`), moves bytes, and says how it ended.

Laws of this file:

* One program a channel. What came before the program runs is kept, bounded by the window.
* The exit is told after all output was sent; EOF and CLOSE follow it.
* A client that goes away hangs its program up.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.channel import Answer, Channel, read_all
from tele.conch.programs import Exit, IProgram, ISessionPrograms, ProgramRequest, PtyRequest
from tele.conch.pumps import Pump, Sink
from tele.errors import ProtocolError, TeleError
from tele.loop import make_logger
from tele.wire.fields import Reader, boolean, string, uint32

log = make_logger(__name__)

STDERR = 1
ENVIRONMENT_LIMIT = 64
VALUE_LIMIT = 4096
COMMAND_LIMIT = 128 * 1024
SIZE_LIMIT = 10_000
FAILED_STATUS = 254

#: RFC 4254, section 8: opcodes from 160 on have no argument that we know the length of.
_TTY_OP_END = 0
_TTY_OP_UNKNOWN = 160


def read_modes(data: bytes) -> tuple[tuple[int, int], ...]:
    """Read encoded terminal modes up to their end or the first that nobody defined."""
    reader = Reader(data)
    modes: list[tuple[int, int]] = []
    while not reader.at_end():
        opcode = reader.byte()
        if opcode == _TTY_OP_END or opcode >= _TTY_OP_UNKNOWN:
            break
        modes.append((opcode, reader.uint32()))
    return tuple(modes)


def _size(reader: Reader) -> tuple[int, int, int, int]:
    columns, rows, width, height = (reader.uint32() for _ in range(4))
    return (
        min(columns, SIZE_LIMIT), min(rows, SIZE_LIMIT), min(width, 65535), min(height, 65535)
    )  # fmt: skip


def _read_pty(reader: Reader) -> PtyRequest:
    term = reader.string(128)
    size = _size(reader)
    modes = read_modes(reader.string(4096))
    if not term.isascii() or not term.decode("ascii").isprintable():
        raise ProtocolError("the terminal's name is not printable")
    return PtyRequest(term.decode("ascii"), *size, modes)


class SessionChannel(Channel):
    """The server's end of a session."""

    name = b"session"

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._env: dict[str, str] = {}
        self._pty: PtyRequest | None = None
        self._asked = False
        self._program: Any = None
        self._early: list[bytes] = []
        self._early_eof = False
        self._sink: Sink | None = None
        self._pumps: list[Pump] = []
        self._to_start: list[Any] = []
        self._exit: Exit | None = None
        self._told = False
        self._gone = False

    @property
    def _programs(self) -> Any:
        return ISessionPrograms(self.avatar)

    @property
    def _tap(self) -> Any:
        return None if self._program is None else self._program.tap

    # -- requests ---------------------------------------------------------------------
    def request_env(self, data: bytes) -> Answer:
        """Keep a variable that the client may set."""
        name, value = read_all(data, lambda r: (r.string(256), r.string(VALUE_LIMIT)))
        try:
            key, text = name.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if "\0" in text or self._asked or len(self._env) >= ENVIRONMENT_LIMIT:
            return False
        if not self._programs.env_allowed(key):
            return False
        self._env[key] = text
        return True

    def request_pty_req(self, data: bytes) -> Answer:
        """Remember the terminal that is wanted."""
        grant = getattr(self.avatar, "grant", None)
        if self._asked or self._pty is not None or (grant is not None and not grant.permit_pty):
            return False
        self._pty = read_all(data, _read_pty)
        return True

    def request_shell(self, data: bytes) -> Answer:
        """Run the login shell."""
        read_all(data, lambda _: None)
        return self._start("shell", b"")

    def request_exec(self, data: bytes) -> Answer:
        """Run a command."""
        return self._start("exec", read_all(data, lambda r: r.string(COMMAND_LIMIT)))

    def request_subsystem(self, data: bytes) -> Answer:
        """Run a subsystem."""
        return self._start("subsystem", read_all(data, lambda r: r.string(256)))

    def request_window_change(self, data: bytes) -> Answer:
        """The client's terminal has another size."""
        columns, rows, width, height = read_all(data, _size)
        if self._pty is None:
            return False
        if self._program is None:
            self._pty = PtyRequest(self._pty.term, columns, rows, width, height, self._pty.modes)
            return True
        self._program.resize(columns, rows, width, height)
        if self._tap is not None:
            self._tap.resized(columns, rows)
        return True

    def request_signal(self, data: bytes) -> Answer:
        """Signal the program."""
        name = read_all(data, lambda r: r.string(32))
        if self._program is None or not name.isalnum():
            return False
        return bool(self._program.signal(name.decode("ascii")))

    def request_break(self, data: bytes) -> Answer:
        """RFC 4335: a break is an interrupt to whoever reads a pseudo-terminal."""
        read_all(data, lambda r: r.uint32())
        if self._program is None or self._pty is None:
            return False
        return bool(self._program.signal("INT"))

    # -- starting ---------------------------------------------------------------------
    def _start(self, kind: str, command: bytes) -> Answer:
        if self._asked:
            return False
        self._asked = True
        if b"\0" in command:
            return False
        request = ProgramRequest(kind, command, self._env, self._pty)
        starting: Deferred[Any] = self._programs.start(request, (self.id or 0) + 1)
        return starting.addCallbacks(self._started, self._not_started)

    def _started(self, program: Any) -> bool:
        if self._gone or not self.is_open:
            for descriptor in {program.stdin, program.stdout, program.stderr} - {None}:
                os.close(descriptor)
            program.hang_up()
            return False
        self._program = IProgram(program)
        program.exited.addBoth(self._exited)
        return True

    def _not_started(self, failure: Failure) -> bool:
        """Tell the person why: clients show standard error, and nothing of a refusal."""
        error = failure.value
        if not isinstance(error, TeleError):
            log.failure("a program could not be started", failure)
        text = str(error) if isinstance(error, TeleError) else "the session could not be started"
        self._exit = Exit(FAILED_STATUS, message=text)
        return True

    def request_answered(self) -> None:
        """Output may follow the answer now, not before it."""
        if self._exit is not None and self._program is None and not self._told:
            self.writeExtended(STDERR, f"{self._exit.message}\r\n".encode())
            self._tell_exit()
        elif self._program is not None and self._sink is None and not self._pumps:
            self._connect(self._program)

    def _connect(self, program: Any) -> None:
        reactor = self.conn.transport.clock
        stdin, stdout, stderr = program.stdin, program.stdout, program.stderr
        if stdin is not None and stdin == stdout:
            stdin = os.dup(stdin)
        tap = program.tap
        if stdin is not None:
            self._sink = Sink(reactor, stdin, self)
        early, self._early = self._early, []
        for data in early:
            self.data_view(memoryview(data))
        if self._early_eof:
            self.eofReceived()
        for descriptor, code, hear in (
            (stdout, None, None if tap is None else tap.output),
            (stderr, STDERR, None if tap is None else tap.error),
        ):
            if descriptor is not None:
                self._pumps.append(
                    Pump(
                        reactor, descriptor, self, code, self._pump_ended, hear,
                        None if tap is None else self._tap_is_behind,
                    )
                )  # fmt: skip
        if self._exit is not None:
            self._finish_pumps()

    def _tap_is_behind(self) -> bool:
        tap = self._tap
        if tap is None or not tap.paused:
            return False
        tap.when_resumed(self._kick_pumps)
        return True

    def _kick_pumps(self) -> None:
        for pump in list(self._pumps):
            pump.kick()

    # -- bytes ------------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Input for the program; what comes before it runs waits."""
        if self._program is None or (self._sink is None and not self._pumps):
            if (self._asked and self._exit is None) or not self._asked:
                self._early.append(bytes(view))
            else:
                self.consumed(len(view))
            return
        tap = self._tap
        if tap is not None:
            tap.input(view)
        if self._sink is None:
            self.consumed(len(view))
        else:
            self._sink.write(view)

    def extended_view(self, code: int, view: memoryview) -> None:
        """A client has nothing to say on standard error."""
        self.consumed(len(view))

    def window_opened(self) -> None:
        """There is credit again."""
        super().window_opened()
        self._kick_pumps()

    def eofReceived(self) -> None:
        """The client sends no more input."""
        if self._program is None or (self._sink is None and not self._pumps):
            self._early_eof = True
        elif self._sink is not None and self._pty is None:
            self._sink.end()

    # -- the end ----------------------------------------------------------------------
    def _pump_ended(self) -> None:
        self._tell_exit_if_done()

    def _exited(self, result: Any) -> None:
        if isinstance(result, Exit):
            self._exit = result
        else:
            log.failure("a program was lost", result)
            self._exit = Exit(None, "KILL", message="the program was lost")
        self._finish_pumps()

    def _finish_pumps(self) -> None:
        if self._pty is not None:
            # As sshd does: the session ends with its shell, though others hold the terminal.
            for pump in list(self._pumps):
                pump.finish()
        self._tell_exit_if_done()

    def _tell_exit_if_done(self) -> None:
        if self._exit is None or self._told or self._gone:
            return
        if self._program is not None and not self._pumps and self._sink is None:
            return  # it ended before its descriptors were connected
        if all(pump.ended for pump in self._pumps):
            self._tell_exit()

    def _tell_exit(self) -> None:
        how = self._exit
        if how is None or self._told:
            return
        self._told = True
        if self._tap is not None:
            self._tap.exited(how)
        if self.has_queue:
            self.conn.transport.ready_observers.add(self._send_exit_when_drained)
            return
        self._send_exit(how)

    def _send_exit_when_drained(self) -> None:
        if not self.has_queue and self._exit is not None:
            self.conn.transport.ready_observers.discard(self._send_exit_when_drained)
            self._send_exit(self._exit)

    def pump_queue(self) -> None:
        """What was queued leaves before the exit."""
        super().pump_queue()
        if self._told and not self.has_queue and self.is_open:
            self._send_exit_when_drained()

    def _send_exit(self, how: Exit) -> None:
        if not self.is_open or self._eof_sent:
            return
        self.send_eof()
        if how.signal is not None:
            body = (
                string(how.signal.encode("ascii", "replace"))
                + boolean(how.core)
                + string(how.message.encode("utf-8")[:256])
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
        self._gone = True
        self.conn.transport.ready_observers.discard(self._send_exit_when_drained)
        for pump in self._pumps:
            pump.close()
        if self._sink is not None:
            self._sink.close()
        elif self._program is not None and not self._pumps:
            for descriptor in {
                self._program.stdin, self._program.stdout, self._program.stderr
            } - {None}:  # fmt: skip
                os.close(descriptor)
        if self._program is not None and self._exit is None:
            self._program.hang_up()
