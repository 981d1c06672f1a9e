"""How does a node keep one tunnel to a proxy?

Twisted's ``ClientService`` dials and reconnects. Its connection is a whole tunnel: an SSH
connection with both host certificates verified, on which the proxy has accepted :data:`TUNNEL`.

Invariants:

* A client's channel reaches the node's SSH server and nothing else; other channels are refused.
* A tunnel that is released gets no new clients, and lasts as long as those that it has.
* The same error is logged once, however often it occurs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from attrs import field, frozen
from twisted.application.internet import ClientService
from twisted.conch.error import ConchError
from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.admission.limits import Limits
from tele.conch.client.transport import ClientIdentity, MemberVerifier, connect
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import RESOURCE_SHORTAGE, UNKNOWN_CHANNEL_TYPE
from tele.conch.connection.stream import StreamChannel
from tele.errors import AccessDenied, Conflict, TeleError, Unreachable
from tele.log import make_logger
from tele.loop import backoff
from tele.model.identity import HostIdentity
from tele.sockets.direct import peer_address
from tele.tunnel.messages import CLIENT, LEAVING, TUNNEL, ClientAddress, Hello
from tele.tunnel.relayed_channels import CHANNELS_LIMIT
from tele.tunnel.versions import advice

log = make_logger(__name__)

#: Time limit to connect and log in to a proxy, in seconds.
LOGIN_SECONDS: Final = 20.0
#: How long calls of our own may go on, on a released tunnel without clients, in seconds.
CALLS_SECONDS: Final = 5.0
#: The longest pause after an address led to a proxy that has a tunnel already, in seconds: a load
#: balancer may lead there each time, and each time costs the proxy a login.
DUPLICATE_SECONDS: Final = 300.0
#: A tunnel that lasted for less counts as an attempt that failed, in seconds.
STEADY_SECONDS: Final = 30.0

#: Returns the server's protocol for a client at (host, port); None: no new clients.
Serve = Callable[[tuple[str, int]], IProtocol | None]


class AgentConnection(SSHConnection):
    """The node's end of a tunnel to a proxy."""

    channels_limit = CHANNELS_LIMIT

    def __init__(self, host_id: str, serve: Serve) -> None:
        super().__init__()
        #: The proxy at the other end, once that is known.
        self.proxy: HostIdentity | None = None
        #: Whether it gets no new clients: it was released, or the proxy is stopping.
        self.is_draining = False
        self.on_draining: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self._host_id = host_id
        self._serve = serve
        self._ending = False
        #: Whether the log says that the proxy has another version.
        self._is_other_version = False
        #: Whether it is over.
        self.has_ended = False
        self._end: IDelayedCall | None = None

    @property
    def proxy_id(self) -> str:
        """The id of the proxy at the other end; empty until that is known."""
        return "" if self.proxy is None else self.proxy.host_id

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """Return the channel of a client."""
        if channelType != CLIENT:
            hint = advice("proxy", self.transport.otherVersionString, "node")
            if hint and not self._is_other_version:
                self._is_other_version = True
                log.warn("channel of the proxy refused", proxy=self.proxy_id,
                         error=f"unknown type{hint}")  # fmt: skip
            raise ConchError("a tunnel has client channels only", UNKNOWN_CHANNEL_TYPE)
        client = ClientAddress.decode(data)
        if client.host_id != self._host_id:
            raise Unreachable("the client is for another node")
        protocol = self._serve(client.remote_addr)
        if protocol is None:
            raise ConchError("the node accepts no more clients now", RESOURCE_SHORTAGE)
        return _ClientChannel(
            protocol,
            peer_address(client.remote_addr),
            peer_address(self.transport.local_addr()),
            remoteWindow=windowSize,
            remoteMaxPacket=maxPacket,
        )

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Handle :data:`LEAVING` and keepalives."""
        if requestType == LEAVING:
            if not self.is_draining:
                self.is_draining = True
                self.on_draining()
            return True
        return super().gotGlobalRequest(requestType, data)

    def _close_channel(self, channel: SSHChannel) -> None:
        super()._close_channel(channel)
        self._end_if_empty()

    def release(self) -> None:
        """Close the connection when the last client has disconnected."""
        self.is_draining = self._ending = True
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._ending or self._opening:
            return
        if not self.channels:
            self.transport.loseConnection()
        elif self._end is None and not any(c.name == CLIENT for c in self.channels.values()):
            # Only calls of our own are left: those that run get their responses.
            self._end = self.transport.clock.callLater(CALLS_SECONDS, self._end_now)

    def _end_now(self) -> None:
        self._end = None
        self.transport.loseConnection()

    def serviceStopped(self) -> None:
        """See :class:`SSHConnection`."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        super().serviceStopped()
        self.has_ended = True
        self.on_lost()


