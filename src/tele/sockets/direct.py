"""How do bytes get between the kernel and the packet buffers without a copy too many?

Twisted's TCP transports, with four changes: they read into the shared scratch buffer, they
send at once instead of in the next turn of the reactor, they say when they are drained, and they
end when their peer is gone (:mod:`tele.sockets.tcp`).
With any other protocol than ours they behave like Twisted's.

Invariants:

* Everything that Twisted promises of a TCP transport stays true.
* A connection that counts for somebody (a :class:`~tele.capacity.descriptors.Lease`) counts
  until its socket is closed, and is not made when it would be one too many.
* What touches private names of Twisted (``_tempDataLen``) is here and nowhere else, and a
  test says so when they change.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import main, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IListeningPort,
    IProtocol,
    IReactorPluggableNameResolver,
)
from twisted.internet.protocol import ClientFactory, Factory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, providedBy

from tele.capacity.accepting import PatientPort
from tele.capacity.descriptors import Lease
from tele.log import make_logger
from tele.model.addresses import plain_host
from tele.sockets.buffers import MAX_PACKET, READ_SIZE, RECEIVED
from tele.sockets.protocols import BufferReceiver, DirectProtocol, SocketReader
from tele.sockets.tcp import MACHINE_SECONDS, USER_SECONDS, notice_dead_peer
from tele.wire.packets import OVERHEAD

log = make_logger(__name__)

BACKLOG = 1024
#: After a read of less than this a peer may drip: what it sent is not moved for each piece.
SMALL_READ = 4096


def plain_peer(address: Any) -> Any:
    """Return ``address`` as the IPv4 address that it is, if it is a mapped one."""
    host = getattr(address, "host", "")
    plain = plain_host(host)
    return address if plain == host else peer_address((plain, address.port))


def peer_address(of: tuple[str, int]) -> Any:
    """Return (host, port) as Twisted's address of a TCP peer."""
    host, port = of
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class DirectSocket(tcp.Connection):
    """What is common to both ends."""

    _claimed: IAddress | None = None
    _last_read = READ_SIZE
    #: What an accepted connection counts for; given back when the socket is closed.
    lease: Lease | None = None

    def claim_peer(self, address: IAddress) -> None:
        """Answer ``address`` when asked for the peer: whoever passes the connection on, and is
        trusted, says that it comes from there.
        """
        self._claimed = address

    def getPeer(self) -> Any:
        """See ``ITransport``."""
        below: Any = super()
        return self._claimed or plain_peer(below.getPeer())

    def speak_to(self, protocol: IProtocol) -> None:
        """Call ``protocol`` itself: endpoints put a wrapper between, which knows only
        Twisted's methods. For a protocol that is being connected.
        """
        self.protocol = cast(Any, protocol)

    def is_machine(self) -> None:
        """The peer is a machine of the cluster: if it is gone that is noticed soon."""
        notice_dead_peer(self.socket)

    def pending(self) -> int:
        """Return how many bytes wait for the kernel to take them."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def send_now(self, view: memoryview) -> None:
        """Send without waiting for the reactor; only what the kernel does not take waits.

        An error of the socket shows in the next turn, as Twisted's ``write`` does it.
        """
        if not self.connected or self.disconnecting:
            return
        sent = 0
        if not self.pending():
            try:
                sent = self.socket.send(view)
            except OSError:
                sent = 0
        if sent < len(view):
            self.write(bytes(view[sent:]))

    def doRead(self) -> Any:
        """Read into the shared buffer, or let the protocol read the socket itself."""
        protocol: Any = self.protocol
        if isinstance(protocol, SocketReader):
            return protocol.socket_readable(self.socket)
        if not isinstance(protocol, BufferReceiver):
            return super().doRead()
        kept = protocol.kept
        start = len(kept)
        if start > MAX_PACKET + OVERHEAD:
            return super().doRead()  # reading is paused
        if start and self._last_read < SMALL_READ and protocol.missing:
            return self._read_missing(protocol)
        if start:
            RECEIVED[:start] = kept
        try:
            size = self.socket.recv_into(RECEIVED[start : start + READ_SIZE])
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not size:
            return main.CONNECTION_DONE
        self._last_read = size
        protocol.buffer_received(start + size)
        return None

    def _read_missing(self, protocol: Any) -> Any:
        """Read what the unfinished packet lacks, or a part of it, which is added to it."""
        try:
            data = self.socket.recv(protocol.missing)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self._last_read = len(data)
        protocol.dataReceived(data)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The socket is closed."""
        lease, self.lease = self.lease, None
        super().connectionLost(reason)
        if lease is not None:
            lease.release()

    def doWrite(self) -> Any:
        """Send what waits, and tell the protocol when nothing does any more."""
        result = super().doWrite()
        if result is None and not self.pending():
            protocol: Any = self.protocol
            if isinstance(protocol, DirectProtocol):
                protocol.drained()
        return result


