"""How does a visitor at one proxy reach a node whose tunnel ends at another?

Proxies dial each other as nodes dial them: SSH, proved with host certificates. A connection
to another proxy is made when it is first needed, serves all visitors that go there, and
ends when it was of no use for a while.

Invariants:

* A proxy passes visitors of others on to its own tunnels only, never further: no circles.
* One connection to each proxy; whoever needs it while it is made waits for the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint

from tele.conch.client.transport import ClientIdentity, MemberVerifier, connect
from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED, CONNECT_FAILED
from tele.errors import Unreachable
from tele.log import make_logger
from tele.model.api.members import Proxy
from tele.model.identity import HostIdentity
from tele.outbound.dialer import Announced
from tele.single_flight import SingleFlight
from tele.tunnel.acceptor import Tunnels
from tele.tunnel.messages import VISITOR, Visitor
from tele.tunnel.relayed_channels import PEER_CHANNELS_LIMIT
from tele.wire.proxy_header import LOCAL

log = make_logger(__name__)

#: A connection to another proxy that had no visitor for so long is closed, in seconds.
IDLE: Final = 300.0
CONNECT_SECONDS: Final = 10.0


class PeerAvatar(ConchUser):
    """Another proxy that dialled this one, with visitors for nodes whose tunnels end here.

    ``refuses(host)`` says why no more visitors are taken from it, or nothing.
    """

    channels_limit = PEER_CHANNELS_LIMIT

    def __init__(
        self, host: HostIdentity, tunnels: Tunnels, refuses: Callable[[HostIdentity], str]
    ) -> None:
        super().__init__()
        self.host = host
        self._tunnels = tunnels
        self._refuses = refuses
        self.channelLookup = {VISITOR: self._open}

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """There is nothing to ask."""
        return 0

    def _open(
        self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
    ) -> Deferred[Channel]:
        visitor = Visitor.decode(data)
        tunnel = self._tunnels.get(visitor.host_id)
        if tunnel is None:
            raise ConchError("the tunnel of that node does not end here any more", CONNECT_FAILED)
        problem = self._refuses(self.host)
        if problem:
            raise ConchError(problem, ADMINISTRATIVELY_PROHIBITED)
        return tunnel.open(
            visitor, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
        )

    def left(self) -> None:
        """The connection is gone; its channels are closed with it."""


class _PeerConnection(SSHConnection):
    """Our end of a connection to another proxy; ``lost()`` is called at its end."""

    channels_limit = PEER_CHANNELS_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self.lost: Callable[[], None] = lambda: None

    def serviceStopped(self) -> None:
        """See :class:`SSHConnection`."""
        super().serviceStopped()
        self.lost()


@define(eq=False)
class _Peer:
    dialling: SingleFlight[Any]
    connection: Any = None
    idle: IDelayedCall | None = None


class Peers:
    """Connections to other proxies.

    ``identity()`` and ``verifier()`` are asked anew for each connection; ``dial(proxy)`` returns
    an endpoint to where others reach it.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Callable[[], ClientIdentity],
        verifier: Callable[[], MemberVerifier],
        dial: Callable[[Proxy], IStreamClientEndpoint],
    ) -> None:
        self._reactor = reactor
        self._endpoint = dial
        self._identity = identity
        self._verifier = verifier
        self._peers: dict[str, _Peer] = {}
        #: Those that were made with an older certificate of ours.
        self._old: list[tuple[str, _Peer]] = []

    def connection(self, proxy: Proxy) -> Deferred[Any]:
        """Fire with the connection to ``proxy``; fails with :class:`Unreachable`."""
        if proxy.id not in self._peers:
            self._peers[proxy.id] = _Peer(SingleFlight(lambda: self._connect(proxy, peer)))
        peer = self._peers[proxy.id]
        if peer.connection is None:
            return peer.dialling.call()
        self._used(proxy.id, peer)
        return succeed(peer.connection)

    async def _connect(self, proxy: Proxy, peer: _Peer) -> Any:
        try:
            connection = await self._dial(proxy)
        except Exception as error:
            if not isinstance(error, CancelledError):
                log.warn(
                    "proxy {name!r} cannot be reached: {why!r}", name=proxy.name, why=str(error)
                )
            self._peers.pop(proxy.id, None)
            raise Unreachable(f"proxy {proxy.name}, which has its tunnel, is away") from None
        connection.lost = lambda: self._lost(proxy.id, peer)
        peer.connection = connection
        self._used(proxy.id, peer)
        return connection

    async def _dial(self, proxy: Proxy) -> Any:
        if not proxy.peer:
            raise Unreachable("it does not say where other proxies reach it")
        endpoint = self._endpoint(proxy)
        if proxy.peer_header:
            endpoint = Announced(endpoint, LOCAL)
        connecting = connect(
            self._reactor,
            endpoint,
            verify_host=self._verifier(),
            identity=self._identity(),
            connection=_PeerConnection,
        )
        connection = await connecting.addTimeout(2 * CONNECT_SECONDS, self._reactor)
        found = connection.transport.host.identity.host_id
        if found != proxy.id:
            connection.transport.loseConnection()
            raise Unreachable(f"at {proxy.peer} there is another proxy: {found}")
        return connection

    def _used(self, proxy_id: str, peer: _Peer) -> None:
        if peer.idle is not None:
            peer.idle.reset(IDLE)
        else:
            peer.idle = self._reactor.callLater(IDLE, self._idle, proxy_id, peer)

    def _idle(self, proxy_id: str, peer: _Peer) -> None:
        peer.idle = None
        if peer.connection.channels:
            self._used(proxy_id, peer)
        else:
            self._lost(proxy_id, peer)
            peer.connection.transport.loseConnection()

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
        """Our certificate is new: dial anew with it. Who passes through stays until they leave."""
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