class _ClientChannel(StreamChannel):
    """The transport of a client's SSH connection to this node."""

    name = CLIENT


class _TunnelHandle(Protocol):
    """The protocol that ``ClientService`` sees of a tunnel."""


@frozen
class _TunnelHandleTransport:
    """The transport that ``ClientService`` sees: when it disconnects, clients stay."""

    _agent: Agent

    def loseConnection(self) -> None:
        """Release the tunnel."""
        self._agent.release()


@implementer(IStreamClientEndpoint)
@frozen
class _TunnelEndpoint:
    """Connects up to a tunnel."""

    _agent: Agent

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._agent.dial(protocolFactory))


@frozen(eq=False)
class AgentContext:
    """What all agents of a node share.

    ``host_id()``, ``identity()`` and ``verifier()`` are called for each connection.
    ``endpoint(address)`` returns an endpoint. ``has_tunnel(proxy_id)``: there is a tunnel to that
    proxy, or one is being requested. ``refuses(proxy)`` returns why a proxy is refused, or nothing.
    ``changed()`` is called when a tunnel opens, closes or fails. ``connections`` are all, released
    ones included.
    """

    reactor: IReactorTime
    host_id: Callable[[], str]
    instance: bytes
    identity: Callable[[], ClientIdentity]
    verifier: Callable[[], MemberVerifier]
    serve: Serve
    endpoint: Callable[[str], IStreamClientEndpoint]
    has_tunnel: Callable[[str], bool]
    refuses: Callable[[HostIdentity], str]
    changed: Callable[[], None] = field(repr=False)
    limits: Limits
    connections: WeakSet[AgentConnection] = field(factory=WeakSet, repr=False)


