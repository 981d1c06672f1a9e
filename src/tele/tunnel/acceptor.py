"""Which nodes have a tunnel to this proxy, and how do they come by it?

Invariants:

* A tunnel is bound to the host id of the certificate that its node logged in with.
* One tunnel a node: the newest gets the visitors. An older one of the same run of the node
  is the node's to close, when its visitors have left; one of another run, while it is still
  alive, belongs to somebody with a copy of the node's keys: that is told, and it ends.
* A node gets to auth, as it would over the proxy's port, and to nothing else; and it has only
  so many connections at once, with a tunnel or without, and begins only so many each second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from attrs import define, field
from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from tele.admission.rate_limiter import RateLimiter
from tele.conch.connection.channel import Channel
from tele.conch.connection.refusals import RESOURCE_SHORTAGE
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.errors import AccessDenied
from tele.log import make_logger
from tele.model.identity import HostIdentity
from tele.tunnel.messages import AUTH, LEAVING, TUNNEL, ClientAddress, Hello
from tele.tunnel.relayed_channels import (
    CHANNELS_LIMIT,
    OPEN_SECONDS,
    MemberConnection,
    open_client_splice,
)
from tele.wire import numbers as n

log = make_logger(__name__)

#: Streams to auth on one tunnel: watches, uploads and calls of one node.
STREAMS_LIMIT: Final = 32
#: The same over all connections of one node: an old tunnel and a new one.
STREAMS_PER_NODE: Final = 64
#: Streams to auth that one node may begin in one go, and how many more each second: each may cost
#: auth a handshake, out of the share that all nodes behind this proxy have together.
STREAMS_BURST: Final = 500
STREAMS_PER_SECOND: Final = 10
#: Connections of one node. An old one of a network that was cut lasts for a minute.
CONNECTIONS_LIMIT: Final = 32
#: A pair of machines with the same keys is told of once in so many seconds.
TOLD_AGAIN: Final = 600.0
_KEEPALIVE: Final = b"keepalive@openssh.com"


@define(eq=False)
class Tunnel:
    """One node's connection. ``remote_addr`` is (host, port)."""

    host: HostIdentity
    remote_addr: tuple[str, int]
    instance: bytes
    connection: MemberConnection

    def open(self, visitor: ClientAddress, **near: Any) -> Deferred[Channel]:
        """See :func:`open_client_splice`."""
        return open_client_splice(self.connection, visitor, self.host.name, **near)

    def end(self, why: str) -> None:
        """End the connection, and all visitors' channels with it."""
        self.connection.transport.sendDisconnect(n.BY_APPLICATION, why)


Cloned = Callable[[Tunnel, Tunnel], None]


