"""Nodes behind NAT: reached through proxies that they dialled, with OpenSSH's client."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from twisted.conch.error import ConchError
from twisted.internet.protocol import Protocol

from small_cluster import (
    ME,
    SmallCluster,
    SmallProxy,
    TunnelNode,
    keep_announcements,
    small_cluster,
)
from tele.conch.client.transport import connect
from tele.conch.connection.stream import open_stream
from tele.errors import AccessDenied
from tele.membership.identity import tls_authorities
from tele.model.api.hosts import DELETE_HOST
from tele.model.api.members import HEALTH
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.identity import HostRole
from tele.model.presence import Mode, Status
from tele.model.resources import Conditions, Metadata, Role, RoleSpec
from tele.outbound.dialer import dial
from tele.tunnel.acceptor import STREAMS_LIMIT, AuthChannel, Tunnel
from tele.tunnel.messages import AUTH, CLIENT, ClientAddress
from tele.wire.fields import string, uint32

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def listening() -> set[str]:
    """The TCP sockets of this process that listen, by inode."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes.add(fields[9])
    mine = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            mine.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # that of the listing itself
    return {inode for inode in inodes if f"socket:[{inode}]" in mine}


def wait_known(cluster: SmallCluster, proxy: SmallProxy, name: str) -> None:
    """Wait until ``proxy`` knows the node ``name`` and a route to it."""

    def known() -> bool:
        return any(
            host.name == name and (host.addresses or host.tunnels)
            for host in proxy.service.router.index
        )

    cluster.reactor.until(known)


def tunnel_of(proxy: SmallProxy, node: TunnelNode) -> Tunnel:
    """The tunnel of ``node`` at ``proxy``."""
    tunnels = proxy.service.router.tunnels
    assert tunnels is not None
    tunnel = tunnels.get(node.host.member.host_id)
    assert tunnel is not None
    return tunnel


def test_a_command_through_a_tunnel(cluster: SmallCluster) -> None:
    """A node that knows only a proxy and binds no port runs a command, to the byte."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    data = os.urandom(1_000_000)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    done = cluster.jump("alice", proxy, "nat1", "cat; echo bad >&2; exit 7", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"bad\n", 7)
    output = cluster.jump("alice", proxy, "nat1", "echo $SSH_CONNECTION").stdout.split()
    assert (output[0], output[2]) == (b"127.0.0.1", b"127.0.0.1")
    assert len(output) == 4
    started, _ = cluster.wait_event("session.start", 2)
    assert started.server_name == "nat1"
    assert started.remote_addr.startswith("127.0.0.1:")


def test_no_port_is_bound(cluster: SmallCluster) -> None:
    """A node behind NAT listens nowhere, and is shown as reached by tunnel."""
    proxy = cluster.proxy()
    before = listening()
    cluster.tunnel_node(proxy)
    assert listening() == before
    (host,) = cluster.hosts()
    assert (host.name, host.addresses, host.mode) == ("nat1", (), Mode.TUNNEL)
    assert host.status is Status.ONLINE


def test_calls_of_the_api_go_through_the_tunnel(cluster: SmallCluster) -> None:
    """A node with a tunnel calls auth through it, end to end."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    streams = tunnel_of(proxy, node).connection.channels
    # What was asked before there was a tunnel may still be answered over the proxy's port.
    auth = [f"127.0.0.1:{proxy.port}"]
    member = node.host.member
    authority = member._network.connect(
        cluster.reactor, auth, lambda: member.identity.tls,
        lambda: tls_authorities(member.authorities), "auth.small",
    )  # fmt: skip
    assert cluster.reactor.wait(authority.perform(HEALTH, Nothing())).status == "ok"
    assert [type(channel) for channel in streams.values()] == [AuthChannel]
    authority.close()


def test_a_direct_node_learns_the_client_address(cluster: SmallCluster) -> None:
    """Through a proxy, the audit of a node that listens has the client's address, not the proxy's;
    for a direct connection it is the peer's.
    """
    proxy = cluster.proxy()
    node = cluster.node()
    wait_known(cluster, proxy, "web1")
    assert cluster.jump("alice", proxy, "web1", "true").returncode == 0
    assert cluster.ssh("alice", node, "true").returncode == 0
    first, second = cluster.wait_event("session.start", 2)
    ports = {event.remote_addr.rpartition(":")[2] for event in (first, second)}
    assert len(ports) == 2
    assert first.remote_addr.startswith("127.0.0.1:")


