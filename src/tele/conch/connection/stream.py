"""How does a Twisted protocol run over a channel, as it does over TCP?

Invariants:

* The channel is a Twisted transport, with producers, half-close and abort; so an SSH
  connection runs inside a channel of another one as it does over TCP.
* What arrives while the protocol is paused is queued without credit: the window bounds it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Channel
from tele.conch.connection.channel_connection import ChannelConnection


@implementer(ITransport, IPushProducer)
class StreamChannel(Channel):
    """A channel that is the transport of ``protocol``; ``peer`` and ``host`` are its addresses."""

    def __init__(
        self,
        protocol: IProtocol,
        peer: IAddress | None = None,
        host: IAddress | None = None,
        **named: Any,
    ) -> None:
        super().__init__(**named)
        self.protocol = protocol
        self._peer = peer
        self._host = host
        self._producer: IPushProducer | None = None
        self._paused = False
        self._early = Backlog()

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open: connect the protocol."""
        self.protocol.makeConnection(self)

    def getPeer(self) -> Any:
        """See ``ITransport``."""
        return self._peer or super().getPeer()

    def getHost(self) -> Any:
        """See ``ITransport``."""
        return self._host or super().getHost()

    # -- receiving --------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Give data to the protocol, unless it is paused."""
        if self._paused or self._early:
            self._early.append(view)
        else:
            self.protocol.dataReceived(bytes(view))
            self.consumed(len(view))

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``; what is queued comes first."""
        self._paused = False
        early = self._early
        while early and not self._paused:
            view, _ = early.first(self.localMaxPacket)
            with view:
                data = bytes(view)
            early.drop(len(data))
            self.protocol.dataReceived(data)
            self.consumed(len(data))
        if self.remote_eof and not early and not self._paused:
            self._ended()

    def stopProducing(self) -> None:
        """See ``IPushProducer``."""
        self.loseConnection()

    def eofReceived(self) -> None:
        """The peer sent EOF."""
        if not self._early:
            self._ended()

    def _ended(self) -> None:
        half_closeable: Any = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is None:
            self.loseConnection()
        else:
            half_closeable.readConnectionLost()

    # -- sending ----------------------------------------------------------------------
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Pause ``producer``, a streaming one, while the queue is long."""
        if not streaming or self._producer is not None:
            raise ValueError("the producer is not a streaming one, or another one is registered")
        if self.is_open:
            self._producer = producer
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """See ``ITransport``."""
        self._producer = None

    def stopWriting(self) -> None:
        """The queue is long."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def startWriting(self) -> None:
        """The queue is short again."""
        if self._producer is not None:
            self._producer.resumeProducing()

    def loseWriteConnection(self) -> None:
        """Send EOF after what was written."""
        self.send_eof()

    def abortConnection(self) -> None:
        """Close now, without what is queued."""
        self._forget_queue()
        self.loseConnection()

    def closed(self) -> None:
        """The channel is closed."""
        super().closed()
        self._early.clear()
        self._producer = None
        self.protocol.connectionLost(Failure(ConnectionDone()))


class _RequestedStream(StreamChannel):
    """A stream that we ask the peer for."""

    def __init__(self, name: bytes, protocol: IProtocol, **named: Any) -> None:
        super().__init__(protocol, **named)
        self.name = name
        self.opened: Deferred[IProtocol] = Deferred(self._cancel)
        self._cancelled = False

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        """The caller does not wait for the peer's reply any more."""
        self._cancelled = True

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open."""
        if self._cancelled:
            self.loseConnection()
            return
        super().channelOpen(specificData)
        self.opened.callback(self.protocol)

    def closed(self) -> None:
        """The channel is closed; a protocol that was never connected is not told."""
        if not self._cancelled:
            super().closed()

    def openFailed(self, reason: Any) -> None:
        """The peer refused, or the connection was lost."""
        if not self._cancelled:
            self.opened.errback(reason)


def open_stream(
    connection: ChannelConnection,
    name: bytes,
    extra: bytes,
    protocol: IProtocol,
    peer: IAddress | None = None,
    host: IAddress | None = None,
) -> Deferred[IProtocol]:
    """Open a channel of type ``name`` for ``protocol``; fires with it when it is connected.

    Fails with Conch's ``ConchError`` (text, code) if the peer refuses; can be cancelled.
    """
    channel = _RequestedStream(name, protocol, peer=peer, host=host)
    opened = channel.opened  # it may be refused at once
    connection.openChannel(channel, extra)
    return opened
