"""Which nodes have a tunnel to this proxy, and what may a node do on its connection?

Invariants:

* A tunnel belongs to the host id of the certificate that its node logged in with.
* A node has one tunnel: the newest gets new clients. The node closes an older one of the same run
  when its clients have disconnected. An older one of another run that is still alive belongs to a
  machine with a copy of the node's keys: that is reported, and it is closed.
* A node can reach auth, as it can over the proxy's port, and nothing else. Its connections and its
  streams to auth are limited, in number and in rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from attrs import define, field
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from tele.admission.rate_limiter import RateLimiter
from tele.conch.connection.channel import Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import RESOURCE_SHORTAGE
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.errors import AccessDenied
from tele.log import make_logger
from tele.model.addresses import Address
from tele.model.identity import HostIdentity
from tele.tunnel.messages import AUTH, LEAVING, TUNNEL, ClientAddress, Hello
from tele.tunnel.relayed_channels import (
    OPEN_SECONDS,
    MemberAvatar,
    MemberConnection,
    open_client_splice,
)
from tele.tunnel.versions import advice
from tele.wire import numbers as n

log = make_logger(__name__)

#: Streams to auth on one tunnel: watches, uploads and calls of a node.
STREAMS_LIMIT: Final = 32
#: The same on all connections of one node: an old tunnel and a new one.
STREAMS_PER_NODE: Final = 64
#: Streams to auth of one node: burst, and rate per second. Each may cost auth a handshake, out of
#: the share of all nodes behind this proxy.
STREAMS_BURST: Final = 500
STREAMS_PER_SECOND: Final = 10
#: Connections of one node. An old one lasts for a minute after its network was cut.
CONNECTIONS_LIMIT: Final = 32
#: Two machines with the same keys are reported once in so many seconds.
REPORT_AGAIN_SECONDS: Final = 600.0
_KEEPALIVE: Final = b"keepalive@openssh.com"


@define(eq=False)
class Tunnel:
    """The connection of one node. ``remote_addr`` is (host, port)."""

    host: HostIdentity
    remote_addr: tuple[str, int]
    instance: bytes
    connection: MemberConnection

    def open(self, client: ClientAddress, **channel: Any) -> Deferred[Channel]:
        """See :func:`open_client_splice`."""
        return open_client_splice(self.connection, client, self.host.name, **channel)

    def end(self, reason: str) -> None:
        """Close the connection, and all channels on it."""
        self.connection.transport.sendDisconnect(n.BY_APPLICATION, reason)


Duplicate = Callable[[Tunnel, Tunnel], None]


@define(eq=False)
class Tunnels:
    """The tunnels of this proxy.

    ``duplicate(old, new)`` is called when two machines have the keys of one node.
    """

    _clock: IReactorTime
    _duplicate: Duplicate
    _by_host: dict[str, Tunnel] = field(factory=dict, init=False)
    _draining: bool = field(default=False, init=False)
    _unknown: set[str] = field(factory=set, init=False)
    _reported: dict[str, float] = field(factory=dict, init=False)
    _connections: Counter[str] = field(factory=Counter, init=False)
    _sources: Counter[str] = field(factory=Counter, init=False)
    _streams: Counter[str] = field(factory=Counter, init=False)
    _begun: RateLimiter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._begun = RateLimiter(STREAMS_BURST, STREAMS_PER_SECOND)

    def add_connection(self, host: HostIdentity, source: str) -> None:
        """Count a connection from ``source``. Raises :class:`AccessDenied` if it is too many."""
        if self._connections[host.host_id] >= CONNECTIONS_LIMIT:
            raise AccessDenied(
                f"node {host.name} has {CONNECTIONS_LIMIT} connections already", "too_many"
            )
        self._connections[host.host_id] += 1
        self._sources[source] += 1

    def remove_connection(self, host: HostIdentity, source: str) -> None:
        """A connection that was counted is gone."""
        for counter, key in ((self._connections, host.host_id), (self._sources, source)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def add_stream(self, host: HostIdentity) -> bool:
        """Count a stream of a node to auth; False: too many on all connections, or too fast."""
        if self._streams[host.host_id] >= STREAMS_PER_NODE:
            return False
        if not self._begun.take(host.host_id, self._clock.seconds()):
            return False
        self._streams[host.host_id] += 1
        return True

    def remove_stream(self, host: HostIdentity) -> None:
        """A stream that was counted has ended."""
        self._streams[host.host_id] -= 1
        if not self._streams[host.host_id]:
            del self._streams[host.host_id]

    def has_nodes_at(self, source: str) -> bool:
        """Whether nodes are connected from this address, which others may share."""
        return source in self._sources

    def __len__(self) -> int:
        return len(self._by_host)

    def get(self, host_id: str) -> Tunnel | None:
        """Return the tunnel of a node."""
        return self._by_host.get(host_id)

    def attach(self, tunnel: Tunnel) -> None:
        """Use a node's connection as its tunnel."""
        old = self._by_host.get(tunnel.host.host_id)
        self._by_host[tunnel.host.host_id] = tunnel
        if old is None:
            log.info("tunnel opened", node=tunnel.host.name, peer=str(Address(*tunnel.remote_addr)))
        elif old.connection is not tunnel.connection:
            self._replace(old, tunnel)
        if self._draining:
            tunnel.connection.sendGlobalRequest(LEAVING, b"")

    def _replace(self, old: Tunnel, new: Tunnel) -> None:
        if old.instance == new.instance:
            return
        # Restarted, its network cut, or a copy of its keys: a connection that answers is alive.
        alive: Deferred[Any] = old.connection.sendGlobalRequest(_KEEPALIVE, b"", wantReply=1)
        alive.addTimeout(OPEN_SECONDS, self._clock)

        def answered(_: object) -> None:
            host_id, moment = new.host.host_id, self._clock.seconds()
            self._reported = {
                i: at for i, at in self._reported.items() if moment - at < REPORT_AGAIN_SECONDS
            }
            if host_id not in self._reported:
                self._reported[host_id] = moment
                log.warn("two machines have the keys of one node", node=old.host.name,
                         peer=str(Address(*old.remote_addr)),
                         other_peer=str(Address(*new.remote_addr)))  # fmt: skip
                self._duplicate(old, new)

        # A refusal of the request is a reply, too.
        alive.addCallbacks(answered, lambda f: answered(f) if f.check(ConchError) else None)
        alive.addErrback(lambda failure: log.failure("duplicate node not reported", failure))
        alive.addBoth(lambda _: old.end("another connection of this host took its place"))

    def detach(self, host_id: str, connection: SSHConnection | None) -> None:
        """A connection is gone: remove its tunnel, unless another replaced it."""
        tunnel = self._by_host.get(host_id)
        if tunnel is not None and tunnel.connection is connection:
            del self._by_host[host_id]
            log.info("tunnel closed", node=tunnel.host.name)

    def check(
        self,
        moment: datetime,
        is_member: Callable[[str], bool],
    ) -> None:
        """Close the tunnels of nodes whose certificate has expired without another connection, and
        of those that ``is_member(host_id)`` denied in two checks.
        """
        unknown = {host_id for host_id in self._by_host if not is_member(host_id)}
        for host_id, tunnel in list(self._by_host.items()):
            problem = ""
            if tunnel.host.expires <= moment:
                problem = "the certificate of this tunnel has expired"
            elif host_id in unknown and host_id in self._unknown:
                problem = "this host is not a member of the cluster any more"
            if problem:
                tunnel.end(problem)
        self._unknown = unknown

    def close(self) -> None:
        """Close all tunnels, and all channels on them."""
        for tunnel in list(self._by_host.values()):
            tunnel.end("the proxy stops")

    def drain(self) -> None:
        """Notify all nodes that this proxy stops: they dial others; clients stay connected."""
        self._draining = True
        for tunnel in self._by_host.values():
            tunnel.connection.sendGlobalRequest(LEAVING, b"")