def test_the_subsystem_form(cluster: SmallCluster) -> None:
    """``ssh -s proxy:NODE:PORT`` as a ProxyCommand reaches tunnels and listening nodes."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    cluster.node()
    wait_known(cluster, proxy, "web1")
    wait_known(cluster, proxy, "nat1")
    data = os.urandom(300_000)
    for name in ("nat1", "web1"):
        args = cluster.jump_words("alice", proxy, name)
        config = args[args.index("-F") + 1]
        through = f"ProxyCommand=ssh -F {config} -s jump proxy:%h:22"
        done = cluster.run("ssh", "-F", config, "-o", through, name, "cat", stdin=data)
        assert (done.returncode, done.stdout == data) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("proxy:nobody:22", b"no such node"),
        ("proxy:nat1:5432", b"is not its SSH port"),
        ("shell", b"proxy:HOST:PORT"),
        ("proxy:nat1", b"proxy:HOST:PORT"),
    ],
)
def test_the_subsystem_form_reports_errors(
    cluster: SmallCluster, target: str, output: bytes
) -> None:
    """The text is on standard error, and the status is that of a transport that failed."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    config = cluster.jump_words("alice", proxy, "x")[1]
    done = cluster.run("ssh", "-F", config, "-s", "jump", target)
    assert output in done.stderr
    assert done.returncode == 255


def test_a_proxy_has_no_sessions(cluster: SmallCluster) -> None:
    """A shell or a command at the proxy gets a sentence, and nothing else."""
    proxy = cluster.proxy()
    config = cluster.jump_words("alice", proxy, "x")[1]
    for args in (("id",), ("-T",)):
        done = cluster.run("ssh", "-F", config, "jump", *args)
        assert (done.stdout, done.returncode) == (b"", 255)
        assert b"ssh -J" in done.stderr


def test_a_node_by_its_labels(cluster: SmallCluster) -> None:
    """A selector that fits one node is as good as its name."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy, labels={"env": "prod", "role": "db"})
    wait_known(cluster, proxy, "nat1")
    args = cluster.jump_words("alice", proxy, "env=prod+role=db")
    config = args[args.index("-F") + 1]
    through = f"ProxyCommand=ssh -F {config} -W %h:22 jump"
    options = ("-o", through, "-o", "HostKeyAlias=nat1")
    done = cluster.run("ssh", "-F", config, *options, "env=prod+role=db", "echo there")
    assert done.stdout == b"there\n", done.stderr


def test_a_client_at_another_proxy(cluster: SmallCluster) -> None:
    """A client of proxy A reaches a node whose only tunnel ends at proxy B."""
    first, second = cluster.proxy("proxy1"), cluster.proxy("proxy2")
    node = cluster.tunnel_node(first, tunnels=1)
    there = cluster.settled(node, first, second)
    here = first if second.member.host_id == there else second
    wait_known(cluster, here, "nat1")
    cluster.reactor.until(lambda: bool(here.service.router.other_proxies()))
    data = os.urandom(500_000)
    done = cluster.jump("alice", here, "nat1", "cat", stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr
    assert here.service.router.tunnels is not None
    assert len(here.service.router.tunnels) == 0


def test_a_node_learns_of_all_proxies(cluster: SmallCluster) -> None:
    """It knows one, and gets a tunnel to each; one that comes later included."""
    proxies = [cluster.proxy("proxy1"), cluster.proxy("proxy2")]
    node = cluster.tunnel_node(proxies[0])
    cluster.reactor.until(lambda: len(node.proxies) == 2)
    proxies.append(cluster.proxy("proxy3"))
    ids = tuple(sorted(proxy.member.host_id for proxy in proxies))
    cluster.reactor.until(lambda: node.proxies == ids)


def test_a_proxy_that_goes_is_replaced(cluster: SmallCluster) -> None:
    """With one tunnel of two proxies, a node dials the other when its own one goes."""
    proxies = {p.member.host_id: p for p in (cluster.proxy("proxy1"), cluster.proxy("proxy2"))}
    node = cluster.tunnel_node(next(iter(proxies.values())), tunnels=1)
    there = proxies.pop(cluster.settled(node, *proxies.values()))
    (left,) = proxies
    cluster.stop_proxy(there)
    cluster.reactor.until(lambda: node.proxies == (left,))
    wait_known(cluster, proxies[left], "nat1")
    done = cluster.jump("alice", proxies[left], "nat1", "echo still there")
    assert done.stdout == b"still there\n", done.stderr


def test_a_proxy_that_restarts(cluster: SmallCluster) -> None:
    """A node whose only proxy was gone for a while has its tunnel again."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    port = proxy.port
    cluster.stop_proxy(proxy)
    cluster.reactor.until(lambda: node.proxies == ())
    again = cluster.proxy(port=port)
    cluster.reactor.until(lambda: node.proxies == (again.member.host_id,))
    wait_known(cluster, again, "nat1")
    assert cluster.jump("alice", again, "nat1", "true").returncode == 0


