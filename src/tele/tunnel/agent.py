"""How does a node keep one tunnel to a proxy?

Twisted's ``ClientService`` dials, waits and dials again; what it sees as one connection is
a whole tunnel: an SSH connection with the proxy's certificate checked, ours accepted, and
the proxy told that visitors are welcome.

Invariants:

* A visitor's channel gets the node's SSH server and nothing else; other channels are refused.
* Whoever is let go of takes no new visitors and lasts as long as those that it has.
* The same trouble is logged once, however often it is run into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from attrs import field, frozen
from twisted.application.internet import ClientService
from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
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

log = make_logger(__name__)

#: How long a proxy has to take us in, from dialling on, in seconds.
LOGIN_SECONDS: Final = 20.0
#: How long calls of our own may go on, on a tunnel that has no visitors any more, in seconds.
CALLS_SECONDS: Final = 5.0
#: The longest pause before we dial again what led to a proxy that we have already, in seconds: a
#: balancer may lead us there each time, and each time costs the proxy a login.
IN_VAIN_SECONDS: Final = 300.0
#: A tunnel that lasted for less counts as an attempt that failed, in seconds.
STEADY: Final = 30.0

#: Makes the server's end for a visitor from (host, port); None: no more visitors.
Serve = Callable[[tuple[str, int]], IProtocol | None]


class AgentConnection(SSHConnection):
    """The node's end of a tunnel to a proxy."""

    channels_limit = CHANNELS_LIMIT

    def __init__(self, host_id: str, serve: Serve) -> None:
        super().__init__()
        #: The proxy at the other end, once that is known.
        self.proxy: HostIdentity | None = None
        #: Takes no new visitors: we, or the proxy, are done with it.
        self.leaving = False
        self.left: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        self._host_id = host_id
        self._serve = serve
        self._ending = False
        #: Whether it is over.
        self.ended = False
        self._end: IDelayedCall | None = None

    @property
    def proxy_id(self) -> str:
        """The id of the proxy at the other end; empty until that is known."""
        return "" if self.proxy is None else self.proxy.host_id

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """Let a visitor in."""
        if channelType != CLIENT:
            raise ConchError("a tunnel has visitors only", UNKNOWN_CHANNEL_TYPE)
        visitor = ClientAddress.decode(data)
        if visitor.host_id != self._host_id:
            raise Unreachable("that is another node")
        protocol = self._serve(visitor.remote_addr)
        if protocol is None:
            raise ConchError("the node takes no more visitors now", RESOURCE_SHORTAGE)
        return _ClientChannel(
            protocol,
            peer_address(visitor.remote_addr),
            peer_address(self.transport.local_addr()),
            remoteWindow=windowSize,
            remoteMaxPacket=maxPacket,
        )

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """The proxy says that it goes, or asks whether we are alive."""
        if requestType == LEAVING:
            if not self.leaving:
                self.leaving = True
                self.left()
            return True
        return super().gotGlobalRequest(requestType, data)

    def _close_channel(self, channel: Any) -> None:
        super()._close_channel(channel)
        self._end_if_empty()

    def let_go(self) -> None:
        """End when the last visitor has left."""
        self.leaving = self._ending = True
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._ending or self._opening:
            return
        if not self.channels:
            self.transport.loseConnection()
        elif self._end is None and not any(c.name == CLIENT for c in self.channels.values()):
            # What is left are calls of our own: those that run get their answers.
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
        self.ended = True
        self.lost()


class _ClientChannel(StreamChannel):
    """What a visitor's SSH connection to this node runs over."""

    name = CLIENT


class _Hold(Protocol):
    """What ``ClientService`` holds of a tunnel."""


@frozen
class _HoldTransport:
    """The little of a transport that ``ClientService`` uses: when it lets go, visitors stay."""

    _agent: Agent

    def loseConnection(self) -> None:
        """Let go of the tunnel."""
        self._agent.let_go()


@implementer(IStreamClientEndpoint)
@frozen
class _TunnelEndpoint:
    """Dials the proxy that ``agent`` is for, up to a tunnel."""

    _agent: Agent

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return Deferred.fromCoroutine(self._agent.dial(protocolFactory))


@frozen(eq=False)
class Means:
    """What all agents of a node have in common.

    ``host_id()``, ``identity()`` and ``verifier()`` are asked anew for each connection;
    ``endpoint(address)`` dials; ``taken(proxy_id)`` says whether there is a tunnel to that proxy
    already, or will be; ``refuses(proxy)`` says why it is not dealt with, or nothing;
    ``changed()`` hears of every tunnel that comes or goes, and of every failure; ``connections``
    are all that were made, those included that stay for their last visitors only.
    """

    reactor: Any
    host_id: Callable[[], str]
    instance: bytes
    identity: Callable[[], ClientIdentity]
    verifier: Callable[[], MemberVerifier]
    serve: Serve
    endpoint: Callable[[str], IStreamClientEndpoint]
    taken: Callable[[str], bool]
    refuses: Callable[[HostIdentity], str]
    changed: Callable[[], None] = field(repr=False)
    limits: Limits
    connections: WeakSet[AgentConnection] = field(factory=WeakSet, repr=False)


