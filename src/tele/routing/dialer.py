"""How is a client connected to a node's SSH server?

Directly, through a tunnel of this proxy, or through a tunnel of another proxy: in the order of the
plan (:mod:`tele.routing.plan`), until an attempt succeeds.

Invariants:

* All attempts together have one time limit; the last may use the rest of it.
* An address at which no SSH server answered is tried last for a minute, for the node that announced
  it and for no other: a node that announces another's address harms itself only.
* Names are resolved in threads of which each node has a share.
* The node learns the client's address on every route.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

from attrs import frozen
from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.errors import TeleError, Unreachable
from tele.log import make_logger
from tele.measures.metric import Histogram, Tally
from tele.model.api.members import Proxy
from tele.model.presence import Host
from tele.outbound.dialer import hand_over
from tele.routing.direct import dial_server
from tele.routing.peers import Peers
from tele.routing.plan import Direct, PeerProxy, Route, ThisTunnel, routes
from tele.sockets.direct import peer_address
from tele.tunnel.acceptor import Tunnels
from tele.tunnel.messages import ClientAddress
from tele.tunnel.relayed_channels import OPEN_SECONDS, open_client_splice, open_client_stream
from tele.tunnel.versions import advice

#: How long an attempt may take when another one can follow, in seconds.
ATTEMPT_SECONDS: Final = 3.0
#: How long an address that did not answer is tried last, in seconds.
AVOID_SECONDS: Final = 60.0
#: Nodes of which such addresses are remembered.
AVOID_LIMIT: Final = 10_000

_log: Final = make_logger(__name__)

T = TypeVar("T")
#: Returns the endpoint of an address of a node, whose id comes first.
Dial = Callable[[str, str], IStreamClientEndpoint]


class Opener(Protocol[T]):
    """Makes what a caller wants of a connection to a node."""

    def over_stream(self, stream: StreamEnd) -> T:
        """Return it over a connection to the node's own address."""

    def over_ssh(self, connection: SSHConnection, client: ClientAddress, name: str) -> Deferred[T]:
        """Return it over the connection of a tunnel."""


@frozen
class _ChannelOpener:
    """Makes channels; ``channel`` describes the client's end."""

    channel: Mapping[str, Any]

    def over_stream(self, stream: StreamEnd) -> Channel:
        return RelayChannel(stream, **self.channel)

    def over_ssh(
        self, connection: SSHConnection, client: ClientAddress, name: str
    ) -> Deferred[Channel]:
        return open_client_splice(connection, client, name, **self.channel)


class _StreamOpener:
    """Makes streams."""

    def over_stream(self, stream: StreamEnd) -> StreamEnd:
        return stream

    def over_ssh(
        self, connection: SSHConnection, client: ClientAddress, name: str
    ) -> Deferred[StreamEnd]:
        return open_client_stream(connection, client, name, StreamEnd())


@frozen
class _ProtocolOpener:
    """Connects the protocol that ``factory`` makes."""

    factory: IProtocolFactory

    def over_stream(self, stream: StreamEnd) -> IProtocol:
        protocol = self._build()
        transport, early = stream.release()
        hand_over(transport, protocol, early)
        transport.resumeProducing()
        return protocol

    def over_ssh(
        self, connection: SSHConnection, client: ClientAddress, name: str
    ) -> Deferred[IProtocol]:
        return open_client_stream(connection, client, name, self._build())

    def _build(self) -> IProtocol:
        protocol = self.factory.buildProtocol(peer_address(("", 0)))
        if protocol is None:
            raise Unreachable("the connection is no longer needed")
        return protocol


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class NodeEndpoint:
    """Connects to the SSH server of ``host`` for a client at ``remote_addr``, on any route."""

    dialer: NodeDialer
    host: Host
    remote_addr: tuple[str, int]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        opener = _ProtocolOpener(protocolFactory)
        return self.dialer.open_with(self.host, self.remote_addr, opener)


