"""How does a client run a program on a server?

Invariants:

* One Deferred fires with the exit when the channel is closed.
* Data are passed on as they arrive, and window credit is given when they are consumed. A caller
  that collects them sets a limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.channel import Answer, Channel, read_all
from tele.conch.session.programs import Exit, ProgramRequest
from tele.conch.session.remote_program import encode_modes
from tele.errors import AccessDenied, PeerError, TeleError, Unreachable, quoted
from tele.wire.fields import string, uint32

STDERR: Final = 1
COLLECT_LIMIT: Final = 16 * 1024 * 1024

#: Called with data: the code (None, or 1 for standard error) and the bytes, valid during the call.
OnData = Callable[[int | None, memoryview], None]


class ProgramChannel(Channel):
    """A session that runs ``request`` on the server.

    ``started`` fires with the channel when the program runs, or fails with a TeleError.
    ``ended`` fires with an :class:`Exit` when the channel is closed; if it never was open
    it does not fire. Write to it with ``write`` and ``send_eof``.
    """

    name = b"session"

    def __init__(self, request: ProgramRequest, on_data: OnData, **named: Any) -> None:
        super().__init__(**named)
        self.started: Deferred[ProgramChannel] = Deferred()
        self.ended: Deferred[Exit] = Deferred()
        self._request = request
        self._on_data = on_data
        self._exit: Exit | None = None

    # -- beginning --------------------------------------------------------------------
    def channelOpen(self, specificData: bytes) -> None:
        """Send all requests at once; the replies come in order."""
        request = self._request
        for name, value in request.env.items():
            self.conn.sendRequest(self, b"env", string(name.encode()) + string(os.fsencode(value)))
        pty = request.pty
        if pty is not None:
            sizes = b"".join(map(uint32, (pty.columns, pty.rows, pty.width, pty.height)))
            body = string(pty.term.encode()) + sizes + string(encode_modes(pty.modes))
            self._ask(b"pty-req", body).addErrback(self._refused, "a terminal")
        body = b"" if request.kind == "shell" else string(request.command)
        running = self._ask(request.kind.encode("ascii"), body)
        running.addCallbacks(self._runs, self._refused, errbackArgs=(f"the {request.kind}",))

    def _ask(self, name: bytes, body: bytes) -> Deferred[Any]:
        answer = self.conn.sendRequest(self, name, body, wantReply=True)
        if answer is None:
            raise RuntimeError("a request with want_reply returned no Deferred")
        return answer

    def _runs(self, _: object) -> None:
        if not self.started.called:
            self.started.callback(self)

    def _refused(self, failure: Failure, what: str) -> None:
        self._fail(AccessDenied(f"the server refuses {what}"))
        self.loseConnection()

    def openFailed(self, reason: Any) -> None:
        """The server refused the session, or the connection is closed."""
        if isinstance(reason, ConchError):
            self._fail(AccessDenied(f"the server refuses a session: {quoted(reason.value)}"))
        else:
            self._fail(Unreachable("the connection is closed"))

    def _fail(self, error: TeleError) -> None:
        if not self.started.called:
            self.started.errback(error)

    # -- running ----------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """The program wrote to its standard output."""
        self._on_data(None, view)
        self.consumed(len(view))

    def extended_view(self, code: int, view: memoryview) -> None:
        """The program wrote to its standard error."""
        self._on_data(code, view)
        self.consumed(len(view))

    def resize(self, columns: int, rows: int, width: int = 0, height: int = 0) -> None:
        """Send the new size of the terminal."""
        body = b"".join(map(uint32, (columns, rows, width, height)))
        self.conn.sendRequest(self, b"window-change", body)

    def signal(self, name: str) -> None:
        """Ask the server to signal the program (``TERM``)."""
        self.conn.sendRequest(self, b"signal", string(name.encode("ascii")))

    # -- the end ----------------------------------------------------------------------
    def request_exit_status(self, data: bytes) -> Answer:
        """The program ended."""
        self._exit = Exit(read_all(data, lambda r: r.uint32()))
        return True

    def request_exit_signal(self, data: bytes) -> Answer:
        """The program was killed."""
        name, core, message, _ = read_all(
            data, lambda r: (r.text(64), r.boolean(), r.text(), r.string())
        )
        self._exit = Exit(None, name, core, message)
        return True

    def closed(self) -> None:
        """The channel is closed."""
        super().closed()
        self._fail(PeerError("the server closed the session"))
        self.ended.callback(self._exit or Exit(None, message="the server sent no exit status"))


@frozen
class Result:
    """The output of a program, and how it ended."""

    stdout: bytes
    stderr: bytes
    exit: Exit


def execute(
    connection: Any,
    command: bytes,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    limit: int = COLLECT_LIMIT,
) -> Deferred[Result]:
    """Run ``command``; fires with its output, or fails with a TeleError.

    Output beyond ``limit`` bytes closes the channel and is a failure.
    """
    collected = {None: bytearray(), STDERR: bytearray()}

    def on_data(code: int | None, view: memoryview) -> None:
        into = collected.get(code)
        if into is not None:
            into += view
        if sum(map(len, collected.values())) > limit:
            channel.loseConnection()

    channel = ProgramChannel(ProgramRequest("exec", command, env or {}), on_data)

    async def run() -> Result:
        connection.openChannel(channel)
        await channel.started
        channel.write(stdin)
        channel.send_eof()
        how = await channel.ended
        if sum(map(len, collected.values())) > limit:
            raise PeerError(f"the output is longer than {limit} bytes")
        return Result(bytes(collected[None]), bytes(collected[STDERR]), how)

    return Deferred.fromCoroutine(run())
