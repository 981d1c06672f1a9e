"""Does an SSH server answer at an address that a node announces?

Invariants:

* Until an SSH server has sent its version, nothing of the client is sent there and nothing from
  there reaches the client: a node that announces a false address gives no access to other services
  near the proxy, and a dead server behind a forwarded port is detected in time.
* The result is a connected stream or an error. Cancelling closes the connection.
* A node that refuses a connection before the login is noticed: it may have another version.
"""

from __future__ import annotations

from collections.abc import Callable
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
#: Bytes of a server that has not answered the client's key exchange: its version line, KEXINIT, and
#: DISCONNECT.
_BEFORE_KEYS: Final = 2048


class NodeStream(StreamEnd):
    """A connection to a node, which began with the line ``version``.

    ``on_refused(version)`` is called if it ends before the node has answered a key exchange, and
    the node ended it or the client had sent something: a client that is told why may end it first.
    """

    def __init__(self, version: bytes, on_refused: Callable[[bytes], None]) -> None:
        super().__init__()
        self._version = version
        self._on_refused = on_refused

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`StreamEnd`."""
        by_node = self._ended or (not self._closing_writes and self._linger is None)
        if self.received < _BEFORE_KEYS and (by_node or self.sent):
            self._on_refused(self._version)
        super().connectionLost(reason)


async def dial_server(
    endpoint: IStreamClientEndpoint,
    preface: bytes,
    on_refused: Callable[[bytes], None] = lambda _: None,
) -> StreamEnd:
    """Connect, send ``preface``, and return the stream when an SSH server answers.

    ``on_refused`` is that of :class:`NodeStream`. Raises :class:`Unreachable`, or what the endpoint
    fails with.
    """
    probe = _VersionProbe(preface, on_refused)
    factory = Factory.forProtocol(lambda: probe)
    factory.noisy = False
    await endpoint.connect(factory)
    return await probe.answered


class _VersionProbe(Protocol):
    """Waits for the first bytes of the server, then hands the connection over."""

    transport: Any

    def __init__(self, preface: bytes, on_refused: Callable[[bytes], None]) -> None:
        self._on_refused = on_refused
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
            stream = NodeStream(self._seen.partition(b"\r\n")[0], self._on_refused)
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