class Agent:
    """Keeps a tunnel to the proxy that is reached at ``addresses()``."""

    def __init__(self, context: AgentContext, addresses: Callable[[], tuple[str, ...]]) -> None:
        self.connection: AgentConnection | None = None
        #: The id of the proxy to which :data:`TUNNEL` was sent.
        self.requesting = ""
        #: Whether the last attempt failed, or the proxy is stopping.
        self.failing = False
        self._context = context
        self.addresses = addresses
        self._turn = 0
        self._error = ""
        self._handle: IProtocol | None = None
        self._since = 0.0
        self._short_lived = 0
        self._duplicates = 0
        factory = Factory.forProtocol(_TunnelHandle)
        factory.noisy = False
        self._service = ClientService(
            _TunnelEndpoint(self), factory, retryPolicy=self._pause, clock=context.reactor
        )

    @property
    def works(self) -> bool:
        """Whether it has a tunnel that gets clients."""
        return self.connection is not None and not self.failing

    def start(self) -> None:
        """Connect, and reconnect from now on."""
        self._service.startService()

    def stop(self) -> None:
        """Reconnect no more, and release the tunnel."""
        stopping: Any = self._service.stopService()
        stopping.addErrback(lambda failure: log.failure("agent did not stop", failure))

    def _pause(self, failed_attempts: int) -> float:
        """Return how long to wait; short tunnels count as failed attempts."""
        if self._duplicates:
            return backoff(self._duplicates, longest=DUPLICATE_SECONDS)
        return backoff(failed_attempts + self._short_lived)

    async def dial(self, factory: IProtocolFactory) -> IProtocol:
        """Make one attempt; raises a :class:`TeleError`."""
        try:
            connection = await self._connect()
        except CancelledError:
            raise
        except Exception as error:
            self._duplicates = self._duplicates + 1 if isinstance(error, Conflict) else 0
            self._failed(str(error))
            raise
        self.connection = connection
        self._duplicates = 0
        self.failing = False
        self._error = ""
        self._since = self._context.reactor.seconds()
        log.info("tunnel opened", proxy=connection.proxy_id)
        connection.on_draining = self._proxy_drains
        connection.on_lost = self._on_lost
        if connection.is_draining:
            self.failing = True
        handle: Any = factory.buildProtocol(peer_address(("", 0)))
        self._handle = handle
        handle.makeConnection(_TunnelHandleTransport(self))
        self._context.changed()
        made: IProtocol = handle
        return made

    async def _connect(self) -> AgentConnection:
        context = self._context
        addresses = self.addresses()
        if not addresses:
            raise Unreachable("the proxy has no address now")
        self._turn += 1
        address = addresses[self._turn % len(addresses)]
        made = AgentConnection(context.host_id(), context.serve)
        logging_in = connect(
            context.reactor,
            context.endpoint(address),
            verify_host=context.verifier(),
            identity=context.identity(),
            connection=lambda: made,
            limits=context.limits,
        )
        try:
            await logging_in.addTimeout(LOGIN_SECONDS, context.reactor)
        except TeleError as error:
            raise Unreachable(f"proxy at {address}: {error}") from None
        except Exception as error:
            raise Unreachable(f"proxy at {address}: {type(error).__name__}") from None
        proxy: HostIdentity = made.transport.host.identity
        made.proxy = proxy
        context.connections.add(made)
        if context.has_tunnel(made.proxy_id):
            made.transport.loseConnection()
            raise Conflict(f"{address} led to proxy {made.proxy_id}, which has a tunnel already")
        problem = context.refuses(proxy)
        if problem:
            made.transport.loseConnection()
            raise AccessDenied(f"proxy at {address}: {problem}", "refused")
        # Behind a load balancer another agent may be led to the same proxy meanwhile.
        self.requesting = made.proxy_id
        try:
            welcome: Deferred[Any] = made.sendGlobalRequest(
                TUNNEL, Hello(context.instance).encode(), wantReply=1
            )
            await welcome.addTimeout(LOGIN_SECONDS, context.reactor)
        except Exception:
            made.transport.loseConnection()
            hint = advice("proxy", made.transport.otherVersionString, "node")
            raise Unreachable(f"proxy at {address} accepts no tunnels{hint}") from None
        finally:
            self.requesting = ""
        return made

    def _failed(self, error: str) -> None:
        self.failing = True
        if error != self._error:
            self._error = error
            log.warn("tunnel failed", error=error)
        self._context.changed()

    def _proxy_drains(self) -> None:
        if self.connection is not None:
            log.info("proxy is stopping", proxy=self.connection.proxy_id)
        self.failing = True
        self._context.changed()

    def release(self) -> None:
        """Release the tunnel: it is closed when its last client has disconnected."""
        connection = self.connection
        if connection is not None:
            connection.on_lost = connection.on_draining = lambda: None
            self._on_lost()
            connection.release()

    def _on_lost(self) -> None:
        self.connection = None
        lasted = self._context.reactor.seconds() - self._since
        self._short_lived = 0 if lasted >= STEADY_SECONDS else self._short_lived + 1
        handle, self._handle = self._handle, None
        self._context.changed()
        if handle is not None:
            # ClientService may be calling us now.
            self._context.reactor.callLater(0, handle.connectionLost, Failure(ConnectionDone()))
