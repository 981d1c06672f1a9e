"""How do outgoing connections leave this network: directly, or through an egress proxy?

An egress proxy (:mod:`tele.outbound.egress`) speaks HTTP CONNECT or SOCKS 5.

Invariants:

* A name is resolved for each connection. With an egress proxy, the proxy resolves it.
* A reply of an egress proxy is bounded, in bytes and in time. An error quotes its refusal.
* After the handshake nothing of this file is between the peers, and no byte is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import TeleError, Unreachable
from tele.model.addresses import Address
from tele.outbound.egress import EgressProxy, ProxyChoice, ProxyKind, ProxyLogin, no_proxy
from tele.outbound.hostname_endpoint import hostname_endpoint
from tele.outbound.proxy_handshakes import ProxyHandshake, handshake_with
from tele.sockets.direct import DirectReactor, DirectSocket
from tele.workers import SerialWorker


def dial(
    reactor: IReactorTime, address: str, seconds: float, default_port: int = 3080
) -> IStreamClientEndpoint:
    """Return an endpoint for ``host:port`` that uses no egress proxy."""
    return Dialer(reactor).dial(address, seconds, default_port)


@frozen(eq=False)
class Dialer:
    """Makes the outgoing connections of a host.

    ``proxy_for(host, port)`` is the egress proxy of a connection, or None. ``login()`` is the login
    at it, read for each connection; without it the address of the proxy may contain one.
    """

    reactor: IReactorTime
    proxy_for: ProxyChoice = no_proxy
    login: Callable[[], ProxyLogin | None] | None = None
    #: Reads files: the login, and the TLS authorities that this machine trusts.
    files: SerialWorker = field(init=False)

    @files.default
    def _make_worker(self) -> SerialWorker:
        return SerialWorker(self.reactor, "egress proxy")

    def dial(self, address: str, seconds: float, default_port: int = 3080) -> IStreamClientEndpoint:
        """Return an endpoint for ``host:port``; it times out after ``seconds``."""
        return self.endpoint(*Address.parse(address, default_port), seconds)

    def endpoint(self, host: str, port: int, seconds: float = 10.0) -> IStreamClientEndpoint:
        """Return an endpoint. It fails with a :class:`TeleError` about the egress proxy, or as
        Twisted's endpoints do.
        """
        via = self.proxy_for(host, port)
        if via is not None:
            return _ProxyEndpoint(self, via, host, port, seconds)
        return self.direct_endpoint(host, port, seconds)

    def direct_endpoint(self, host: str, port: int, seconds: float) -> IStreamClientEndpoint:
        """Return an endpoint that uses no egress proxy."""
        return hostname_endpoint(DirectReactor(self.reactor), host, port, seconds)


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class _ProxyEndpoint:
    """Connects to (``host``, ``port``) through ``via``, all within ``seconds``."""

    dialer: Dialer
    via: EgressProxy
    host: str
    port: int
    seconds: float

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        via, reactor = self.via, self.dialer.reactor
        login, tls = await self.dialer.files.call(self._read_files)
        proxy_handshake = handshake_with(via, self.host, self.port, login)
        handshake = _HandshakeProtocol(via, proxy_handshake, factory)
        made: Any = Factory.forProtocol(lambda: handshake)
        made.noisy = False
        if tls is not None:
            made = TLSMemoryBIOFactory(tls, True, made, clock=reactor)
            made.noisy = False
        connected = Deferred.fromCoroutine(self._ask(made, handshake))
        connected.addTimeout(self.seconds, reactor)
        try:
            return await connected
        except DeferredTimeout:
            raise Unreachable(f"egress proxy {via} does not answer") from None

    def _read_files(self) -> tuple[ProxyLogin | None, Any]:
        """In a thread: return the login, and TLS options that trust the machine's CAs."""
        login = self.via.login if self.dialer.login is None else self.dialer.login()
        secure = self.via.kind is ProxyKind.HTTPS
        return login, optionsForClientTLS(self.via.host) if secure else None

    async def _ask(self, factory: IProtocolFactory, handshake: _HandshakeProtocol) -> IProtocol:
        via = self.via
        endpoint = self.dialer.direct_endpoint(via.host, via.port, self.seconds)
        try:
            await endpoint.connect(factory)
        except (TeleError, CancelledError):
            raise
        except Exception as error:
            raise Unreachable(f"cannot connect to egress proxy {via}: {error}") from None
        return await handshake.established


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class PrefacedEndpoint:
    """Connects to ``endpoint`` and sends ``preface`` before anything else."""

    endpoint: IStreamClientEndpoint
    preface: bytes

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        plain = Factory.forProtocol(Protocol)
        plain.noisy = False
        connecting: Any = self.endpoint.connect(plain)
        transport = (await connecting).transport
        protocol = factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            raise Unreachable("the connection is no longer needed")
        transport.write(self.preface)
        hand_over(transport, protocol)
        return protocol


def hand_over(transport: Any, protocol: IProtocol, rest: bytes = b"") -> None:
    """Give a connection to ``protocol``, with the bytes that were already read."""
    if isinstance(transport, DirectSocket):
        transport.speak_to(protocol)
    else:
        transport.wrappedProtocol = protocol  # TLS to an https egress proxy
    protocol.makeConnection(transport)
    if rest:
        protocol.dataReceived(rest)


class _HandshakeProtocol(Protocol):
    """Runs the handshake with an egress proxy, then hands the connection over."""

    transport: Any

    def __init__(
        self, via: EgressProxy, handshake: ProxyHandshake, factory: IProtocolFactory
    ) -> None:
        self.established: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self._via = via
        self._handshake = handshake
        self._factory = factory

    def connectionMade(self) -> None:
        """Send the request."""
        if isinstance(self.transport, DirectSocket):
            self.transport.speak_to(self)
        self.transport.write(self._handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        """Read the reply."""
        if self.established.called:
            return
        try:
            answer = self._handshake.receive(data)
        except TeleError as error:
            self.established.errback(error)
            self._give_up()
            return
        if answer:
            self.transport.write(answer)
        if self._handshake.done:
            self._hand_over(self._handshake.rest)

    def _hand_over(self, rest: bytes) -> None:
        transport = self.transport
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            self.established.errback(Unreachable("the connection is no longer needed"))
            self._give_up()
            return
        hand_over(transport, protocol, rest)
        self.established.callback(protocol)

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The egress proxy closed the connection."""
        if not self.established.called:
            cause = "" if reason.check(ConnectionDone) else f": {reason.value}"
            self.established.errback(
                Unreachable(
                    f"egress proxy {self._via} closed the connection without a reply{cause}"
                )
            )
