"""How does a client at one proxy reach a node whose tunnel ends at another?

Proxies dial each other as nodes dial them: SSH with host certificates on both sides. A connection
to another proxy is made on demand, is shared by all clients, and is closed when it is idle.

Invariants:

* A proxy relays the clients of other proxies to its own tunnels only: there are no loops.
* There is one connection to each proxy; all callers that need it wait for the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint

from tele.conch.client.transport import ClientIdentity, MemberVerifier, connect
from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED, CONNECT_FAILED
from tele.errors import Unreachable
from tele.log import make_logger
from tele.model.api.members import Proxy
from tele.model.identity import HostIdentity
from tele.outbound.dialer import PrefacedEndpoint
from tele.single_flight import SingleFlight
from tele.tunnel.acceptor import Tunnels
from tele.tunnel.messages import CLIENT, ClientAddress
from tele.tunnel.relayed_channels import PEER_CHANNELS_LIMIT, MemberAvatar
from tele.wire.proxy_header import LOCAL

log = make_logger(__name__)

#: A connection to another proxy is closed when it had no client for so long, in seconds.
IDLE_SECONDS: Final = 300.0
CONNECT_SECONDS: Final = 10.0


class PeerAvatar(MemberAvatar):
    """Another proxy that dialled this one, with clients for nodes whose tunnels end here.

    ``refuses(host)`` returns why the proxy is refused, or nothing.
    """

    channels_limit = PEER_CHANNELS_LIMIT

    def __init__(
        self, host: HostIdentity, tunnels: Tunnels, refuses: Callable[[HostIdentity], str]
    ) -> None:
        super().__init__()
        self.host = host
        self._tunnels = tunnels
        self._refuses = refuses
        self.channelLookup = {CLIENT: self._open}

    def _open(
        self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
    ) -> Deferred[Channel]:
        client = ClientAddress.decode(data)
        tunnel = self._tunnels.get(client.host_id)
        if tunnel is None:
            raise ConchError("the tunnel of that node does not end here any more", CONNECT_FAILED)
        problem = self._refuses(self.host)
        if problem:
            raise ConchError(problem, ADMINISTRATIVELY_PROHIBITED)
        return tunnel.open(
            client, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
        )


class _PeerConnection(SSHConnection):
    """Our end of a connection to another proxy; ``on_lost()`` is called at its end."""

    channels_limit = PEER_CHANNELS_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self.on_lost: Callable[[], None] = lambda: None

    def serviceStopped(self) -> None:
        """See :class:`SSHConnection`."""
        super().serviceStopped()
        self.on_lost()


@define(eq=False)
class _Peer:
    dialling: SingleFlight[_PeerConnection]
    connection: _PeerConnection | None = None
    idle: IDelayedCall | None = None


class Peers:
    """Connections to other proxies.

    ``identity()`` and ``verifier()`` are called for each connection; ``dial(proxy)`` returns the
    endpoint of its ``peer`` address.
    """

    def __init__(
        self,
        clock: IReactorTime,
        identity: Callable[[], ClientIdentity],
        verifier: Callable[[], MemberVerifier],
        dial: Callable[[Proxy], IStreamClientEndpoint],
    ) -> None:
        self._clock = clock
        self._endpoint = dial
        self._identity = identity
        self._verifier = verifier
        self._peers: dict[str, _Peer] = {}
        #: Connections that were made with an older certificate of ours.
        self._old: list[tuple[str, _Peer]] = []

    def connection(self, proxy: Proxy) -> Deferred[_PeerConnection]:
        """Return the connection to ``proxy``; fails with :class:`Unreachable`."""
        if proxy.id not in self._peers:
            self._peers[proxy.id] = _Peer(SingleFlight(lambda: self._connect(proxy, peer)))
        peer = self._peers[proxy.id]
        if peer.connection is None:
            return peer.dialling.call()
        self._used(proxy.id, peer)
        return succeed(peer.connection)

    async def _connect(self, proxy: Proxy, peer: _Peer) -> _PeerConnection:
        try:
            connection = await self._dial(proxy)
        except Exception as error:
            if not isinstance(error, CancelledError):
                log.warn("connection to proxy failed", proxy=proxy.name, error=str(error))
            self._peers.pop(proxy.id, None)
            raise Unreachable(f"proxy {proxy.name}, which has its tunnel, is unreachable") from None
        connection.on_lost = lambda: self._lost(proxy.id, peer)
        peer.connection = connection
        self._used(proxy.id, peer)
        return connection

    async def _dial(self, proxy: Proxy) -> _PeerConnection:
        if not proxy.peer:
            raise Unreachable("it announces no peer address")
        endpoint = self._endpoint(proxy)
        if proxy.peer_header:
            endpoint = PrefacedEndpoint(endpoint, LOCAL)
        connecting: Deferred[_PeerConnection] = connect(
            self._clock,
            endpoint,
            verify_host=self._verifier(),
            identity=self._identity(),
            connection=_PeerConnection,
        )
        connection = await connecting.addTimeout(2 * CONNECT_SECONDS, self._clock)
        found = connection.transport.host.identity.host_id
        if found != proxy.id:
            connection.transport.loseConnection()
            raise Unreachable(f"{proxy.peer} is the address of another proxy: {found}")
        return connection

    def _used(self, proxy_id: str, peer: _Peer) -> None:
        if peer.idle is not None:
            peer.idle.reset(IDLE_SECONDS)
        else:
            peer.idle = self._clock.callLater(IDLE_SECONDS, self._idle, proxy_id, peer)

    def _idle(self, proxy_id: str, peer: _Peer) -> None:
        connection, peer.idle = peer.connection, None
        if connection is None:
            return
        if connection.channels:
            self._used(proxy_id, peer)
        else:
            self._lost(proxy_id, peer)
            connection.transport.loseConnection()

    def _lost(self, proxy_id: str, peer: _Peer) -> None:
        if self._peers.get(proxy_id) is peer:
            del self._peers[proxy_id]
        self._old = [old for old in self._old if old[1] is not peer]
        if peer.idle is not None:
            peer.idle.cancel()
            peer.idle = None

    def end_refused(self, refuses: Callable[[HostIdentity], str]) -> None:
        """End connections to proxies that were removed or are locked."""
        for _, peer in [*self._peers.items(), *self._old]:
            if peer.connection is not None and refuses(peer.connection.transport.host.identity):
                peer.connection.transport.loseConnection()

    def renew(self) -> None:
        """Our certificate was renewed: use it for new connections; old ones keep their clients."""
        for proxy_id, peer in list(self._peers.items()):
            if peer.connection is not None:
                del self._peers[proxy_id]
                self._old.append((proxy_id, peer))
                if peer.idle is not None:
                    peer.idle.reset(0)

    def close(self) -> None:
        """End all connections."""
        for proxy_id, peer in [*self._peers.items(), *self._old]:
            peer.dialling.cancel()
            if peer.connection is not None:
                self._lost(proxy_id, peer)
                peer.connection.transport.loseConnection()
