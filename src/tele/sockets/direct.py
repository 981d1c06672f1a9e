"""How are bytes moved between the kernel and the packet buffers without a copy?

Twisted's TCP transports with four changes: they read into the shared buffer, send at once instead
of in the next turn of the reactor, notify the protocol when all is sent, and are closed when their
peer does not respond (:mod:`tele.sockets.tcp`). With a protocol that is not one of
:mod:`tele.sockets.protocols` they behave like Twisted's.

Invariants:

* Everything that Twisted promises of a TCP transport stays true.
* A descriptor that is counted (:class:`~tele.capacity.descriptors.Lease`) is counted until the
  socket is closed, and no connection is made beyond the limit.
* Only this module uses private names of Twisted (``_tempDataLen``); a test fails when they change.
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
    IHostnameResolver,
    IListeningPort,
    IProtocol,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory, Factory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from tele.capacity.accepting import PatientPort
from tele.capacity.descriptors import Lease
from tele.log import make_logger
from tele.model.addresses import plain_host
from tele.sockets.buffers import MAX_PACKET, READ_SIZE, RECEIVED
from tele.sockets.protocols import BufferReceiver, DirectProtocol, SocketReader
from tele.sockets.tcp import MACHINE_SECONDS, USER_SECONDS, notice_dead_peer
from tele.sockets.traffic import TRAFFIC
from tele.wire.packets import OVERHEAD

log = make_logger(__name__)

BACKLOG = 1024
#: After a read of less than this only the missing bytes are read: a peer may send a packet in many
#: small pieces, and what is kept is not moved for each of them.
SMALL_READ = 4096


def plain_peer(address: IAddress) -> IAddress:
    """Return ``address``, an IPv4-mapped one as IPv4 address."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return address
    plain = plain_host(address.host)
    return address if plain == address.host else peer_address((plain, address.port))


def peer_address(of: tuple[str, int]) -> IPv4Address | IPv6Address:
    """Return (host, port) as Twisted's address."""
    host, port = of
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class DirectSocket(tcp.Connection):
    """The common part of all direct transports."""

    _claimed: IAddress | None = None
    _last_read = READ_SIZE
    #: The descriptors that this connection counts as; released when the socket is closed.
    lease: Lease | None = None

    def claim_peer(self, address: IAddress) -> None:
        """Return ``address`` as the peer from now on: a trusted proxy relays it from there."""
        self._claimed = address

    def getPeer(self) -> IAddress:
        """See ``ITransport``."""
        below: Any = super()
        return self._claimed or plain_peer(below.getPeer())

    def speak_to(self, protocol: IProtocol) -> None:
        """Call ``protocol`` itself, without the wrapper that endpoints make, which has only
        Twisted's methods. For a protocol that is being connected. Its bytes count as traffic.
        """
        self.protocol = cast(Any, protocol)
        TRAFFIC.opened(self.socket)

    def is_machine(self) -> None:
        """Close soon when the peer, a machine of the cluster, does not respond any more."""
        notice_dead_peer(self.socket)

    def pending(self) -> int:
        """Return how many bytes wait to be sent."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def send_now(self, view: memoryview) -> None:
        """Send at once; only what the kernel does not take waits.

        An error of the socket is handled in the next turn, as by Twisted's ``write``.
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

    def _read_missing(self, protocol: BufferReceiver) -> Any:
        """Read at most what the unfinished packet lacks."""
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
        """Release the descriptor."""
        lease, self.lease = self.lease, None
        if hasattr(self, "socket"):  # Twisted may call twice
            TRAFFIC.closing(self.socket)
        super().connectionLost(reason)
        if lease is not None:
            lease.release()

    def doWrite(self) -> Any:
        """Send what waits, and notify the protocol when all is sent."""
        result = super().doWrite()
        if result is None and not self.pending():
            protocol: Any = self.protocol
            if isinstance(protocol, DirectProtocol):
                protocol.drained()
        return result


class DirectServer(DirectSocket, tcp.Server):
    """An accepted connection, by default a user's."""

    def __init__(
        self,
        sock: sockets.socket,
        protocol: Any,
        client: Any,
        server: Any,
        sessionno: int,
        reactor: IReactorFDSet,
    ) -> None:
        notice_dead_peer(sock, USER_SECONDS)
        super().__init__(sock, protocol, client, server, sessionno, reactor)


class DirectClient(DirectSocket, tcp.Client):
    """A connection to a machine."""

    def createInternetSocket(self) -> sockets.socket:
        """See ``tcp.Client``."""
        made: sockets.socket = super().createInternetSocket()
        notice_dead_peer(made, MACHINE_SECONDS)
        return made


class DirectLocal(DirectSocket):
    """A connected UNIX socket."""

    def __init__(
        self, connected: sockets.socket, protocol: IProtocol, reactor: IReactorFDSet
    ) -> None:
        super().__init__(connected, protocol, reactor)
        self.logstr = "local"
        self.connected = 1
        self.startReading()

    def getPeer(self) -> UNIXAddress:
        """See ``ITransport``; the peer of a UNIX socket has no address."""
        return UNIXAddress(None)

    def getHost(self) -> UNIXAddress:
        """See ``ITransport``."""
        return UNIXAddress(None)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: this is not TCP."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: the kernel knows when the peer closes."""


class DirectPort(PatientPort):
    """A listening port whose connections are direct."""

    transport = DirectServer

    def _buildAddr(self, address: Any) -> Any:
        below: Any = super()
        return plain_peer(below._buildAddr(address))

    def shortage(self, why: str) -> None:
        """See :class:`PatientPort`."""
        log.warn("no connection can be accepted", port=self._realPortNumber, error=why)

    def not_taken(self) -> None:
        """See :class:`PatientPort`."""
        log.failure("connection not accepted")


class DirectConnector(tcp.Connector):
    """A connector of direct connections, counted as ``lease``."""

    lease: Lease | None = None

    def connectionFailed(self, reason: Failure) -> None:
        """Release the descriptor."""
        self._release()
        super().connectionFailed(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Release the descriptor."""
        self._release()
        super().connectionLost(reason)

    def _release(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def _makeTransport(self) -> DirectClient:
        return DirectClient(self.host, self.port, self.bindAddress, self, cast(Any, self.reactor))


def listen(
    reactor: IReactorFDSet,
    port: int,
    factory: Factory[Any],
    interface: str = "",
    backlog: int = BACKLOG,
) -> IListeningPort:
    """Listen like ``reactor.listenTCP``, with direct connections."""
    listening = DirectPort(port, factory, backlog, interface, reactor)
    listening.startListening()
    return cast(IListeningPort, listening)


def adopt(
    reactor: IReactorFDSet,
    accepted: sockets.socket | int,
    protocol: IProtocol,
    seen: bytes = b"",
    lease: Lease | None = None,
) -> None:
    """Connect ``protocol`` to a connected socket, or its descriptor, which is owned from now on.

    ``seen`` are bytes that were read already. ``lease`` is released when the socket is closed.
    Raises OSError if it is not connected.
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
    """In the place of a port, for the repr of an adopted connection."""

    def __init__(self, number: int) -> None:
        self._realPortNumber = number


@implementer(IReactorTime)
class DirectReactor:
    """A reactor for client endpoints that makes direct TCP connections.

    ``HostnameEndpoint(DirectReactor(reactor), ...)`` makes one to each address it tries.
    ``resolver`` (an ``IHostnameResolver``) resolves names for it. ``take`` counts a descriptor for
    each attempt, or raises.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        resolver: IHostnameResolver | None = None,
        take: Callable[[], Lease] | None = None,
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