class Agent:
    """Keeps a tunnel to the proxy that is reached at ``addresses()``."""

    def __init__(self, means: Means, addresses: Callable[[], tuple[str, ...]]) -> None:
        self.connection: AgentConnection | None = None
        #: The proxy that is being asked for a tunnel.
        self.asking = ""
        #: Whether the last attempt failed, or the proxy is going away.
        self.failing = False
        self._means = means
        self.addresses = addresses
        self._turn = 0
        self._trouble = ""
        self._hold: Any = None
        self._since = 0.0
        self._short = 0
        self._in_vain = 0
        factory = Factory.forProtocol(_Hold)
        factory.noisy = False
        self._service = ClientService(
            _TunnelEndpoint(self), factory, retryPolicy=self._pause, clock=means.reactor
        )

    @property
    def works(self) -> bool:
        """Whether visitors may come through it."""
        return self.connection is not None and not self.failing

    def start(self) -> None:
        """Begin to dial."""
        self._service.startService()

    def stop(self) -> None:
        """Dial no more; a tunnel that is there ends when its last visitor has left."""
        stopping: Any = self._service.stopService()
        stopping.addErrback(lambda failure: log.failure("an agent does not stop", failure))

    def _pause(self, failed_attempts: int) -> float:
        """Return how long to wait; longer, too, for a proxy that takes us in and drops us."""
        if self._in_vain:
            return backoff(self._in_vain, longest=IN_VAIN_SECONDS)
        return backoff(failed_attempts + self._short)

    async def dial(self, factory: IProtocolFactory) -> IProtocol:
        """Make one attempt; raises a :class:`TeleError`."""
        try:
            connection = await self._connect()
        except CancelledError:
            raise
        except Exception as error:
            self._in_vain = self._in_vain + 1 if isinstance(error, Conflict) else 0
            self._failed(str(error))
            raise
        self.connection = connection
        self._in_vain = 0
        self.failing = False
        self._trouble = ""
        self._since = self._means.reactor.seconds()
        log.info("tunnel to proxy {proxy!r} is up", proxy=connection.proxy_id)
        connection.left = self._proxy_leaves
        connection.lost = self._lost
        if connection.leaving:
            self.failing = True
        hold: Any = factory.buildProtocol(peer_address(("", 0)))
        self._hold = hold
        hold.makeConnection(_HoldTransport(self))
        self._means.changed()
        made: IProtocol = hold
        return made

    async def _connect(self) -> AgentConnection:
        means = self._means
        addresses = self.addresses()
        if not addresses:
            raise Unreachable("the proxy has no address any more")
        self._turn += 1
        address = addresses[self._turn % len(addresses)]
        made = AgentConnection(means.host_id(), means.serve)
        logging_in = connect(
            means.reactor,
            means.endpoint(address),
            verify_host=means.verifier(),
            identity=means.identity(),
            connection=lambda: made,
            limits=means.limits,
        )
        try:
            await logging_in.addTimeout(LOGIN_SECONDS, means.reactor)
        except TeleError as error:
            raise Unreachable(f"proxy at {address}: {error}") from None
        except Exception as error:
            raise Unreachable(f"proxy at {address}: {type(error).__name__}") from None
        proxy: HostIdentity = made.transport.host.identity
        made.proxy = proxy
        means.connections.add(made)
        if means.taken(made.proxy_id):
            made.transport.loseConnection()
            raise Conflict(f"{address} led to proxy {made.proxy_id}, which has a tunnel already")
        problem = means.refuses(proxy)
        if problem:
            made.transport.loseConnection()
            raise AccessDenied(f"proxy at {address}: {problem}", "refused")
        # Behind a balancer another agent may be led to the same proxy meanwhile.
        self.asking = made.proxy_id
        try:
            welcome: Deferred[Any] = made.sendGlobalRequest(
                TUNNEL, Hello(means.instance).encode(), wantReply=1
            )
            await welcome.addTimeout(LOGIN_SECONDS, means.reactor)
        except Exception:
            made.transport.loseConnection()
            raise Unreachable(f"proxy at {address} takes no tunnels") from None
        finally:
            self.asking = ""
        return made

    def _failed(self, trouble: str) -> None:
        self.failing = True
        if trouble != self._trouble:
            self._trouble = trouble
            log.warn("no tunnel: {trouble!r}; dialling on", trouble=trouble)
        self._means.changed()

    def _proxy_leaves(self) -> None:
        log.info("a proxy is going away; its visitors stay until it is gone")
        self.failing = True
        self._means.changed()

    def let_go(self) -> None:
        """Do without the tunnel that is there: it ends when its last visitor has left."""
        connection = self.connection
        if connection is not None:
            connection.lost = connection.left = lambda: None
            self._lost()
            connection.let_go()

    def _lost(self) -> None:
        self.connection = None
        lasted = self._means.reactor.seconds() - self._since
        self._short = 0 if lasted >= STEADY else self._short + 1
        hold, self._hold = self._hold, None
        self._means.changed()
        if hold is not None:
            # Not from within what ClientService is doing now.
            self._means.reactor.callLater(0, hold.connectionLost, Failure(ConnectionDone()))