class DirectServer(DirectSocket, tcp.Server):
    """A connection that was accepted: a person's, until somebody says otherwise."""

    def __init__(
        self,
        sock: sockets.socket,
        protocol: Any,
        client: Any,
        server: Any,
        sessionno: int,
        reactor: Any,
    ) -> None:
        notice_dead_peer(sock, USER_SECONDS)
        super().__init__(sock, protocol, client, server, sessionno, reactor)


class DirectClient(DirectSocket, tcp.Client):
    """A connection that was made, to a machine."""

    def createInternetSocket(self) -> sockets.socket:
        """See ``tcp.Client``."""
        made: sockets.socket = super().createInternetSocket()
        notice_dead_peer(made, MACHINE_SECONDS)
        return made


class DirectLocal(DirectSocket):
    """A connected UNIX socket, which somebody else has made."""

    def __init__(self, connected: sockets.socket, protocol: IProtocol, reactor: Any) -> None:
        super().__init__(connected, protocol, reactor)
        self.logstr = "local"
        self.connected = 1
        self.startReading()

    def getPeer(self) -> UNIXAddress:
        """See ``ITransport``; who connects to a UNIX socket has no address."""
        return UNIXAddress(None)

    def getHost(self) -> UNIXAddress:
        """See ``ITransport``."""
        return UNIXAddress(None)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: there is no TCP that could delay."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: the kernel knows when the other end is gone."""


class DirectPort(PatientPort):
    """A listening port whose connections are direct."""

    transport = DirectServer

    def _buildAddr(self, address: Any) -> Any:
        below: Any = super()
        return plain_peer(below._buildAddr(address))

    def shortage(self, why: str) -> None:
        """See :class:`PatientPort`."""
        log.warn("nobody can be accepted on port {port} until it ends: {why}",
                 port=self._realPortNumber, why=why)  # fmt: skip

    def not_taken(self) -> None:
        """See :class:`PatientPort`."""
        log.failure("a connection could not be taken")


class DirectConnector(tcp.Connector):
    """A connector whose connection is direct, and counts as ``lease``."""

    lease: Lease | None = None

    def connectionFailed(self, reason: Failure) -> None:
        """It was not made."""
        self._release()
        super().connectionFailed(reason)

    def connectionLost(self, reason: Failure) -> None:
        """It is closed."""
        self._release()
        super().connectionLost(reason)

    def _release(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def _makeTransport(self) -> DirectClient:
        return DirectClient(self.host, self.port, self.bindAddress, self, cast(Any, self.reactor))


def listen(
    reactor: Any, port: int, factory: Factory[Any], interface: str = "", backlog: int = BACKLOG
) -> IListeningPort:
    """Listen like ``reactor.listenTCP``, with direct connections."""
    listening = DirectPort(port, factory, backlog, interface, reactor)
    listening.startListening()
    return cast(IListeningPort, listening)


def adopt(
    reactor: Any,
    accepted: sockets.socket | int,
    protocol: IProtocol,
    seen: bytes = b"",
    lease: Lease | None = None,
) -> None:
    """Give a connected socket (or the descriptor of one, which is ours from now on) to
    ``protocol``, with the bytes that were read already. Raises OSError if it is not connected.
    ``lease`` is what it counts for, which is released when it is closed.
    """
    if isinstance(accepted, int):
        accepted = sockets.socket(fileno=accepted)
    accepted.setblocking(False)
    transport: DirectSocket
    if accepted.family == sockets.AF_UNIX:
        transport = DirectLocal(accepted, protocol, reactor)
    else:
        peer, host = accepted.getpeername(), accepted.getsockname()
        transport = DirectServer(accepted, protocol, peer, cast(Any, _Adopted(host[1])), 0, reactor)
    transport.lease = lease
    protocol.makeConnection(transport)
    if seen:
        protocol.dataReceived(seen)


class _Adopted:
    """Stands for the port that an adopted connection never had; only its repr asks."""

    def __init__(self, number: int) -> None:
        self._realPortNumber = number


class DirectReactor:
    """A reactor for client endpoints: its TCP connections are direct, all else is as it was.

    ``HostnameEndpoint(DirectReactor(reactor), ...)`` connects directly to each address.
    With ``resolver`` (an ``IHostnameResolver``) that one looks names up for it. With ``take`` each
    attempt is counted: what it raises is why there is none.
    """

    def __init__(
        self, reactor: Any, resolver: Any = None, take: Callable[[], Lease] | None = None
    ) -> None:
        self._reactor = reactor
        self._take = take
        directlyProvides(self, providedBy(reactor))
        if resolver is not None:
            alsoProvides(self, IReactorPluggableNameResolver)
            self.nameResolver = resolver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """See ``IReactorTCP.connectTCP``."""
        lease = None if self._take is None else self._take()
        connector = DirectConnector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.lease = lease
        connector.connect()
        return connector