class NodeDialer:
    """Connects clients to nodes.

    :param proxies: returns the other proxies that are online.
    :param sign: returns the signed client address that a direct connection begins with.
    :param dial: returns the endpoint of a node's own address.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tunnels: Tunnels,
        peers: Peers,
        proxies: Callable[[], tuple[Proxy, ...]],
        sign: Callable[[ClientAddress], bytes],
        dial: Dial,
    ) -> None:
        self._clock = clock
        self._tunnels = tunnels
        self._peers = peers
        self._proxies = proxies
        self._sign = sign
        self._dial_node = dial
        #: By node: addresses that did not answer, and until when they are tried last.
        self._avoided: dict[str, dict[str, float]] = {}
        #: By node: what the log says of its version.
        self._told: dict[str, str] = {}
        #: Connections to nodes' own addresses, by host id; nodes without any are removed at times.
        self._direct: dict[str, WeakSet[StreamEnd]] = {}
        self._direct_after_check = 0
        #: How often a node was removed: connections that were begun before are not used.
        self._removals: Counter[str] = Counter()
        #: How connections to nodes went, and how long those took that were made.
        self.results, self.times = Tally(), Histogram()

    def end_host(self, host_id: str) -> None:
        """A node was removed: end all connections to its own addresses, pending ones included."""
        self._removals[host_id] += 1
        for stream in self._direct.pop(host_id, ()):
            if not stream.lost:
                stream.transport.abortConnection()

    def open(self, host: Host, remote_addr: tuple[str, int], **channel: Any) -> Deferred[Channel]:
        """Return a channel to ``host``, for the client's end of it, which ``channel`` describes.

        Fails with :class:`Unreachable`, or with the node's own ``ConchError``; can be cancelled.
        """
        return self.open_with(host, remote_addr, _ChannelOpener(channel))

    def connect(self, host: Host, remote_addr: tuple[str, int]) -> Deferred[StreamEnd]:
        """Return a stream to ``host``. Fails as :meth:`open` does."""
        return self.open_with(host, remote_addr, _StreamOpener())

    def open_with(self, host: Host, remote_addr: tuple[str, int], opener: Opener[T]) -> Deferred[T]:
        """Return what ``opener`` makes of a connection to ``host``. Fails as :meth:`open` does."""
        client = ClientAddress(host.id, remote_addr)
        begun = self._clock.seconds()
        opening = Deferred.fromCoroutine(self._open(host, client, opener))
        opening.addTimeout(OPEN_SECONDS, self._clock)

        def late(failure: Failure) -> Failure:
            if failure.check(DeferredTimeout):
                raise Unreachable(
                    f"node {host.name} did not answer within {OPEN_SECONDS:.0f} s;"
                    " is its network down?"
                ) from None
            return failure

        return opening.addErrback(late).addBoth(self._opened, begun)

    def _opened(self, result: T | Failure, begun: float) -> T | Failure:
        """Count a connection to a node that was made, failed, or is not wanted any more."""
        if not isinstance(result, Failure):
            self.results.add("made")
            self.times.observe(self._clock.seconds() - begun)
        elif not result.check(CancelledError):
            self.results.add("failed")
        return result

    async def _open(self, host: Host, client: ClientAddress, opener: Opener[T]) -> T:
        tunnelled = self._tunnels.get(host.id) is not None
        planned = routes(host, tunnelled, self._proxies(), self._unreachable(host))
        problem: Exception = Unreachable(f"node {host.name} has no address and no tunnel now")
        for number, route in enumerate(planned):
            attempt = Deferred.fromCoroutine(self._attempt(route, client, host, opener))
            if number + 1 < len(planned):
                attempt.addTimeout(ATTEMPT_SECONDS, self._clock)
            try:
                return await attempt
            except DeferredTimeout:
                if isinstance(route, Direct):
                    self._avoid(host, route.address)
                problem = Unreachable(f"node {host.name} did not answer")
            except (TeleError, ConchError) as error:
                problem = error
        raise problem

    async def _attempt(
        self, route: Route, client: ClientAddress, host: Host, opener: Opener[T]
    ) -> T:
        match route:
            case Direct(address):
                return opener.over_stream(await self._dial(address, client, host))
            case ThisTunnel():
                tunnel = self._tunnels.get(host.id)
                if tunnel is None:
                    raise Unreachable(f"the tunnel of node {host.name} has just ended; try again")
                return await opener.over_ssh(tunnel.connection, client, host.name)
            case PeerProxy(proxy):
                peer = await self._peers.connection(proxy)
                return await opener.over_ssh(peer, client, host.name)

    async def _dial(self, address: str, client: ClientAddress, host: Host) -> StreamEnd:
        endpoint = self._dial_node(host.id, address)
        removals = self._removals[host.id]
        try:
            refused = partial(self._refused, host, address)
            stream = await dial_server(endpoint, self._sign(client), refused)
        except CancelledError:
            raise  # a time-out, or the client disconnected: not the fault of the address
        except Exception:
            self._avoid(host, address)
            raise Unreachable(f"node {host.name} does not answer at {address}") from None
        if self._removals[host.id] != removals:
            stream.transport.abortConnection()
            raise Unreachable(f"node {host.name} was removed from the cluster")
        self._avoided.get(host.id, {}).pop(address, None)
        if len(self._direct) > 2 * self._direct_after_check + 16:
            self._direct = {i: streams for i, streams in self._direct.items() if streams}
            self._direct_after_check = len(self._direct)
        self._direct.setdefault(host.id, WeakSet()).add(stream)
        return stream

    def _refused(self, host: Host, address: str, version: bytes) -> None:
        """A node closed a connection before the login: log it if one side has to be upgraded."""
        hint = advice("node", version, "proxy")
        if not hint or self._told.get(host.id) == hint:
            return
        self._told.pop(host.id, None)
        if len(self._told) >= AVOID_LIMIT:
            del self._told[next(iter(self._told))]
        self._told[host.id] = hint
        _log.warn("node closed a connection before the login", node=host.name, address=address,
                  error=f"it may not understand this proxy{hint}")  # fmt: skip

    def _avoid(self, host: Host, address: str) -> None:
        avoided = {a: self._avoided[host.id][a] for a in self._unreachable(host)}
        avoided[address] = self._clock.seconds() + AVOID_SECONDS
        self._avoided.pop(host.id, None)
        if len(self._avoided) >= AVOID_LIMIT:
            del self._avoided[next(iter(self._avoided))]
        self._avoided[host.id] = avoided

    def _unreachable(self, host: Host) -> set[str]:
        moment = self._clock.seconds()
        avoided = self._avoided.get(host.id, {})
        return {a for a in host.addresses if avoided.get(a, 0.0) > moment}
