"""How does a visitor get to a node's SSH server?

Directly, through the tunnel that ends here, or through one that ends at another proxy: in
the order of the plan (:mod:`tele.routing.plan`), until one works.

Invariants:

* All ways together have their time; the last of them may use what is left of it.
* An address at which no SSH server answered is tried last for a minute, for the node that said
  that it is there and for no other: whoever announces another's address hurts itself only.
* Names are looked up in threads of which each node has a share.
* The node learns where the visitor comes from, whichever way they take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from tele.conch.connection.channel import Channel
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.errors import TeleError, Unreachable
from tele.model.api.members import Proxy
from tele.model.presence import Host
from tele.routing.direct import dial_server
from tele.routing.peers import Peers
from tele.routing.plan import Direct, Route, Through, Tunnelled, routes
from tele.tunnel.acceptor import Tunnels
from tele.tunnel.messages import ClientAddress
from tele.tunnel.relayed_channels import OPEN_SECONDS, open_client_splice, open_client_stream

#: How long an attempt may take when there is another way, in seconds.
IMPATIENT: Final = 3.0
#: How long an address that did not answer is avoided, in seconds.
AVOIDED: Final = 60.0
#: Nodes of which addresses are remembered as not answering.
AVOIDED_LIMIT: Final = 10_000

Open = Callable[[Any, ClientAddress, str], Deferred[Any]]
#: Given the id of a node and an address of its, returns an endpoint.
Dial = Callable[[str, str], IStreamClientEndpoint]


class NodeDialer:
    """Opens ways to nodes.

    :param proxies: the other proxies that live, as they are known now.
    :param sign_client_address: given a visitor, what is sent before them on a direct connection.
    :param dial: dials a node directly.
    """

    def __init__(
        self,
        reactor: Any,
        tunnels: Tunnels,
        peers: Peers,
        proxies: Callable[[], tuple[Proxy, ...]],
        sign_client_address: Callable[[ClientAddress], bytes],
        dial: Dial,
    ) -> None:
        self._reactor = reactor
        self._tunnels = tunnels
        self._peers = peers
        self._proxies = proxies
        self._sign_client_address = sign_client_address
        self._dial_node = dial
        #: By node: its addresses that did not answer, and until when they are tried last.
        self._avoided: dict[str, dict[str, float]] = {}
        #: Connections to nodes' own addresses, by host id; looked through now and then for those
        #: that have none any more.
        self._direct: dict[str, WeakSet[StreamEnd]] = {}
        self._direct_after_look = 0
        #: How often nodes were removed: who is dialled meanwhile is not reached.
        self._removals: Counter[str] = Counter()

    def end_host(self, host_id: str) -> None:
        """End all connections to a node's own addresses, those that begin too: it was removed."""
        self._removals[host_id] += 1
        for stream in self._direct.pop(host_id, ()):
            if not stream.lost:
                stream.transport.abortConnection()

    def open(self, host: Host, remote_addr: tuple[str, int], **near: Any) -> Deferred[Channel]:
        """Return a channel to ``host`` for a visitor's end of it, which ``near`` describes.

        Fails with :class:`Unreachable`, or with the node's own ``ConchError``; can be cancelled.
        """

        def through(connection: Any, visitor: ClientAddress, name: str) -> Deferred[Channel]:
            return open_client_splice(connection, visitor, name, **near)

        def direct(stream: StreamEnd) -> Channel:
            return RelayChannel(stream, **near)

        return self._within(host, remote_addr, through, direct)

    def connect(self, host: Host, remote_addr: tuple[str, int]) -> Deferred[StreamEnd]:
        """Return a stream to ``host``. Fails as :meth:`open` does."""

        def through(connection: Any, visitor: ClientAddress, name: str) -> Deferred[Any]:
            return open_client_stream(connection, visitor, name, StreamEnd())

        return self._within(host, remote_addr, through, lambda stream: stream)

    def _within(
        self,
        host: Host,
        remote_addr: tuple[str, int],
        through: Open,
        direct: Callable[[StreamEnd], Any],
    ) -> Deferred[Any]:
        visitor = ClientAddress(host.id, remote_addr)
        opening = Deferred.fromCoroutine(self._open(host, visitor, through, direct))
        opening.addTimeout(OPEN_SECONDS, self._reactor)

        def late(failure: Failure) -> Failure:
            if failure.check(DeferredTimeout):
                raise Unreachable(
                    f"node {host.name} did not answer within {OPEN_SECONDS:.0f} s;"
                    " is its network down?"
                ) from None
            return failure

        return opening.addErrback(late)

    async def _open(
        self, host: Host, visitor: ClientAddress, through: Open, direct: Callable[[StreamEnd], Any]
    ) -> Any:
        tunnelled = self._tunnels.get(host.id) is not None
        ways = routes(host, tunnelled, self._proxies(), self._unreachable(host))
        problem: Exception = Unreachable(f"node {host.name} has no address and no tunnel now")
        for number, route in enumerate(ways):
            going = Deferred.fromCoroutine(self._go(route, visitor, host, through, direct))
            if number + 1 < len(ways):
                going.addTimeout(IMPATIENT, self._reactor)
            try:
                return await going
            except DeferredTimeout:
                if isinstance(route, Direct):
                    self._avoid(host, route.address)
                problem = Unreachable(f"node {host.name} did not answer")
            except (TeleError, ConchError) as error:
                problem = error
        raise problem

    async def _go(
        self,
        route: Route,
        visitor: ClientAddress,
        host: Host,
        through: Open,
        direct: Callable[[StreamEnd], Any],
    ) -> Any:
        match route:
            case Direct(address):
                return direct(await self._dial(address, visitor, host))
            case Tunnelled():
                tunnel = self._tunnels.get(host.id)
                if tunnel is None:
                    raise Unreachable(f"the tunnel of node {host.name} has just ended; try again")
                return await through(tunnel.connection, visitor, host.name)
            case Through(proxy):
                return await through(await self._peers.connection(proxy), visitor, host.name)

    async def _dial(self, address: str, visitor: ClientAddress, host: Host) -> StreamEnd:
        endpoint = self._dial_node(host.id, address)
        removals = self._removals[host.id]
        try:
            stream = await dial_server(endpoint, self._sign_client_address(visitor))
        except CancelledError:
            raise  # it took too long, or the visitor left: that is no fault of the address
        except Exception:
            self._avoid(host, address)
            raise Unreachable(f"node {host.name} does not answer at {address}") from None
        if self._removals[host.id] != removals:
            stream.transport.abortConnection()
            raise Unreachable(f"node {host.name} was removed from the cluster")
        self._avoided.get(host.id, {}).pop(address, None)
        if len(self._direct) > 2 * self._direct_after_look + 16:
            self._direct = {i: streams for i, streams in self._direct.items() if streams}
            self._direct_after_look = len(self._direct)
        self._direct.setdefault(host.id, WeakSet()).add(stream)
        return stream

    def _avoid(self, host: Host, address: str) -> None:
        avoided = {a: self._avoided[host.id][a] for a in self._unreachable(host)}
        avoided[address] = self._reactor.seconds() + AVOIDED
        self._avoided.pop(host.id, None)
        if len(self._avoided) >= AVOIDED_LIMIT:
            del self._avoided[next(iter(self._avoided))]
        self._avoided[host.id] = avoided

    def _unreachable(self, host: Host) -> set[str]:
        moment = self._reactor.seconds()
        avoided = self._avoided.get(host.id, {})
        return {a for a in host.addresses if avoided.get(a, 0.0) > moment}