class AgentAvatar(MemberAvatar):
    """A node that dialled this proxy.

    ``auth()`` returns the endpoint of auth. Raises :class:`AccessDenied` if the node has too many
    connections. :meth:`logout` ends its use.
    """

    conn: MemberConnection | None = None

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
        tunnels.add_connection(host, remote_addr[0])
        self._streams = 0
        #: Whether the log says that the node has another version.
        self._is_other_version = False
        self.channelLookup = {AUTH: self._open_auth}

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """Accept ``TUNNEL``; refuse all other requests."""
        if requestType != TUNNEL or self.conn is None:
            self._note_version(requestType)
            return 0
        instance = Hello.decode(data).instance
        self._tunnels.attach(Tunnel(self.host, self._remote_addr, instance, self.conn))
        return 1

    def _note_version(self, request_type: bytes) -> None:
        """Log which side to upgrade, if that is why a request of the node is not known."""
        if self.conn is None or self._is_other_version or not request_type.endswith(b"@tele"):
            return
        hint = advice("node", self.conn.transport.otherVersionString, "proxy")
        if hint:
            self._is_other_version = True
            log.warn("request of a node refused", node=self.host.name, error=f"unknown{hint}")

    def _open_auth(
        self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
    ) -> Deferred[RelayChannel]:
        if self._streams >= STREAMS_LIMIT or not self._tunnels.add_stream(self.host):
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

        def failed(failure: Failure) -> Failure:
            self._closed()
            return failure

        return connecting.addCallbacks(connected, failed)

    def _closed(self) -> None:
        self._streams -= 1
        self._tunnels.remove_stream(self.host)

    def logout(self) -> None:
        """The connection is gone."""
        self._tunnels.remove_connection(self.host, self._remote_addr[0])
        self._tunnels.detach(self.host.host_id, self.conn)


class AuthChannel(RelayChannel):
    """A stream to auth; ``on_closed()`` is called at its end."""

    def __init__(self, on_closed: Callable[[], None], stream: StreamEnd, **named: Any) -> None:
        super().__init__(stream, **named)
        self._on_closed = on_closed

    def openFailed(self, reason: Any) -> None:
        """See :class:`RelayChannel`."""
        super().openFailed(reason)
        self._on_closed()

    def closed(self) -> None:
        """See :class:`RelayChannel`."""
        super().closed()
        self._on_closed()
