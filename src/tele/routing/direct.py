"""Is it a node's SSH server that answers at an address which a node says is its own?

Invariants:

* Until an SSH server has spoken, nothing of the visitor is sent there and nothing from there
  reaches them: a node that lies about its addresses opens no way to other services near the
  proxy, and a dead one behind a forwarded port is found out in time.
* It ends in exactly one of a stream that is connected and an error; cancelled, it is closed.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tele.conch.connection.relay import StreamEnd
from tele.errors import Unreachable
from tele.outbound.dialer import hand_over
from tele.sockets.direct import DirectSocket

#: What the first line of an SSH server begins with (RFC 4253, section 4.2).
SSH: Final = b"SSH-"


async def dial_server(endpoint: IStreamClientEndpoint, preface: bytes) -> StreamEnd:
    """Connect, send ``preface``, and return the stream once an SSH server answers.

    Raises :class:`Unreachable`, or what the endpoint fails with.
    """
    waiting = _Waiting(preface)
    factory = Factory.forProtocol(lambda: waiting)
    factory.noisy = False
    connecting: Any = endpoint.connect(factory)
    await connecting
    return await waiting.answered


class _Waiting(Protocol):
    """Waits for the first bytes of the server, and leaves then."""

    transport: Any

    def __init__(self, preface: bytes) -> None:
        self.answered: Deferred[StreamEnd] = Deferred(lambda _: self._abort())
        self._preface = preface
        self._seen = b""
        self._over = False

    def connectionMade(self) -> None:
        """Say for whom we come."""
        if isinstance(self.transport, DirectSocket):
            self.transport.speak_to(self)
        self.transport.write(self._preface)

    def dataReceived(self, data: bytes) -> None:
        """Look at what is said there."""
        if self._over:
            return
        self._seen += data
        if self._seen.startswith(SSH):
            self._over = True
            stream = StreamEnd()
            hand_over(self.transport, stream, self._seen)
            self.answered.callback(stream)
        elif not SSH.startswith(self._seen):
            self._abort()
            self.answered.errback(Unreachable("what answers is no SSH server"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It was closed instead of an answer."""
        if not self._over:
            self._over = True
            self.answered.errback(Unreachable("the connection was closed"))

    def _abort(self) -> None:
        self._over = True
        self.transport.abortConnection()