def test_a_restarted_node_keeps_its_tunnels(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is announced when it has one again: no other proxy believes that it cannot be reached."""
    proxy = cluster.proxy()
    cluster.stop_tunnel_node(cluster.tunnel_node(proxy))
    announced = keep_announcements(monkeypatch)
    cluster.tunnel_node(proxy)
    cluster.reactor.until(lambda: any(each.role is HostRole.NODE for each in announced))
    nodes = [each for each in announced if each.role is HostRole.NODE]
    assert nodes[0].tunnels == (proxy.member.host_id,)


def test_a_session_outlives_renewed_certificates(cluster: SmallCluster) -> None:
    """A node dials again with its new certificates; connected clients stay."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    old = tunnel_of(proxy, node)
    marker = cluster.folder / "go on"
    args = cluster.jump_words(
        "alice", proxy, "nat1", f"echo in; while [ ! -e '{marker}' ]; do sleep 0.05; done; echo out"
    )
    with subprocess.Popen(["ssh", *args], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as ssh:
        assert ssh.stdout is not None
        pool = cluster.reactor.getThreadPool()
        lines: list[bytes] = []
        pool.callInThread(lambda: lines.append(ssh.stdout.readline()))  # type: ignore[union-attr]
        cluster.reactor.until(lambda: lines == [b"in\n"])
        node.serving._agents.renew()  # type: ignore[union-attr]
        cluster.reactor.until(lambda: tunnel_of(proxy, node) is not old)
        cluster.reactor.until(lambda: bool(node.proxies))
        assert not old.connection.transport.closing
        marker.touch()
        pool.callInThread(lambda: lines.append(ssh.stdout.read()))  # type: ignore[union-attr]
        cluster.reactor.until(lambda: len(lines) == 2)
        assert lines[1] == b"out\n"
        cluster.reactor.until(lambda: ssh.poll() is not None)
    assert ssh.returncode == 0
    cluster.reactor.until(lambda: old.connection.transport.closing)


def test_a_copied_identity_shows(cluster: SmallCluster) -> None:
    """Two machines with one node's keys are an event; the newer one gets the clients (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    shutil.copytree(cluster.folder / "nat1", cluster.folder / "copy")
    cluster.tunnel_node(proxy, folder="copy")
    (event, *_) = cluster.wait_event("node.duplicate")
    assert event.fields["node_id"] == node.host.member.host_id
    assert "two machines" in event.error


def test_a_removed_node_loses_its_tunnel(cluster: SmallCluster) -> None:
    """``tele nodes rm`` ends it, and it is not taken back."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    host_id = node.host.member.host_id
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(host_id)))
    index, tunnels = proxy.service.router.index, proxy.service.router.tunnels
    assert tunnels is not None
    cluster.reactor.until(lambda: index.get(host_id) is None and tunnels.get(host_id) is None)


