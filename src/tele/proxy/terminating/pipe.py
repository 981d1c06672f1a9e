"""How do two protocols of this process talk to each other as over a connection?

A client that names a node as a subsystem of the jump host gets a stream, whose other end is the SSH
server in this process.

Invariants:

* Each end is a Twisted transport with producers, half-close and abort.
* What an end that is paused has not read has a limit, beyond which the writer is paused. It costs
  by its bytes, in whatever pieces it was written.
* Both protocols learn the end once, never from within a call of their own.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.backlog import PIECE, Backlog

#: Bytes that wait for an end that is paused, until the writer is paused.
QUEUE_LIMIT: Final = 256 * 1024


@implementer(ITransport, IPushProducer)
class PipeEnd:
    """The transport of one of the two protocols; ``peer`` is what it calls the other's address."""

    other: PipeEnd

    def __init__(self, clock: IReactorTime, protocol: IProtocol, peer: IAddress) -> None:
        self._clock = clock
        self._protocol = protocol
        self._peer = peer
        self._producer: IPushProducer | None = None
        #: What the other end wrote and this one has not read.
        self._unread = Backlog()
        self._delivering = False
        self._paused = False
        self._eof = False
        self._closed = False
        self._over = False

    # -- reading ----------------------------------------------------------------------
    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = False
        self._clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        """See ``IPushProducer``."""
        self.loseConnection()

    def _take(self, data: bytes) -> None:
        self._unread.append(data)
        if not self._paused:
            self._deliver()
        producer = self.other._producer
        if len(self._unread) > QUEUE_LIMIT and producer is not None:
            producer.pauseProducing()

    def _deliver(self) -> None:
        if self._delivering:
            return  # the call that delivers goes on
        self._delivering = True
        try:
            while self._unread and not self._paused and not self._over:
                view, _ = self._unread.first(PIECE)
                with view:
                    data = bytes(view)
                self._unread.drop(len(data))
                self._protocol.dataReceived(data)
        finally:
            self._delivering = False
        if not self._unread and not self._over:
            self._drained()

    def _drained(self) -> None:
        """Everything was read: the writer may go on, and what it did last takes effect."""
        producer = self.other._producer
        if producer is not None:
            producer.resumeProducing()
        if self.other._closed:
            self._end()
        elif self._eof:
            self._eof = False
            half_closeable: Any = IHalfCloseableProtocol(self._protocol, None)
            if half_closeable is None:
                self.loseConnection()
            else:
                half_closeable.readConnectionLost()

    # -- writing ----------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if data and not self._closed and not self._over:
            self.other._take(bytes(data))

    def writeSequence(self, data: Any) -> None:
        """See ``ITransport``."""
        self.write(b"".join(data))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Pause ``producer``, a streaming one, while the other end has much to read."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """See ``IConsumer``."""
        self._producer = None

    def loseWriteConnection(self) -> None:
        """Send the end of the data after what was written."""
        other = self.other
        other._eof = True
        self._clock.callLater(0, other._deliver)

    def loseConnection(self) -> None:
        """Close after the other end has read what was written."""
        if not self._closed:
            self._closed = True
            self._clock.callLater(0, self.other._deliver)

    def abortConnection(self) -> None:
        """Close now."""
        self._closed = True
        self.other._unread.clear()
        self._clock.callLater(0, self.other._end)

    # -- the end ----------------------------------------------------------------------
    def _end(self) -> None:
        for end in (self, self.other):
            if not end._over:
                end._over = True
                end._producer = None
                end._unread.clear()
                end._protocol.connectionLost(Failure(ConnectionDone()))

    def getPeer(self) -> IAddress:
        """See ``ITransport``."""
        return self._peer

    def getHost(self) -> IAddress:
        """See ``ITransport``."""
        return self.other._peer


def connect_pipe(
    clock: IReactorTime,
    client: IProtocol,
    client_address: IAddress,
    server: IProtocol,
    server_address: IAddress,
) -> None:
    """Connect two protocols, the server first."""
    near = PipeEnd(clock, client, server_address)
    far = PipeEnd(clock, server, client_address)
    near.other, far.other = far, near
    # What the server sends at once waits for the client.
    near.pauseProducing()
    server.makeConnection(far)
    client.makeConnection(near)
    near.resumeProducing()
