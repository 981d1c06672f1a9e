"""What does a proxy need to know the nodes of its cluster and to connect clients to them?

Invariants:

* It belongs to the membership of one proxy; it does not know its users.
* A node or proxy that was removed or locked loses its connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from tele.loop import now
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.membership.member import Member
from tele.model.addresses import Address
from tele.model.api.members import Proxy
from tele.model.identity import HostRole
from tele.model.presence import Host, Status
from tele.model.revocation import HostRevocation
from tele.outbound.name_lookup import NameResolver
from tele.routing.dialer import NodeDialer, NodeEndpoint
from tele.routing.index import NodeIndex
from tele.routing.node_watch import NodeWatch
from tele.routing.peers import CONNECT_SECONDS, Peers
from tele.tunnel.acceptor import Duplicate, Tunnels
from tele.tunnel.client_address import sign_client_address
from tele.tunnel.messages import ClientAddress
from tele.tunnel.relayed_channels import OPEN_SECONDS

#: The port of an announced address that has none, of a node and of a proxy.
NODE_PORT: Final = 3022
PROXY_PORT: Final = 3080
#: The port of a registered host that has none.
SSHD_PORT: Final = 22


class Router:
    """The nodes of ``member``'s cluster, and the connections to them.

    ``duplicate(old, new)`` is called when two machines have the keys of one node.
    """

    def __init__(self, clock: IReactorTime, member: Member, duplicate: Duplicate) -> None:
        self._clock = clock
        self._member = member
        self._identity = member.identity
        self.index = NodeIndex(member.identity.host.cluster)
        self.tunnels = Tunnels(clock, duplicate)
        self.peers = Peers(
            clock, member.client_identity, lambda: member.verifier(HostRole.PROXY), self._dial_peer
        )
        self.dialer = NodeDialer(
            clock, self.tunnels, self.peers, self.other_proxies, self.sign, self._dial_node
        )
        self._names = NameResolver(clock)
        self._watch = NodeWatch(clock, member, self.index)
        #: Nodes whose connections were ended because they were removed.
        self._revoked: frozenset[HostRevocation] = frozenset()
        self._watch.restore()

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        online = sum(host.status is Status.ONLINE for host in self.index)
        yield catalogue.NODES.at(online, Status.ONLINE.value)
        yield catalogue.NODES.at(len(self.index) - online, Status.OFFLINE.value)
        yield catalogue.TUNNELS.at(len(self.tunnels))
        yield from self.dialer.results.samples(catalogue.DIALS)
        yield catalogue.DIAL_SECONDS.at(self.dialer.times)

    def on_nodes_changed(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever auth has sent changes of nodes."""
        self._watch.on_change = observer

    def start(self) -> None:
        """Follow auth."""
        self._watch.start()

    def drain(self) -> None:
        """Follow auth no more, and have nodes dial other proxies; connections stay."""
        self._watch.stop()
        self.tunnels.drain()

    def close(self) -> None:
        """End all connections."""
        self.tunnels.close()
        self.peers.close()
        self._names.close()

    def renew(self) -> None:
        """Use the certificate of the membership if it is a new one."""
        if self._identity is not self._member.identity:
            self._identity = self._member.identity
            self.peers.renew()

    def end_refused(self) -> None:
        """End connections to hosts that were removed or are locked."""
        self.peers.end_refused(self._member.refuses)
        revoked = self._member.policy.revoked_hosts(HostRole.NODE)
        for gone in revoked - self._revoked:
            self.index.revoke(gone.host_id, gone.before)
            self.dialer.end_host(gone.host_id)
        self._revoked = revoked

    def check(self) -> None:
        """End the tunnels of hosts that are members no more."""

        def is_member(host_id: str) -> bool:
            return not self.index.is_loaded or self.index.get(host_id) is not None

        self.tunnels.check(now(self._clock), is_member)

    def other_proxies(self) -> tuple[Proxy, ...]:
        """Return the other proxies that are online."""
        own = self._member.host_id
        return tuple(proxy for proxy in self._member.state.proxies if proxy.id != own)

    def sign(self, client: ClientAddress) -> bytes:
        """Return ``client`` as a signed client address."""
        identity = self._member.identity
        moment = self._member.clock.stated_seconds
        return sign_client_address(client, identity.keys.ssh, identity.ssh_certificate, moment)

    def endpoint(self, host: Host, remote_addr: tuple[str, int]) -> IStreamClientEndpoint:
        """Return the endpoint of the SSH server of ``host``, for a client at ``remote_addr``.

        OpenSSH's sshd does not learn that address: it would refuse what states it.
        """
        if host.sshd:
            return self.sshd_endpoint(host)
        return NodeEndpoint(self.dialer, host, remote_addr)

    def sshd_endpoint(self, host: Host) -> IStreamClientEndpoint:
        """Return the endpoint of a registered host that runs OpenSSH's sshd."""
        address = host.addresses[0] if host.addresses else ""
        found = Address.parse(address, SSHD_PORT)
        return self._names.endpoint(host.id, *found, OPEN_SECONDS)

    def _dial_peer(self, proxy: Proxy) -> IStreamClientEndpoint:
        address = Address.parse(proxy.peer, PROXY_PORT)
        return self._names.endpoint(f"proxy {proxy.id}", *address, CONNECT_SECONDS)

    def _dial_node(self, host_id: str, address: str) -> IStreamClientEndpoint:
        return self._names.endpoint(host_id, *Address.parse(address, NODE_PORT), OPEN_SECONDS)