def test_a_denied_user_does_not_reach_the_node(cluster: SmallCluster) -> None:
    """A user whose roles allow no such node is refused at the proxy, and it is in the audit."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    deny = RoleSpec(deny=Conditions(node_labels={"*": ("*",)}))
    cluster.reactor.wait(
        cluster.admin.perform(PUT_ROLE, PutRole("access", Role(Metadata("access"), deny)))
    )
    cluster.reactor.until(lambda: any(r.spec == deny for r in proxy.member.state.roles))
    done = cluster.jump("alice", proxy, "nat1", "true")
    assert b"denied" in done.stderr
    denied = cluster.wait_event("auth.denied")[-1]
    assert (denied.server_name, denied.fields["target"]) == ("proxy1", "nat1")


def test_a_host_certificate_is_no_user(cluster: SmallCluster) -> None:
    """At a node, the certificate of a host opens nothing (attack)."""
    proxy = cluster.proxy()
    node = cluster.node()
    member = proxy.member
    for login in (ME, member.host_id):
        with pytest.raises(AccessDenied):
            cluster.reactor.wait(
                connect(
                    cluster.reactor,
                    dial(cluster.reactor, f"127.0.0.1:{node.port}", 10),
                    verify_host=member.verifier(HostRole.NODE),
                    identity=evolve(member.client_identity(), login=login),
                )
            )
    assert {event.fields["reason"] for event in cluster.wait_event("auth.denied")} == {"authority"}


def test_a_node_cannot_be_another(cluster: SmallCluster) -> None:
    """A tunnel belongs to the id in the certificate, whatever the user name is (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    member = node.host.member
    stolen = evolve(member.client_identity(), login="00000000-0000-4000-8000-000000000000")
    with pytest.raises(AccessDenied):
        cluster.reactor.wait(
            connect(
                cluster.reactor,
                dial(cluster.reactor, f"127.0.0.1:{proxy.port}", 10),
                verify_host=member.verifier(HostRole.PROXY),
                identity=stolen,
            )
        )


def test_a_node_opens_nothing_but_auth(cluster: SmallCluster) -> None:
    """A hostile node cannot reach other nodes through its tunnel (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    connection = node.serving._agents._connections()[0]  # type: ignore[union-attr]
    for name, extra in (
        (b"session", b""),
        (CLIENT, ClientAddress(node.host.member.host_id, ("x", 1)).encode()),
        (b"direct-tcpip", string(b"nat1") + uint32(22) + string(b"x") + uint32(1)),
    ):
        with pytest.raises(ConchError):
            cluster.reactor.wait(open_stream(connection, name, extra, Protocol()))


def test_a_node_cannot_flood_auth(cluster: SmallCluster) -> None:
    """Streams to auth on one tunnel are bounded; the tunnel goes on (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    connection = node.serving._agents._connections()[0]  # type: ignore[union-attr]
    opening = [open_stream(connection, AUTH, b"", Protocol()) for _ in range(STREAMS_LIMIT + 8)]
    results: list[bool] = []
    for each in opening:
        each.addCallbacks(lambda _: results.append(True), lambda _: results.append(False))
    cluster.reactor.until(lambda: len(results) == len(opening))
    assert results.count(True) <= STREAMS_LIMIT
    assert cluster.jump("alice", proxy, "nat1", "echo on").stdout == b"on\n"


def test_a_proxy_serves_its_own_tunnels_only_to_others(cluster: SmallCluster) -> None:
    """A request for a node without a tunnel at the other proxy is refused: there are no loops."""
    first, second = cluster.proxy("proxy1"), cluster.proxy("proxy2")
    connection = cluster.reactor.wait(
        connect(
            cluster.reactor,
            dial(cluster.reactor, f"127.0.0.1:{second.port}", 10),
            verify_host=first.member.verifier(HostRole.PROXY),
            identity=first.member.client_identity(),
        )
    )
    with pytest.raises(ConchError, match="does not end here"):
        cluster.reactor.wait(
            open_stream(connection, CLIENT, ClientAddress("nobody", ("x", 1)).encode(), Protocol())
        )
    connection.transport.loseConnection()
    cluster.reactor.until(lambda: connection._stopped)
