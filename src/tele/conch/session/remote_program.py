"""How does a program run on a server behind this one (RFC 4254, section 6)?

Our session on that server is an :class:`~tele.conch.session.programs.IProgram` without descriptors:
:mod:`tele.conch.session.remote_runner` passes its data on.

Invariants:

* What the server sends before a receiver is attached is queued, at most a window.
* The program has ended when its channel is closed: all of its output was received then.
* A server may say how the program ended, and that it takes no more input; it may request nothing
  else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from zope.interface import Attribute, implementer

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Answer, Channel, read_all
from tele.conch.connection.refusals import ChannelRefused
from tele.conch.session.programs import END_OF_WRITE, Exit, IProgram, ProgramRequest
from tele.conch.session.session_forwarding import AGENT_REQUEST
from tele.errors import AccessDenied, PeerError, TeleError, Unreachable
from tele.wire.fields import boolean, string, uint32

STDERR: Final = 1
#: Bytes of the name of a signal, and of the text, that a server sends.
SIGNAL_LIMIT: Final = 64
TEXT_LIMIT: Final = 256
#: Seconds that a server has to take input that was sent before the client closed its session.
LINGER: Final = 30.0


def encode_modes(modes: tuple[tuple[int, int], ...]) -> bytes:
    """Return terminal modes as they are sent (RFC 4254, section 8)."""
    return b"".join(bytes((opcode,)) + uint32(value) for opcode, value in modes) + b"\0"


class OutputReceiver(Protocol):
    """Takes what a program on a server writes."""

    def output(self, code: int | None, view: memoryview) -> None:
        """It wrote ``view``, to standard error if ``code`` is 1. Credit is the receiver's to give:
        :meth:`RemoteProgram.consumed`.
        """

    def input_sent(self, count: int) -> None:
        """So many bytes of input that were queued have left."""

    def input_closed(self) -> None:
        """It takes no more input."""

    def ended(self) -> None:
        """Its channel is closed, and ``exit`` is known."""


class IRemoteProgram(IProgram):
    """A program on a server behind this one; it has no descriptors."""

    exit: Exit = Attribute("how it ended, once its channel is closed")

    def attach(receiver: OutputReceiver) -> None:
        """Give what was received, and what follows, to ``receiver``. Calls after the first one do
        nothing.
        """

    def send_view(view: memoryview) -> int:
        """Send input; return how many bytes of it are queued."""

    def send_eof() -> None:
        """The input ends."""

    def consumed(count: int) -> None:
        """So many bytes of its output were consumed."""

    def close_output() -> None:
        """The client takes no more output."""

    def send_break(data: bytes) -> bool:
        """Send a break to its terminal."""


@frozen
class RemoteRequest:
    """What to request of a server: ``target`` names it for the user.

    ``agent``: forward the client's agent. ``signals``: whether clients may signal the program.
    """

    target: str
    program: ProgramRequest
    agent: bool = False
    signals: bool = True


@implementer(IRemoteProgram)
class RemoteProgram(Channel):
    """Our session on a server. ``started`` fires with it when the program runs, or fails with a
    :class:`tele.errors.TeleError`, whose text is for the user.
    """

    name = b"session"
    #: A program without descriptors.
    stdin = stdout = stderr = None

    def __init__(self, request: RemoteRequest, **named: Any) -> None:
        super().__init__(**named)
        self.started: Deferred[RemoteProgram] = Deferred()
        self.exited: Deferred[Exit] = Deferred()
        #: Some servers close a session without saying how its program ended.
        self.exit = Exit(None)
        self.tap: Any = None
        self._request = request
        self._receiver: OutputReceiver | None = None
        self._early = Backlog()
        self._early_input_closed = False
        self._exit_known = False
        self._output_closed = False
        self._is_closed = self._closed_by_server = False
        self._expelled = self._given_up = False
        self._linger: IDelayedCall | None = None

    # -- beginning --------------------------------------------------------------------
    def channelOpen(self, specificData: bytes) -> None:
        """Request what the program gets, and the program."""
        if self._given_up:
            self.loseConnection()
            return
        program, target = self._request.program, self._request.target
        for name, value in program.env.items():
            self.conn.sendRequest(self, b"env", string(name.encode()) + string(os.fsencode(value)))
        if self._request.agent:
            self.conn.sendRequest(self, AGENT_REQUEST, b"")
        if program.display is not None:
            asked = program.display.request
            body = boolean(asked.single) + string(asked.protocol.encode())
            body += string(asked.cookie.encode()) + uint32(asked.screen)
            # As without a display: clients are not told that there is none.
            self.conn.sendRequest(self, b"x11-req", body)
        pty = program.pty
        if pty is None:
            self._ask_for_program()
            return
        body = string(pty.term.encode()) + _size(pty.columns, pty.rows, pty.width, pty.height)
        self._ask(
            b"pty-req",
            body + string(encode_modes(pty.modes)),
            f"{target} refuses a terminal: is it permitted to this login there?",
            self._ask_for_program,
        )

    def _ask_for_program(self) -> None:
        """Request the program: nothing runs on a server that refuses its terminal."""
        program, target = self._request.program, self._request.target
        body = b"" if program.kind == "shell" else string(program.command)
        self._ask(program.kind.encode("ascii"), body, f"{target} refuses the {program.kind}",
                  self._runs)  # fmt: skip

    def _ask(self, name: bytes, body: bytes, refusal: str, done: Callable[[], None]) -> None:
        answer = self.conn.sendRequest(self, name, body, wantReply=True)
        if answer is None:
            raise RuntimeError("a request with want_reply returned no Deferred")
        answer.addCallbacks(lambda _: done(), lambda _: self._refused(refusal))

    def _runs(self) -> None:
        if not self.started.called:
            self.started.callback(self)

    def _refused(self, text: str) -> None:
        if not self.remoteClosed and self.is_open:  # else it was not answered: see closed()
            self._fail(AccessDenied(text))
            self.loseConnection()

    def openFailed(self, reason: Any) -> None:
        """The server refused a session, or the connection to it is lost."""
        target = self._request.target
        if isinstance(reason, ChannelRefused):
            self._fail(
                AccessDenied(
                    f"{target} refuses a session: {reason}. It may have a limit of those that are"
                    " open on one connection (MaxSessions)"
                )
            )
        else:
            self._fail(Unreachable(f"the connection to {target} was lost"))

    def _fail(self, error: TeleError) -> None:
        if not self.started.called:
            self.started.errback(error)

    def give_up(self) -> None:
        """The wait for the program to start was given up."""
        self._given_up = True
        if self.is_open:
            self._abort()

    # -- output -----------------------------------------------------------------------
    def attach(self, receiver: OutputReceiver) -> None:
        """See :class:`IRemoteProgram`."""
        if self._receiver is not None:
            return
        self._receiver = receiver
        early = self._early
        while early:
            view, code = early.first(self.localMaxPacket)
            with view:
                size = len(view)
                receiver.output(code, view)
            early.drop(size)
        if self._early_input_closed:
            receiver.input_closed()
        if self._is_closed:
            receiver.ended()

    def data_view(self, view: memoryview) -> None:
        """The program wrote to its standard output."""
        self._take(None, view)

    def extended_view(self, code: int, view: memoryview) -> None:
        """The program wrote to its standard error; other types of data are not defined."""
        if code == STDERR:
            self._take(code, view)
        else:
            self.consumed(len(view))

    def _take(self, code: int | None, view: memoryview) -> None:
        if self._output_closed:
            self.consumed(len(view))
        elif self._receiver is None:
            self._early.append(view, code)
        else:
            self._receiver.output(code, view)

    def close_output(self) -> None:
        """See :class:`IRemoteProgram`."""
        if not self._output_closed and self.is_open:
            self._output_closed = True
            self.conn.sendRequest(self, END_OF_WRITE, b"")

    # -- input ------------------------------------------------------------------------
    def queue_sent(self, count: int) -> None:
        """See :class:`Channel`."""
        if self._receiver is not None:
            self._receiver.input_sent(count)

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """See :class:`IProgram`."""
        self._notify(b"window-change", _size(columns, rows, width, height))

    def signal(self, name: str) -> bool:
        """See :class:`IProgram`."""
        if not self._request.signals:
            return False
        return self._notify(b"signal", string(name.encode("ascii")))

    def send_break(self, data: bytes) -> bool:
        """See :class:`IRemoteProgram`."""
        return self._notify(b"break", data)

    def _notify(self, name: bytes, data: bytes) -> bool:
        """Make a request that is not answered; return whether it was made."""
        if not self.is_open:
            return False
        self.conn.sendRequest(self, name, data)
        return True

    # -- requests of the server -------------------------------------------------------
    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """See :class:`Channel`."""
        if requestType == END_OF_WRITE:
            return self._input_closed(data)
        return super().requestReceived(requestType, data)

    def _input_closed(self, data: bytes) -> bool:
        read_all(data, lambda _: None)
        if self._receiver is None:
            self._early_input_closed = True
        else:
            self._receiver.input_closed()
        return True

    def request_exit_status(self, data: bytes) -> Answer:
        """The program ended."""
        return self._has_exit(Exit(read_all(data, lambda r: r.uint32())))

    def request_exit_signal(self, data: bytes) -> Answer:
        """The program was killed."""
        name, core, message, _ = read_all(
            data, lambda r: (r.text(SIGNAL_LIMIT), r.boolean(), r.text(), r.string())
        )
        return self._has_exit(Exit(None, name, core, message[:TEXT_LIMIT]))

    def _has_exit(self, how: Exit) -> bool:
        if self._exit_known:
            return False
        self._exit_known, self.exit = True, how
        return True

    # -- the end ----------------------------------------------------------------------
    def closeReceived(self) -> None:
        """The server closed the session: it did not refuse what it has not answered."""
        self._closed_by_server = True
        self._fail(PeerError(f"{self._request.target} closed the session before it began"))
        super().closeReceived()

    def closed(self) -> None:
        """The channel is closed."""
        super().closed()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if not self._closed_by_server and not self._exit_known:
            error = f"the connection to {self._request.target} was lost"
            self.exit = Exit(None, message=error)
            self._fail(Unreachable(error))
        self._is_closed = True
        if self._receiver is not None:
            self._receiver.ended()
        self.exited.callback(self.exit)

    def hang_up(self) -> None:
        """See :class:`IProgram`: close, after the input that was sent before.

        A program that was expelled keeps its session until it ends or is killed.
        """
        if not self.is_open or self._linger is not None:
            return
        self.close_output()
        if self._expelled:
            return
        self.loseConnection()
        if self.is_open:
            self._linger = self.conn.transport.clock.callLater(LINGER, self._abort)

    def _abort(self) -> None:
        """Close now."""
        self._linger = None
        self._forget_queue()
        self.loseConnection()

    def expel(self) -> None:
        """Access of its user has ended: it is told to end."""
        self._expelled = True
        for name in ("HUP", "TERM"):
            self._notify(b"signal", string(name.encode()))

    def kill(self) -> None:
        """End it, whatever it ignores."""
        self._notify(b"signal", string(b"KILL"))
        self._abort()


def _size(columns: int, rows: int, width: int, height: int) -> bytes:
    return b"".join(map(uint32, (columns, rows, width, height)))