@define(eq=False)
class Tunnels:
    """The tunnels that end here.

    ``changed()`` is called when a node's first tunnel came or its last one went;
    ``cloned(old, new)`` when two machines have the keys of one.
    """

    _clock: IReactorTime
    _changed: Callable[[], None]
    _cloned: Cloned
    _by_host: dict[str, Tunnel] = field(factory=dict, init=False)
    _leaving: bool = field(default=False, init=False)
    _unknown: set[str] = field(factory=set, init=False)
    _told: dict[str, float] = field(factory=dict, init=False)
    _connections: Counter[str] = field(factory=Counter, init=False)
    _sources: Counter[str] = field(factory=Counter, init=False)
    _streams: Counter[str] = field(factory=Counter, init=False)
    _begun: RateLimiter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._begun = RateLimiter(STREAMS_BURST, STREAMS_PER_SECOND)

    def enter(self, host: HostIdentity, source: str) -> None:
        """A node logs in from ``source``. Raises :class:`AccessDenied` if it does so too often."""
        if self._connections[host.host_id] >= CONNECTIONS_LIMIT:
            raise AccessDenied(
                f"node {host.name} has {CONNECTIONS_LIMIT} connections already", "too_many"
            )
        self._connections[host.host_id] += 1
        self._sources[source] += 1

    def leave_from(self, host: HostIdentity, source: str) -> None:
        """A connection of a node, which had entered, is gone."""
        for counter, key in ((self._connections, host.host_id), (self._sources, source)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def stream_began(self, host: HostIdentity) -> bool:
        """Count a stream of a node to auth; False: it has too many, on all its connections, or
        begins them too often.
        """
        if self._streams[host.host_id] >= STREAMS_PER_NODE:
            return False
        if not self._begun.take(host.host_id, self._clock.seconds()):
            return False
        self._streams[host.host_id] += 1
        return True

    def stream_ended(self, host: HostIdentity) -> None:
        """A stream that was counted is over."""
        self._streams[host.host_id] -= 1
        if not self._streams[host.host_id]:
            del self._streams[host.host_id]

    def has_nodes_at(self, source: str) -> bool:
        """Whether nodes are connected from this address: others may be behind it, too."""
        return source in self._sources

    def __len__(self) -> int:
        return len(self._by_host)

    def get(self, host_id: str) -> Tunnel | None:
        """Return the tunnel of a node."""
        return self._by_host.get(host_id)

    def attach(self, tunnel: Tunnel) -> None:
        """A node says that visitors are welcome on its connection."""
        old = self._by_host.get(tunnel.host.host_id)
        self._by_host[tunnel.host.host_id] = tunnel
        if old is None:
            log.info("tunnel of node {name!r} from {peer!r}",
                     name=tunnel.host.name, peer=tunnel.remote_addr)  # fmt: skip
            self._changed()
        elif old.connection is not tunnel.connection:
            self._replace(old, tunnel)
        if self._leaving:
            tunnel.connection.sendGlobalRequest(LEAVING, b"")

    def _replace(self, old: Tunnel, new: Tunnel) -> None:
        if old.instance == new.instance:
            return
        # Restarted, its network cut, or a copy: whoever still answers is alive.
        alive: Deferred[Any] = old.connection.sendGlobalRequest(_KEEPALIVE, b"", wantReply=1)
        alive.addTimeout(OPEN_SECONDS, self._clock)

        def answered(_: object) -> None:
            host_id, moment = new.host.host_id, self._clock.seconds()
            self._told = {i: at for i, at in self._told.items() if moment - at < TOLD_AGAIN}
            if host_id not in self._told:
                self._told[host_id] = moment
                log.warn("two machines have the keys of node {name!r}: {old!r} and {new!r}",
                         name=old.host.name, old=old.remote_addr,
                         new=new.remote_addr)  # fmt: skip
                self._cloned(old, new)

        # A refusal of the question is an answer as good as any.
        alive.addCallbacks(answered, lambda f: answered(f) if f.check(ConchError) else None)
        alive.addErrback(lambda failure: log.failure("a clone is not told of", failure))
        alive.addBoth(lambda _: old.end("another connection of this host took its place"))

    def detach(self, host_id: str, connection: Any) -> None:
        """A connection is gone; so is its tunnel, if it had one that was not replaced."""
        tunnel = self._by_host.get(host_id)
        if tunnel is not None and tunnel.connection is connection:
            del self._by_host[host_id]
            log.info("the tunnel of node {name!r} ended", name=tunnel.host.name)
            self._changed()

    def review(
        self,
        moment: datetime,
        find: Callable[[str], object | None],
    ) -> None:
        """End the tunnels of those who may not have one any more.

        Whose certificate has expired did not renew it; whom ``find(host_id)`` did not know
        twice is no member.
        """
        unknown = {host_id for host_id in self._by_host if find(host_id) is None}
        for host_id, tunnel in list(self._by_host.items()):
            problem = ""
            if tunnel.host.expires <= moment:
                problem = "the certificate that this tunnel was made with has expired"
            elif host_id in unknown and host_id in self._unknown:
                problem = "this host is no member of the cluster any more"
            if problem:
                tunnel.end(problem)
        self._unknown = unknown

    def close(self) -> None:
        """End all tunnels, and all visitors' channels with them."""
        for tunnel in list(self._by_host.values()):
            tunnel.end("the proxy stops")

    def leave(self) -> None:
        """Tell all nodes that this proxy goes: they dial others, visitors stay until we end."""
        self._leaving = True
        for tunnel in self._by_host.values():
            tunnel.connection.sendGlobalRequest(LEAVING, b"")


class AgentAvatar(ConchUser):
    """A node that dialled this proxy.

    ``auth()`` returns the endpoint of auth. Log it out with :meth:`left`. Raises
    :class:`AccessDenied` for one that has too many connections.
    """

    conn: Any = None
    channels_limit = CHANNELS_LIMIT

    def __init__(
        self,
        host: HostIdentity,
        remote_addr: tuple[str, int],
        tunnels: Tunnels,
        auth: Callable[[], IStreamClientEndpoint],
    ) -> None:
        super().__init__()
        self.host = host
        self._remote_addr = remote_addr
        self._tunnels = tunnels
        self._auth = auth
        tunnels.enter(host, remote_addr[0])
        self._streams = 0
        self.channelLookup = {AUTH: self._open_auth}

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Take the node's word that this is a tunnel; there is nothing else to ask."""
        if requestType != TUNNEL:
            return 0
        instance = Hello.decode(data).instance
        self._tunnels.attach(Tunnel(self.host, self._remote_addr, instance, self.conn))
        return 1

    def _open_auth(
        self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
    ) -> Deferred[RelayChannel]:
        if self._streams >= STREAMS_LIMIT or not self._tunnels.stream_began(self.host):
            raise ConchError("too many streams to auth; try again later", RESOURCE_SHORTAGE)
        self._streams += 1
        factory = Factory.forProtocol(StreamEnd)
        factory.noisy = False
        connecting: Deferred[Any] = self._auth().connect(factory)

        def connected(stream: StreamEnd) -> RelayChannel:
            return AuthChannel(
                self._closed,
                stream,
                remoteWindow=remoteWindow,
                remoteMaxPacket=remoteMaxPacket,
                avatar=avatar,
            )

        def failed(failure: Any) -> Any:
            self._closed()
            return failure

        return connecting.addCallbacks(connected, failed)

    def _closed(self) -> None:
        self._streams -= 1
        self._tunnels.stream_ended(self.host)

    def left(self) -> None:
        """The connection is gone."""
        self._tunnels.leave_from(self.host, self._remote_addr[0])
        self._tunnels.detach(self.host.host_id, self.conn)


class AuthChannel(RelayChannel):
    """A stream to auth that is counted."""

    def __init__(self, closed: Callable[[], None], stream: StreamEnd, **named: Any) -> None:
        super().__init__(stream, **named)
        self._tell_closed = closed

    def openFailed(self, reason: Any) -> None:
        """See :class:`RelayChannel`."""
        super().openFailed(reason)
        self._tell_closed()

    def closed(self) -> None:
        """See :class:`RelayChannel`."""
        super().closed()
        self._tell_closed()
