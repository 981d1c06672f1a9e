"""Faults between a client, a proxy, a node and auth, and what remains after them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IHostnameResolver, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from bad_network import BadNetwork, unused_port
from small_cluster import ME, SmallCluster, SmallProxy, TunnelNode, free_port, small_cluster
from tele.admission.limits import Limits
from tele.certs.certificate import parse_certificate
from tele.certs.keys import parse_line
from tele.conch.client.session import execute
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.conch.connection.stream import open_stream
from tele.model.authority import AuthorityKind
from tele.model.presence import Status
from tele.outbound.dialer import dial
from tele.routing import dialer as dialer
from tele.tunnel import relayed_channels
from tele.wire.fields import string, uint32

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

#: Bytes in a second that are keepalives and nothing else.
STILL = 100_000
#: Silence is noticed soon here.
QUICK = Limits(keepalive_interval=0.3)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@define
class Behind:
    """A node with a tunnel over a network that can be made bad."""

    network: BadNetwork
    proxy: SmallProxy
    node: TunnelNode


@contextmanager
def ssh_in_between(
    args: list[str], stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """OpenSSH's client, which does not outlive what is tested."""
    with subprocess.Popen(["ssh", *args], stdin=subprocess.DEVNULL, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def behind(cluster: SmallCluster, **config: Any) -> Iterator[Behind]:
    """A proxy, a network in front of it, and a node behind that."""
    port = free_port()
    network = BadNetwork(cluster.reactor, port).start()
    entrance = cluster.proxy(port=port, limits=QUICK, public=network.port)
    node = cluster.tunnel_node(entrance, keepalive=timedelta(seconds=0.3), **config)
    # Clients have a better network.
    made = Behind(network, SmallProxy(entrance.service, entrance.member, port), node)
    wait_known(cluster, made)
    try:
        yield made
    finally:
        network.cut = False
        network.stop()


def wait_known(cluster: SmallCluster, world: Behind) -> None:
    """Wait until the proxy knows the node and its tunnel."""
    host_id = world.node.host.member.host_id

    def known() -> bool:
        host = world.proxy.service.router.index.get(host_id)
        tunnels = world.proxy.service.router.tunnels
        assert tunnels is not None
        return host is not None and tunnels.get(host_id) is not None

    cluster.reactor.until(known)


def tunnels(world: Behind) -> int:
    """How many tunnels the proxy has."""
    assert world.proxy.service.router.tunnels is not None
    return len(world.proxy.service.router.tunnels)


def connections(world: Behind) -> list[Any]:
    """The node's ends of its tunnels."""
    assert world.node.serving._agents is not None
    return list(world.node.serving._agents._connections())


def still_works(cluster: SmallCluster, world: Behind) -> None:
    """A client gets through."""
    done = cluster.jump("alice", world.proxy, "nat1", "echo through")
    assert done.stdout == b"through\n", done.stderr


def test_a_network_that_is_cut(cluster: SmallCluster) -> None:
    """Both ends notice by their own questions, end the tunnel, and have a new one when it is
    mended; sessions that went through are hung up.
    """
    with behind(cluster) as world:
        args = cluster.jump_words("alice", world.proxy, "nat1", "echo in; exec sleep 600")
        with ssh_in_between(args) as ssh:
            cluster.reactor.until(lambda: bool(world.node.serving.factory.present))
            world.network.cut = True
            cluster.reactor.until(lambda: tunnels(world) == 0 and not connections(world))
            cluster.reactor.until(lambda: ssh.poll() is not None)
        assert ssh.returncode == 255
        cluster.reactor.until(lambda: not world.node.serving.factory.present)
        world.network.cut = False
        world.network.drop()
        cluster.reactor.until(lambda: tunnels(world) == 1 and bool(world.node.proxies))
        still_works(cluster, world)


def test_a_client_of_a_dead_tunnel_gets_an_error(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the cut is detected, a client waits for a limited time and gets an error."""
    monkeypatch.setattr(relayed_channels, "OPEN_SECONDS", 0.5)
    monkeypatch.setattr(dialer, "OPEN_SECONDS", 0.5)
    with behind(cluster) as world:
        world.network.cut = True
        done = cluster.jump("alice", world.proxy, "nat1", "true")
        assert b"did not answer within" in done.stderr
        assert done.returncode == 255


def test_connections_that_are_reset(cluster: SmallCluster) -> None:
    """A reset is noticed at once, and the node dials again."""
    with behind(cluster) as world:
        (before,) = connections(world)
        world.network.drop()
        cluster.reactor.until(lambda: before.transport.closing)
        cluster.reactor.until(lambda: bool(world.node.proxies) and tunnels(world) == 1)
        still_works(cluster, world)


def test_a_slow_network(cluster: SmallCluster) -> None:
    """A tenth of a second each way is slow, and nothing else."""
    with behind(cluster) as world:
        world.network.delay = 0.1
        data = bytes(range(256)) * 4000
        done = cluster.run(
            "ssh", *cluster.jump_words("alice", world.proxy, "nat1", "cat"), stdin=data
        )
        assert (done.returncode, done.stdout == data) == (0, True), done.stderr


def test_auth_is_away(cluster: SmallCluster) -> None:
    """Tunnels stay, clients get through, a node that restarts has its tunnel; what happened
    meanwhile is in the audit when auth is back, and so is the node's presence.
    """
    with behind(cluster) as world:
        cluster.stop_auth()
        still_works(cluster, world)
        world.network.drop()
        cluster.reactor.until(lambda: tunnels(world) == 0)
        cluster.reactor.until(lambda: tunnels(world) == 1)
        still_works(cluster, world)
        cluster.start_auth()
        started = cluster.wait_event("session.start", 2)
        assert {event.server_name for event in started} == {"nat1"}
        cluster.reactor.until(lambda: any(h.status is Status.ONLINE for h in cluster.hosts()))


def test_a_node_that_was_killed(cluster: SmallCluster) -> None:
    """The next run of the node takes the tunnel over at once, however long the old one would
    have been waited for: it is another run, and the old one does not answer.
    """
    with behind(cluster) as world:
        world.network.freeze()
        cluster.stop_tunnel_node(world.node)
        again = cluster.tunnel_node(
            SmallProxy(world.proxy.service, world.proxy.member, world.network.port)
        )
        host_id = again.host.member.host_id
        service, agents = world.proxy.service.router.tunnels, again.serving._agents
        assert service is not None
        assert agents is not None

        def taken_over() -> bool:
            tunnel = service.get(host_id)
            return tunnel is not None and tunnel.instance == agents._context.instance

        cluster.reactor.until(taken_over)
        done = cluster.jump("alice", world.proxy, "nat1", "echo through")
        assert done.stdout == b"through\n", done.stderr
        assert cluster.events("node.duplicate") == ()


def test_a_proxy_that_is_not_there_is_dialled_on(cluster: SmallCluster) -> None:
    """While nothing listens where the proxy was, the node keeps dialling."""
    with behind(cluster) as world:
        target, world.network.target = world.network.target, unused_port()
        world.network.drop()
        cluster.reactor.until(lambda: not world.node.proxies)
        cluster.reactor.sleep(1.0)
        world.network.target = target
        cluster.reactor.until(lambda: bool(world.node.proxies))
        still_works(cluster, world)


def test_a_proxy_that_moves(cluster: SmallCluster) -> None:
    """Names are resolved anew for each attempt: a node follows its proxy to another address."""
    asked: list[str] = []

    @implementer(IHostnameResolver)
    class Names:
        def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_: Any) -> Any:
            asked.append(name)
            receiver.resolutionBegan(None)
            address = "127.0.0.2" if len(asked) < 3 else "127.0.0.1"  # nothing listens at the first
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
            receiver.resolutionComplete()
            return receiver

    proxy = cluster.proxy()
    cluster.reactor.installNameResolver(Names())
    member = proxy.member
    for attempt in range(3):
        endpoint: IStreamClientEndpoint = dial(cluster.reactor, f"proxy.test:{proxy.port}", 5)
        try:
            protocol: Any = cluster.reactor.wait(_connected(endpoint))
        except Exception:
            assert attempt < 2
        else:
            protocol.transport.loseConnection()
    assert asked == ["proxy.test"] * 3
    assert member.host_id


def _connected(endpoint: IStreamClientEndpoint) -> Deferred[Any]:
    from twisted.internet.endpoints import connectProtocol

    connecting: Deferred[Any] = connectProtocol(endpoint, Protocol())
    return connecting


# -- clients ----------------------------------------------------------------------------
def identity_of(cluster: SmallCluster) -> ClientIdentity:
    """Alice's certificate."""
    line = (cluster.folder / "people" / "alice-cert.pub").read_text()
    certificate = parse_certificate(parse_line(line))
    return ClientIdentity(cluster.ssh_keys["alice"], certificate, ME)


def client_at(cluster: SmallCluster, proxy: SmallProxy) -> Deferred[Any]:
    """A connection of Alice's to the proxy."""
    trusted = proxy.member.ssh_trust(AuthorityKind.HOST)
    return connect(
        cluster.reactor,
        dial(cluster.reactor, f"127.0.0.1:{proxy.port}", 30),
        verify_host=HostVerifier(trusted, (proxy.member.host_id,)),
        identity=identity_of(cluster),
    )


@implementer(IStreamClientEndpoint)
@define
class Jump:
    """The node ``nat1`` through a connection to the proxy."""

    connection: Any

    def connect(self, factory: Any) -> Deferred[Any]:
        """See ``IStreamClientEndpoint``."""
        target = string(b"nat1") + uint32(22) + string(b"127.0.0.1") + uint32(1)
        protocol = factory.buildProtocol(None)
        return open_stream(self.connection, b"direct-tcpip", target, protocol)


def at_the_node(cluster: SmallCluster, world: Behind, connection: Any) -> Deferred[Any]:
    """A connection of Alice's to the node, through one to the proxy."""
    trusted = world.proxy.member.ssh_trust(AuthorityKind.HOST)
    return connect(
        cluster.reactor,
        Jump(connection),
        verify_host=HostVerifier(trusted, ("nat1",)),
        identity=identity_of(cluster),
    )


def test_a_crowd_at_one_node(cluster: SmallCluster) -> None:
    """Two hundred clients connect through one tunnel at once, and leave nothing behind."""
    with behind(cluster) as world:
        (tunnel,) = connections(world)
        jumps = cluster.reactor.wait(
            gatherResults([client_at(cluster, world.proxy) for _ in range(4)])
        )
        crowd = [at_the_node(cluster, world, jump) for jump in jumps for _ in range(50)]
        inside = cluster.reactor.wait(gatherResults(crowd), 120)
        assert len(world.node.serving.factory.present) == 200
        done = cluster.reactor.wait(gatherResults([execute(c, b"echo hi") for c in inside[::20]]))
        assert {result.stdout for result in done} == {b"hi\n"}
        for jump in jumps:
            jump.transport.loseConnection()
        cluster.reactor.until(lambda: not world.node.serving.factory.present)
        cluster.reactor.until(
            lambda: not [c for c in tunnel.channels.values() if c.name == b"client@tele"]
        )
        still_works(cluster, world)


def test_a_client_that_does_not_read(cluster: SmallCluster) -> None:
    """A client that reads nothing costs a window, and does not delay another one of its node."""
    with behind(cluster) as world:
        args = cluster.jump_words("alice", world.proxy, "nat1", "cat /dev/zero")
        with ssh_in_between(args) as slow:
            deadline = time.monotonic() + 30
            carried, before = 0, -STILL
            while carried - before >= STILL:
                assert time.monotonic() < deadline
                before = world.network.carried
                cluster.reactor.sleep(1.0)
                carried = world.network.carried
            assert carried < 64 * 1024 * 1024
            still_works(cluster, world)
            slow.kill()
            cluster.reactor.until(lambda: slow.poll() is not None)
        cluster.reactor.until(lambda: not world.node.serving.factory.present)


def test_clients_share_a_tunnel(cluster: SmallCluster) -> None:
    """Beside a bulk transfer of one, the small command of another comes through."""
    with behind(cluster) as world:
        args = cluster.jump_words("alice", world.proxy, "nat1", "cat /dev/zero")
        with ssh_in_between(args, subprocess.DEVNULL) as bulk:
            before = world.network.carried
            cluster.reactor.until(lambda: world.network.carried > before + 8_000_000)
            for _ in range(3):
                still_works(cluster, world)
            assert bulk.poll() is None
            bulk.kill()
            cluster.reactor.until(lambda: bulk.poll() is not None)


def test_a_clock_that_is_wrong(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listening node whose clock is off by ten minutes refuses signed client addresses: it
    refuses, and nothing hangs.
    """
    proxy = cluster.proxy()
    node = cluster.node()

    def known() -> bool:
        return any(host.addresses for host in proxy.service.router.index)

    cluster.reactor.until(known)
    take = node.service._client_addresses.verify
    monkeypatch.setattr(
        type(node.service._client_addresses),
        "verify",
        lambda _, line, seconds: take(line, seconds + 600),
    )
    done = cluster.jump("alice", proxy, "web1", "true")
    assert done.returncode == 255
    assert cluster.events("session.start") == ()
