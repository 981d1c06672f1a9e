"""Egress proxies, as small as their RFCs allow: HTTP CONNECT (RFC 9110) and SOCKS 5."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from socket import inet_ntoa
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

CONNECTED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 gateway\r\n\r\n"


@define
class Gateway:
    """Listens on loopback, and connects to the hosts of ``names`` only.

    ``requests`` are the destinations, as requested. ``login`` is required if it is given.
    ``answer`` is the reply to a CONNECT that succeeded.
    """

    reactor: Any
    make: Callable[[Gateway], Protocol]
    names: Mapping[str, str] = field(factory=dict)
    login: tuple[str, str] | None = None
    answer: bytes = CONNECTED
    requests: list[tuple[str, int]] = field(factory=list)
    open: set[Any] = field(factory=set)
    #: TLS options of an https proxy.
    tls: Any = None
    #: Wait for the destination's first bytes, and send them with the reply.
    together: bool = False
    port: int = 0
    _listening: Any = None

    def start(self) -> Gateway:
        """Listen, on the same port as before if it listened before."""
        factory: Any = Factory.forProtocol(lambda: self.make(self))
        factory.noisy = False
        if self.tls is not None:
            factory = TLSMemoryBIOFactory(self.tls, False, factory, clock=self.reactor)
            factory.noisy = False
        self._listening = self.reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self

    def stop(self) -> None:
        """Stop listening and cut all connections."""
        self.reactor.wait(self._listening.stopListening())
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for each in list(self.open):
            each.transport.abortConnection()

    def resolve(self, host: str) -> str | None:
        """Return the address of ``host``."""
        return self.names.get(host)


class _DestinationSide(Protocol):
    """The destination's side."""

    def __init__(self, client: _ClientSide) -> None:
        self.client = client
        self.early = b""

    def connectionMade(self) -> None:
        self.client.gateway.open.add(self)
        self.client.destination = self
        if not self.client.gateway.together:
            self.client.destination_connected(b"")

    def dataReceived(self, data: bytes) -> None:
        if self.client.is_connected:
            self.client.transport.write(data)
        else:
            self.client.destination_connected(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.client.gateway.open.discard(self)
        self.client.transport.loseConnection()


class _ClientSide(Protocol):
    """The client's side. A subclass reads the request."""

    transport: Any
    is_connected = False

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.seen = b""
        self.destination: _DestinationSide | None = None

    def connectionMade(self) -> None:
        self.gateway.open.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gateway.open.discard(self)
        if self.destination is not None:
            self.destination.transport.loseConnection()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self.destination is not None and self.is_connected:
            self.destination.transport.write(data)  # type: ignore[union-attr]
            return
        self.seen += data
        self.read_request()

    def read_request(self) -> None:
        raise NotImplementedError

    def connect_to(self, host: str, port: int) -> None:
        self.gateway.requests.append((host, port))
        address = self.gateway.resolve(host)
        if address is None:
            self.refuse()
            return
        factory = Factory.forProtocol(lambda: _DestinationSide(self))
        factory.noisy = False
        connecting: Any = HostnameEndpoint(self.gateway.reactor, address, port).connect(factory)
        connecting.addErrback(lambda _: self.refuse())

    def refuse(self) -> None:
        raise NotImplementedError

    def destination_connected(self, early: bytes) -> None:
        raise NotImplementedError


class HttpGateway(_ClientSide):
    """CONNECT."""

    def read_request(self) -> None:
        head, end, _ = self.seen.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        assert method == "CONNECT"
        if self.gateway.login is not None:
            coded = base64.b64encode(":".join(self.gateway.login).encode()).decode()
            if f"Proxy-Authorization: Basic {coded}" not in lines:
                self.transport.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
                )
                self.transport.loseConnection()
                return
        host, _, port = target.rpartition(":")
        self.connect_to(host.strip("[]"), int(port))

    def refuse(self) -> None:
        self.transport.write(b"HTTP/1.1 403 Not on my watch\r\nContent-Length: 0\r\n\r\n")
        self.transport.loseConnection()

    def destination_connected(self, early: bytes) -> None:
        self.is_connected = True
        self.transport.write(self.gateway.answer + early)


class SocksGateway(_ClientSide):
    """SOCKS 5."""

    state = "greeting"

    def read_request(self) -> None:
        seen = self.seen
        if self.state == "greeting" and len(seen) >= 2 and len(seen) >= 2 + seen[1]:
            methods, self.seen = seen[2 : 2 + seen[1]], seen[2 + seen[1] :]
            wanted = 0 if self.gateway.login is None else 2
            if wanted not in methods:
                self.transport.write(b"\5\xff")
                self.transport.loseConnection()
                return
            self.transport.write(bytes((5, wanted)))
            self.state = "request" if wanted == 0 else "login"
            self.read_request()
        elif self.state == "login" and len(seen) >= 2 and len(seen) >= 3 + seen[1]:
            size = seen[1]
            if len(seen) < 3 + size + seen[2 + size]:
                return
            user, password = seen[2 : 2 + size], seen[3 + size : 3 + size + seen[2 + size]]
            self.seen = seen[3 + size + seen[2 + size] :]
            good = (user.decode(), password.decode()) == self.gateway.login
            self.transport.write(b"\1\0" if good else b"\1\1")
            if not good:
                self.transport.loseConnection()
                return
            self.state = "request"
            self.read_request()
        elif self.state == "request" and len(seen) >= 5:
            assert seen[:3] == b"\5\1\0"
            assert seen[3] in (1, 3)
            end = 8 if seen[3] == 1 else 5 + seen[4]
            if len(seen) >= end + 2:
                self.state = "wait"
                host = inet_ntoa(seen[4:8]) if seen[3] == 1 else seen[5:end].decode()
                self.connect_to(host, int.from_bytes(seen[end : end + 2], "big"))

    def refuse(self) -> None:
        self.transport.write(b"\5\2\0\1" + bytes(6))
        self.transport.loseConnection()

    def destination_connected(self, early: bytes) -> None:
        self.is_connected = True
        self.transport.write(b"\5\0\0\3\3abc\0\1" + early)
