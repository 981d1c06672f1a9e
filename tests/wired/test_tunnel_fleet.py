"""Many nodes at one proxy that comes and goes: all reconnect, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.interfaces import IStreamClientEndpoint

from small_cluster import SmallCluster, SmallProxy, free_port, small_cluster
from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.conch.transport import keepalive
from tele.membership.identity import MemberIdentity, ssh_authorities
from tele.membership.joining import Applicant, JoinSettings, Network, join
from tele.model.api.members import Proxy
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.outbound.dialer import dial
from tele.tunnel.agent import DUPLICATE_SECONDS
from tele.tunnel.agents import Agents
from tele.wire.phases import FROM_CLIENT
from weighing import weigh

NODES = 24


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster without users."""
    with small_cluster(tmp_path) as made:
        yield made


@define
class Crowd:
    """The tunnels of nodes that are nothing else, to whatever listens on ``port``."""

    cluster: SmallCluster
    port: int
    proxies: tuple[Proxy, ...] = ()
    agents: list[Agents] = field(factory=list)
    dialled: int = 0

    def join(self, count: int) -> None:
        """Start so many."""
        settings = self.cluster.settings()
        for number in range(count):
            applicant = Applicant(f"crowd{number}", HostRole.NODE)
            token = settings.token()
            joining = join(self.cluster.reactor, Network(), settings, applicant, token)
            self.agents.append(self._tunnels(self.cluster.reactor.wait(joining)))
        for agents in self.agents:
            agents.start()

    def _tunnels(self, member: MemberIdentity) -> Agents:
        trusted = ssh_authorities(member.authorities, AuthorityKind.HOST)
        host = member.host
        return Agents(
            self.cluster.reactor,
            lambda: host.host_id,
            count=2,
            proxies=lambda: self.proxies,
            bootstrap=(f"127.0.0.1:{self.port}",),
            identity=lambda: ClientIdentity(member.keys.ssh, member.ssh_certificate, host.host_id),
            verifier=lambda: MemberVerifier(trusted, host.cluster, (HostRole.PROXY,)),
            serve=lambda _: None,
            endpoint=self._dial,
            changed=lambda: None,
        )

    def _dial(self, address: str) -> IStreamClientEndpoint:
        self.dialled += 1
        return dial(self.cluster.reactor, address, 10)

    def wait(self, up: int) -> None:
        """Wait until so many have a tunnel."""
        self.cluster.reactor.until(lambda: sum(len(a.proxy_ids) for a in self.agents) == up)

    def stop(self) -> None:
        """Dial no more."""
        for agents in self.agents:
            agents.stop()


def ends(proxy: SmallProxy) -> tuple[int, int, int, int]:
    """How many tunnels, connections, channels and unauthenticated clients a proxy has."""
    tunnels: Any = proxy.service.router.tunnels
    factory: Any = proxy.service._ssh
    channels = sum(len(t.connection.channels) for t in tunnels._by_host.values())
    return len(tunnels), len(factory.present), channels, factory.admission.startups._count


def test_all_reconnect_each_time(cluster: SmallCluster) -> None:
    """A proxy restarts again and again: each time all nodes reconnect over one address, each with
    one connection and one login, and the proxy that stopped keeps nothing of them.
    """

    def settled(at: SmallProxy, wanted: tuple[int, ...]) -> None:
        cluster.reactor.until(lambda: ends(at) == wanted)

    port = free_port()
    proxy = cluster.proxy(port=port)
    crowd = Crowd(cluster, port)
    try:
        crowd.join(NODES)
        for _ in range(3):
            crowd.wait(NODES)
            settled(proxy, (NODES, NODES, 0, 0))
            cluster.stop_proxy(proxy)
            crowd.wait(0)
            assert ends(proxy) == (0, 0, 0, 0)
            proxy = cluster.proxy(port=port)
        crowd.wait(NODES)
    finally:
        crowd.stop()
    settled(proxy, (0, 0, 0, 0))


def test_one_tunnel_is_enough_while_no_proxy_is_known(cluster: SmallCluster) -> None:
    """A node that has a tunnel, and knows no other proxy, does not dial again: that would
    lead to the same proxy, and cost it a login each time.
    """
    proxy = cluster.proxy()
    crowd = Crowd(cluster, proxy.port)
    try:
        crowd.join(1)
        crowd.wait(1)
        (agents,) = crowd.agents
        for _ in range(3):
            agents.check()
        assert crowd.dialled == 1
        assert len(agents._agents) == 1
    finally:
        crowd.stop()


def test_a_balancer_that_leads_to_the_same_proxy_is_dialled_rarely(cluster: SmallCluster) -> None:
    """No connection is led to a second proxy behind one address: the node has its one tunnel,
    and pauses longer and longer before it costs that proxy another login.
    """
    real = cluster.proxy()
    address = (f"127.0.0.1:{real.port}",)
    known = (Proxy(real.member.host_id, "one", address), Proxy("nobody", "two", address))
    crowd = Crowd(cluster, real.port, known)
    try:
        crowd.join(1)
        (agents,) = crowd.agents
        cluster.reactor.until(lambda: crowd.dialled >= 3)
        cluster.reactor.until(lambda: any(a._duplicates >= 2 for a in agents._agents.values()))
        crowd.wait(1)
        in_vain = next(a for a in agents._agents.values() if a._duplicates)
        in_vain._duplicates = 30
        assert DUPLICATE_SECONDS / 2 <= in_vain._pause(1) <= DUPLICATE_SECONDS
    finally:
        crowd.stop()


def test_a_tunnel_is_light(cluster: SmallCluster) -> None:
    """An idle tunnel keeps less than 12 KiB of the proxy's memory."""
    proxy = cluster.proxy()
    crowd = Crowd(cluster, proxy.port)
    try:
        crowd.join(1)
        crowd.wait(1)
        cluster.reactor.until(lambda: ends(proxy) == (1, 1, 0, 0))
        service: Any = proxy.service
        tunnel = service.router.tunnels.get(crowd.agents[0]._host_id())
        transport = tunnel.connection.transport
        timers = [s.ticker for s in keepalive._shared.values()]
        shared = (service, service._ssh, service._ssh.portal, service._listening,
                  service.router.tunnels, cluster.reactor, transport.limits, FROM_CLIENT,
                  *timers, *(slot for timer in timers for slot in timer._slots))  # fmt: skip
        assert weigh(tunnel, *shared) < 12 * 1024
    finally:
        crowd.stop()


def test_a_proxy_that_starts_without_auth_keeps_its_tunnels(cluster: SmallCluster) -> None:
    """Before auth has sent the list of nodes, none is unknown; afterwards a node that is not on it
    loses its tunnel at the second check.
    """
    port = free_port()
    proxy = cluster.proxy(port=port)
    crowd = Crowd(cluster, port)
    try:
        crowd.join(1)
        crowd.wait(1)
        cluster.stop_proxy(proxy)
        cluster.stop_auth()
        settings = JoinSettings((f"127.0.0.1:{cluster.port}",))
        proxy = cluster.proxy(port=port, settings=settings)
        crowd.wait(1)
        service = proxy.service
        for _ in range(3):
            service._check()
        assert ends(proxy)[0] == 1
        cluster.start_auth()
        cluster.reactor.until(lambda: service.router.index.is_loaded)
        service._check()
        assert ends(proxy)[0] == 1
        service._check()
        cluster.reactor.until(lambda: ends(proxy)[0] == 0)
    finally:
        crowd.stop()
