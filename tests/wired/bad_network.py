"""A network between two parts that does what a test wants: delays, drops, or is cut unseen."""

from __future__ import annotations

import socket
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from own_reactor import OwnReactor


class _Side(Protocol):
    """One side of a connection through the network."""

    transport: Any

    def __init__(self, network: BadNetwork) -> None:
        self._network = network
        self.other: _Side | None = None
        self.frozen = False
        self.early: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        if self.frozen or self._network.cut:
            return  # dropped, without notice
        if self._network.delay:
            self._network.reactor.callLater(self._network.delay, self._pass_on, data)
        else:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self.frozen or self._network.cut:
            return
        self._network.carried += len(data)
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._network.sides.discard(self)
        # A cut network does not pass on the end of a connection.
        if self.other is not None and not self.frozen and not self._network.cut:
            self.other.transport.loseConnection()


@define(eq=False)
class BadNetwork:
    """Listens on ``port`` and connects to ``target``, a port that may change."""

    reactor: OwnReactor
    target: int
    #: Bytes and ends of connections are dropped, until it is mended.
    cut: bool = False
    delay: float = 0.0
    carried: int = 0
    port: int = 0
    sides: set[_Side] = field(factory=set)
    _listening: Any = None

    def start(self) -> BadNetwork:
        """Begin to take connections."""
        factory = Factory.forProtocol(lambda: self._accept())
        factory.noisy = False
        base: Any = self.reactor  # Twisted's own methods are annotated in part
        self._listening = base.listenTCP(self.port, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self

    def _accept(self) -> _Side:
        near = _Side(self)
        far = _Side(self)
        self.sides |= {near, far}
        factory = Factory.forProtocol(lambda: far)
        factory.noisy = False
        connecting = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.target).connect(factory)

        def connected(_: Any) -> None:
            near.other, far.other = far, near
            for data in near.early:
                far.transport.write(data)
            near.early.clear()

        connecting.addCallbacks(connected, lambda _: near.transport.abortConnection())
        return near

    def freeze(self) -> None:
        """Cut the connections that there are; new ones are carried."""
        for side in self.sides:
            side.frozen = True

    def drop(self) -> None:
        """Reset all connections, as a router does that was started anew."""
        for side in list(self.sides):
            if side.transport is not None:
                side.transport.abortConnection()

    def stop(self) -> None:
        """Take no more connections, and end those that there are."""
        self._listening.stopListening()
        self.cut = True
        self.drop()


def unused_port() -> int:
    """A port of 127.0.0.1 where a connection is refused."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port
