"""How does a connection leave a network that does not let everybody out?

Directly, or through a proxy of the network (:mod:`tele.outbound.egress`): an HTTP proxy that is
asked to CONNECT, or SOCKS 5.

Invariants:

* A name is resolved anew for each connection: whoever moved is found. Behind a proxy of the
  network it is the proxy that resolves it.
* What a proxy of the network answers is bounded, in bytes and in time, and a refusal of its is
  told in its words.
* Once it is connected nothing of this file is in between, and no byte is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import TeleError, Unreachable
from tele.model.addresses import Address
from tele.outbound.egress import Choose, EgressProxy, Kind, Login, direct
from tele.outbound.endpoints import endpoint_of
from tele.outbound.proxy_handshakes import ProxyHandshake, ask
from tele.sockets.direct import DirectReactor, DirectSocket
from tele.workers import SerialWorker


def dial(
    reactor: Any, address: str, seconds: float, default_port: int = 3080
) -> IStreamClientEndpoint:
    """Return an endpoint to ``host:port``, with sockets of ours; it waits for ``seconds``."""
    return Dialer(reactor).dial(address, seconds, default_port)


@frozen(eq=False)
class Dialer:
    """How the connections of a host leave: ``choose`` says through what.

    ``login`` says who we are to it, and is asked anew for each connection; without it, the
    way out itself may say so.
    """

    reactor: Any
    choose: Choose = direct
    login: Callable[[], Login | None] | None = None
    #: Where files are read: the one with the login, and the authorities that this machine trusts.
    files: SerialWorker = field(init=False)

    @files.default
    def _make_worker(self) -> SerialWorker:
        return SerialWorker(self.reactor, "way out")

    def dial(self, address: str, seconds: float, default_port: int = 3080) -> IStreamClientEndpoint:
        """Return an endpoint to ``host:port``; it waits for ``seconds``."""
        return self.endpoint(*Address.parse(address, default_port), seconds)

    def endpoint(self, host: str, port: int, seconds: float = 10.0) -> IStreamClientEndpoint:
        """Return an endpoint, with sockets of ours. It fails with a :class:`TeleError` of the
        way out, or as Twisted's endpoints do.
        """
        via = self.choose(host, port)
        if via is not None:
            return _Through(self, via, host, port, seconds)
        return self.straight(host, port, seconds)

    def straight(self, host: str, port: int, seconds: float) -> IStreamClientEndpoint:
        """Return an endpoint that uses no proxy."""
        return endpoint_of(DirectReactor(self.reactor), host, port, seconds)


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class _Through:
    """Connects to (``host``, ``port``) through ``via``, all within ``seconds``."""

    way: Dialer
    via: EgressProxy
    host: str
    port: int
    seconds: float

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        via, reactor = self.via, self.way.reactor
        login, tls = await self.way.files.call(self._read_files)
        waiting = _Waiting(via, ask(via, self.host, self.port, login), factory)
        made: Any = Factory.forProtocol(lambda: waiting)
        made.noisy = False
        if tls is not None:
            made = TLSMemoryBIOFactory(tls, True, made, clock=reactor)
            made.noisy = False
        connected = Deferred.fromCoroutine(self._ask(made, waiting))
        connected.addTimeout(self.seconds, reactor)
        try:
            return await connected
        except DeferredTimeout:
            raise Unreachable(f"{via} does not answer; it is the way out") from None

    def _read_files(self) -> tuple[Login | None, Any]:
        """In a thread: return the login, and for TLS what trusts the machine's authorities."""
        login = self.via.login if self.way.login is None else self.way.login()
        secure = self.via.kind is Kind.HTTPS
        return login, optionsForClientTLS(self.via.host) if secure else None

    async def _ask(self, factory: Any, waiting: _Waiting) -> IProtocol:
        try:
            await self.way.straight(self.via.host, self.via.port, self.seconds).connect(factory)
        except (TeleError, CancelledError):
            raise
        except Exception as error:
            raise Unreachable(f"{self.via} is not reached; it is the way out: {error}") from None
        return await waiting.answered


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class Announced:
    """What ``endpoint`` connects to, with ``preface`` sent before anything else."""

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
            raise Unreachable("the connection is not wanted any more")
        transport.write(self.preface)
        hand_over(transport, protocol)
        return protocol


def hand_over(transport: Any, protocol: IProtocol, rest: bytes = b"") -> None:
    """Give a connection to ``protocol``, with the bytes that were read already."""
    if isinstance(transport, DirectSocket):
        transport.speak_to(protocol)
    else:
        transport.wrappedProtocol = protocol  # TLS, to a proxy of the kind https
    protocol.makeConnection(transport)
    if rest:
        protocol.dataReceived(rest)


class _Waiting(Protocol):
    """Speaks to a proxy of the network until it has connected us, and leaves then."""

    transport: Any

    def __init__(self, via: EgressProxy, asking: ProxyHandshake, factory: IProtocolFactory) -> None:
        self.answered: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self._via = via
        self._asking = asking
        self._factory = factory

    def connectionMade(self) -> None:
        """Ask."""
        if isinstance(self.transport, DirectSocket):
            self.transport.speak_to(self)
        self.transport.write(self._asking.begin())

    def dataReceived(self, data: bytes) -> None:
        """Read the answer."""
        if self.answered.called:
            return
        try:
            answer = self._asking.receive(data)
        except TeleError as error:
            self.answered.errback(error)
            self._give_up()
            return
        if answer:
            self.transport.write(answer)
        if self._asking.done:
            self._hand_over(self._asking.rest)

    def _hand_over(self, rest: bytes) -> None:
        transport = self.transport
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            self.answered.errback(Unreachable("the connection is not wanted any more"))
            self._give_up()
            return
        hand_over(transport, protocol, rest)
        self.answered.callback(protocol)

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The proxy of the network left."""
        if not self.answered.called:
            words = "" if reason.check(ConnectionDone) else f": {reason.value}"
            self.answered.errback(
                Unreachable(f"{self._via} closed the connection instead of an answer{words}")
            )
