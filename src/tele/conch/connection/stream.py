"""How does a protocol of ours speak over a channel, as if it were a socket?

Invariants:

* The channel is a Twisted transport, with producers, half-close and abort; so an SSH
  connection runs inside a channel of another one as it does over TCP.
* What arrives while the protocol is paused waits, uncredited: the window bounds it.
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


@implementer(ITransport, IPushProducer)
class StreamChannel(Channel):
    """A channel that carries ``protocol``. ``peer`` and ``host`` are what it hears of itself."""

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
        self._producer: Any = None
        self._paused = False
        self._early = Backlog()

    def channelOpen(self, specificData: bytes) -> None:
        """The peer is there: the protocol begins."""
        self.protocol.makeConnection(self)

    def getPeer(self) -> Any:
        """See ``ITransport``."""
        return self._peer or super().getPeer()

    def getHost(self) -> Any:
        """See ``ITransport``."""
        return self._host or super().getHost()

    # -- receiving --------------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Hand it over, unless the protocol wants nothing now."""
        if self._paused or self._early:
            self._early.append(view)
        else:
            self.protocol.dataReceived(bytes(view))
            self.consumed(len(view))

    def pauseProducing(self) -> None:
        """Deliver nothing for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again, first what waits."""
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
        """Deliver nothing any more."""
        self.loseConnection()

    def eofReceived(self) -> None:
        """The peer sends no more."""
        if not self._early:
            self._ended()

    def _ended(self) -> None:
        half_closeable: Any = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is None:
            self.loseConnection()
        else:
            half_closeable.readConnectionLost()

    # -- sending ----------------------------------------------------------------------
    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell ``producer`` to pause when too much waits. It has to be a streaming one."""
        if not streaming or self._producer is not None:
            raise ValueError("one producer, and a streaming one")
        if self.is_open:
            self._producer = producer
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """Tell it nothing any more."""
        self._producer = None

    def stopWriting(self) -> None:
        """Too much waits."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def startWriting(self) -> None:
        """There is room again."""
        if self._producer is not None:
            self._producer.resumeProducing()

    def loseWriteConnection(self) -> None:
        """Send EOF after what was written."""
        self.send_eof()

    def abortConnection(self) -> None:
        """Close now, whatever waits."""
        self._forget_queue()
        self.loseConnection()

    def closed(self) -> None:
        """The channel is gone."""
        super().closed()
        self._early.clear()
        self._producer = None
        self.protocol.connectionLost(Failure(ConnectionDone()))


class _Asked(StreamChannel):
    """A stream that we ask for."""

    def __init__(self, name: bytes, protocol: IProtocol, **named: Any) -> None:
        super().__init__(protocol, **named)
        self.name = name
        self.opened: Deferred[IProtocol] = Deferred(self._give_up)
        self._given_up = False

    def _give_up(self, _: Deferred[IProtocol]) -> None:
        """Nobody waits for the peer's answer any more."""
        self._given_up = True

    def channelOpen(self, specificData: bytes) -> None:
        """The peer agrees."""
        if self._given_up:
            self.loseConnection()
            return
        super().channelOpen(specificData)
        self.opened.callback(self.protocol)

    def closed(self) -> None:
        """The channel is gone; a protocol that never had it hears nothing."""
        if not self._given_up:
            super().closed()

    def openFailed(self, reason: Any) -> None:
        """The peer refuses, or is gone."""
        if not self._given_up:
            self.opened.errback(reason)


def open_stream(
    connection: Any,
    name: bytes,
    extra: bytes,
    protocol: IProtocol,
    peer: IAddress | None = None,
    host: IAddress | None = None,
) -> Deferred[IProtocol]:
    """Open a channel of type ``name`` for ``protocol``; fires with it when it is connected.

    Fails with Conch's ``ConchError`` (text, code) if the peer refuses; can be cancelled.
    """
    asked = _Asked(name, protocol, peer=peer, host=host)
    opened = asked.opened  # it may be refused at once
    connection.openChannel(asked, extra)
    return opened
