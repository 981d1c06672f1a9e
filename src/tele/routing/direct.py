"""Does an SSH server answer at an address that a node announces?

Invariants:

* Until an SSH server has sent its version, nothing of the client is sent there and nothing from
  there reaches the client: a node that announces a false address gives no access to other services
  near the proxy, and a dead server behind a forwarded port is detected in time.
* The result is a connected stream or an error. Cancelling closes the connection.
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
    """Connect, send ``preface``, and return the stream when an SSH server answers.

    Raises :class:`Unreachable`, or what the endpoint fails with.
    """
    probe = _VersionProbe(preface)
    factory = Factory.forProtocol(lambda: probe)
    factory.noisy = False
    await endpoint.connect(factory)
    return await probe.answered


class _VersionProbe(Protocol):
    """Waits for the first bytes of the server, then hands the connection over."""

    transport: Any

    def __init__(self, preface: bytes) -> None:
        self.answered: Deferred[StreamEnd] = Deferred(lambda _: self._abort())
        self._preface = preface
        self._seen = b""
        self._over = False

    def connectionMade(self) -> None:
        """Send the preface."""
        if isinstance(self.transport, DirectSocket):
            self.transport.speak_to(self)
        self.transport.write(self._preface)

    def dataReceived(self, data: bytes) -> None:
        """Check the first bytes."""
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
            self.answered.errback(Unreachable("the server there does not speak SSH"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server closed the connection before it answered."""
        if not self._over:
            self._over = True
            self.answered.errback(Unreachable("the connection was closed"))

    def _abort(self) -> None:
        self._over = True
        self.transport.abortConnection()
