"""Attacks on tunnels and on the proxy, and their effects."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from small_cluster import ME, SmallCluster, SmallNode, SmallProxy, TunnelNode, small_cluster
from tele.admission.limits import Limits
from tele.admission.penalties import Fault
from tele.certs.certificate import parse_certificate
from tele.certs.keys import parse_line
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.conch.connection.stream import open_stream
from tele.errors import AccessDenied, ProtocolError
from tele.interfaces import Put
from tele.membership.store import MemoryStore
from tele.model.api.hosts import DELETE_HOST
from tele.model.api.paging import ById
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.authority import AuthorityKind
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import Mode
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleSpec,
)
from tele.outbound.dialer import dial
from tele.proxy import jump_avatar as jump_module
from tele.proxy import user_limits
from tele.proxy.audit import USER_DENIED_BURST
from tele.routing import dialer
from tele.tunnel import acceptor
from tele.tunnel.acceptor import Tunnel
from tele.tunnel.client_address import sign_client_address
from tele.tunnel.messages import AUTH, CLIENT, TUNNEL, ClientAddress
from tele.wire.fields import string, uint32

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture(autouse=True)
def no_traceback() -> Iterator[None]:
    """Nothing that a peer does is a mistake of ours: no traceback is logged."""
    found: list[Any] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            found.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    assert found == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def wait_known(cluster: SmallCluster, proxy: SmallProxy, *names: str) -> None:
    """Wait until ``proxy`` knows the nodes, and a route to each."""

    def known() -> bool:
        hosts = [host for host in proxy.service.router.index if host.addresses or host.tunnels]
        return {host.name for host in hosts} >= set(names)

    cluster.reactor.until(known)


def claims(cluster: SmallCluster, proxy: SmallProxy, node: SmallNode, there: socket.socket) -> None:
    """Have ``node`` announce the address ``there``, and wait until ``proxy`` knows it."""
    node.service._presence.addresses = (f"127.0.0.1:{there.getsockname()[1]}",)
    node.member.announce_soon()

    def believed() -> bool:
        host = proxy.service.router.index.get(node.member.host_id)
        return host is not None and host.addresses == node.service._presence.addresses

    cluster.reactor.until(believed)


def tunnel_of(proxy: SmallProxy, node: TunnelNode) -> Tunnel:
    """The tunnel of ``node`` at ``proxy``."""
    tunnels = proxy.service.router.tunnels
    assert tunnels is not None
    tunnel = tunnels.get(node.host.member.host_id)
    assert tunnel is not None
    return tunnel


def lock(cluster: SmallCluster, host_id: str) -> None:
    """Lock a host."""
    assert cluster.auth is not None
    value = Lock(Metadata("stop"), LockSpec(LockTarget(host_id=host_id)))
    cluster.reactor.wait(cluster.auth._backend.commit(Put("/locks/stop", encode(value))))


def stop_checks(proxy: SmallProxy) -> None:
    """Stop the checks of ``proxy``, so that what ends does not end by them."""
    looking = proxy.service._checks
    assert looking is not None
    looking.stop()


def as_member(cluster: SmallCluster, member: Any, proxy: SmallProxy) -> Any:
    """A connection of a host to ``proxy``, with the host's own keys."""
    return cluster.reactor.wait(
        connect(
            cluster.reactor,
            dial(cluster.reactor, f"127.0.0.1:{proxy.port}", 10),
            verify_host=proxy.member.verifier(HostRole.PROXY),
            identity=member.client_identity(),
        )
    )


def as_alice(cluster: SmallCluster, proxy: SmallProxy) -> Any:
    """A connection of Alice's to ``proxy``."""
    line = (cluster.folder / "people" / "alice-cert.pub").read_text()
    identity = ClientIdentity(cluster.ssh_keys["alice"], parse_certificate(parse_line(line)), ME)
    return cluster.reactor.wait(
        connect(
            cluster.reactor,
            dial(cluster.reactor, f"127.0.0.1:{proxy.port}", 10),
            verify_host=HostVerifier(
                proxy.member.ssh_trust(AuthorityKind.HOST), (proxy.member.host_id,)
            ),
            identity=identity,
        )
    )


def users_at(proxy: SmallProxy) -> int:
    """How many users are logged in to ``proxy``.

    Others may be connected to its port: what another test dials whose port it was before, say.
    """
    ssh = proxy.service._ssh
    assert ssh is not None
    avatars = [getattr(transport, "avatar", None) for transport in ssh.present]
    return sum(isinstance(avatar, jump_module.JumpAvatar) for avatar in avatars)


def ask_for(connection: Any, name: str) -> Deferred[Any]:
    """Open a channel to a node, as ``ssh -J`` does."""
    target = string(name.encode()) + uint32(22) + string(b"127.0.0.1") + uint32(1)
    return open_stream(connection, b"direct-tcpip", target, Protocol())


def deny_all(cluster: SmallCluster, proxy: SmallProxy) -> None:
    """Allow no login on any node."""
    deny = RoleSpec(deny=Conditions(node_labels={"*": ("*",)}))
    role = Role(Metadata("access"), deny)
    cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, PutRole("access", role)))
    cluster.reactor.until(lambda: any(r.spec == deny for r in proxy.member.state.roles))


# -- errors that clients get -------------------------------------------------------------
@pytest.mark.parametrize("form", ["jump", "subsystem"])
def test_four_answers(cluster: SmallCluster, form: str) -> None:
    """Unknown, ambiguous, offline and denied are four errors, with ``-J`` and with ``-s``."""
    proxy = cluster.proxy()
    labels = {"env": "prod"}
    for name in ("nat1", "nat2"):
        cluster.tunnel_node(proxy, name, labels=labels)
    node = cluster.node(labels={"env": "dev"})
    wait_known(cluster, proxy, "nat1", "nat2", "web1")
    index = proxy.service.router.index
    away = index.get(node.member.host_id)
    assert away is not None
    cluster.stop_node(node)
    index.put(evolve(away, status=type(away.status).OFFLINE))

    def error_of(name: str) -> str:
        args = cluster.jump_words("alice", proxy, name)
        if form == "jump":
            done = cluster.run("ssh", *args[:2], "-W", f"{name}:22", "jump")
        else:
            done = cluster.run("ssh", *args[:2], "-s", "jump", f"proxy:{name}:22")
        assert done.returncode == 255
        return done.stderr.decode()

    assert "no such node: 'nowhere'" in error_of("nowhere")
    ambiguous = error_of("env=prod")
    assert "2 nodes match 'env=prod'" in ambiguous
    assert "nat1 (" in ambiguous
    assert "node web1 is offline since" in error_of("web1")
    deny_all(cluster, proxy)
    assert "denied: role access denies this node to alice" in error_of("nat1")
    assert "no such node" in error_of("env=prod")


def test_denials_do_not_fill_the_audit(cluster: SmallCluster) -> None:
    """Denials of a user who sends requests in a loop are reported in part, and counted (attack)."""
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    deny_all(cluster, proxy)
    connection = as_alice(cluster, proxy)
    for _ in range(2 * int(USER_DENIED_BURST)):
        with pytest.raises(ConchError, match="denied"):
            cluster.reactor.wait(ask_for(connection, "nat1"))
    denied = cluster.wait_event("auth.denied", int(USER_DENIED_BURST))
    assert len(denied) < 1.5 * USER_DENIED_BURST
    connection.transport.loseConnection()


def test_a_user_has_so_many_channels(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who opens more channels than allowed is refused, and leaves nothing behind when
    they go (attack).
    """
    monkeypatch.setattr(user_limits, "CHANNELS_LIMIT", 2)
    # Channels that are being opened stay so, however long the rest takes.
    monkeypatch.setattr(dialer, "OPEN_SECONDS", 3600.0)
    proxy = cluster.proxy()
    node = cluster.node()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        claims(cluster, proxy, node, silent)
        connection = as_alice(cluster, proxy)
        waiting = [ask_for(connection, "web1") for _ in range(2)]
        for each in waiting:
            each.addErrback(lambda _: None)
        another = as_alice(cluster, proxy)
        for each in (connection, another):
            with pytest.raises(ConchError, match="has 2 channels through this proxy"):
                cluster.reactor.wait(ask_for(each, "web1"))
        another.transport.loseConnection()
        dialled: list[socket.socket] = []
        silent.settimeout(0)

        def both_dialled() -> bool:
            with contextlib.suppress(BlockingIOError):
                dialled.append(silent.accept()[0])
            return len(dialled) == 2

        cluster.reactor.until(both_dialled)
        connection.transport.loseConnection()
        with socket.create_connection(("127.0.0.1", proxy.port)) as other:
            other.sendall(b"SSH-2.0-x\r\n")
            cluster.reactor.until(lambda: len(proxy.service._present()) > users_at(proxy))
            cluster.reactor.until(lambda: not users_at(proxy))
        # All that was dialled for them is closed, although nothing answered there.
        for accepted in dialled:
            accepted.setblocking(False)
            received = bytearray()

            def closed(accepted: socket.socket = accepted, got: bytearray = received) -> bool:
                try:
                    data = accepted.recv(4096)
                except BlockingIOError:
                    return False
                except ConnectionResetError:
                    return True
                got.extend(data)
                return not data

            cluster.reactor.until(closed)
            accepted.close()
            assert received.startswith(b"TELE-CLIENT ") or not received
            assert received.count(b"\n") <= 1


# -- nodes that lie ----------------------------------------------------------------------
def test_a_node_that_announces_another_service(cluster: SmallCluster) -> None:
    """Its clients do not reach that service, and it gets nothing of them (attack)."""
    proxy = cluster.proxy()
    node = cluster.node()
    with socket.create_server(("127.0.0.1", 0)) as secret:
        claims(cluster, proxy, node, secret)
        received: list[bytes] = []

        def serve() -> None:
            accepted, _ = secret.accept()
            with accepted:
                accepted.sendall(b"220 secret.internal ESMTP\r\n")
                while data := accepted.recv(4096):
                    received.append(data)

        cluster.reactor.getThreadPool().callInThread(serve)
        connection = as_alice(cluster, proxy)
        with pytest.raises(ConchError, match="does not answer at"):
            cluster.reactor.wait(ask_for(connection, "web1"))
        connection.transport.loseConnection()
        assert b"SSH-" not in b"".join(received)


def test_a_direct_address_that_is_dead_does_not_hide_the_tunnel(cluster: SmallCluster) -> None:
    """If what answers is not an SSH server, the other route is used."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    presence = node.serving._presence
    with socket.create_server(("127.0.0.1", 0)) as silent:
        presence.addresses = (f"127.0.0.1:{silent.getsockname()[1]}",)
        presence.mode = Mode.BOTH
        node.host.member.announce_soon()
        index = proxy.service.router.index

        def moved() -> bool:
            host = index.get(node.host.member.host_id)
            return host is not None and bool(host.addresses)

        cluster.reactor.until(moved)
        done = cluster.jump("alice", proxy, "nat1", "echo here")
        assert done.stdout == b"here\n", done.stderr


def test_a_node_that_speaks_nonsense(cluster: SmallCluster) -> None:
    """A malformed message is refused, and nothing else of the tunnel changes (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    connection = as_member(cluster, node.host.member, proxy)
    for bad in (b"", b"\0" * 3, string(b"short"), string(b"x" * 16) + b"more"):
        with pytest.raises(ConchError):
            cluster.reactor.wait(connection.sendGlobalRequest(TUNNEL, bad, wantReply=1))
    with pytest.raises(ConchError):
        cluster.reactor.wait(open_stream(connection, CLIENT, b"\xff", Protocol()))
    connection.transport.loseConnection()
    assert cluster.jump("alice", proxy, "nat1", "echo on").stdout == b"on\n"


def test_a_node_has_so_many_connections(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile node does not fill the proxy with connections (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    monkeypatch.setattr(acceptor, "CONNECTIONS_LIMIT", 3)
    more = [as_member(cluster, node.host.member, proxy) for _ in range(2)]
    with pytest.raises(AccessDenied, match="connections already"):
        as_member(cluster, node.host.member, proxy)
    for connection in more:
        connection.transport.loseConnection()
    tunnels = proxy.service.router.tunnels
    assert tunnels is not None
    cluster.reactor.until(lambda: sum(tunnels._connections.values()) == 1)
    as_member(cluster, node.host.member, proxy).transport.loseConnection()


# -- hosts that are locked or removed ----------------------------------------------------
def test_a_locked_node_is_cut_off_at_once(cluster: SmallCluster) -> None:
    """Its tunnel, connections without one, and clients on them end when the lock is set."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    tunnel = tunnel_of(proxy, node)
    silent = as_member(cluster, node.host.member, proxy)
    cluster.reactor.wait(open_stream(silent, AUTH, b"", Protocol()))
    stop_checks(proxy)
    lock(cluster, node.host.member.host_id)
    cluster.reactor.until(lambda: tunnel.connection._stopped and silent._stopped)
    with pytest.raises(AccessDenied, match="locked"):
        as_member(cluster, node.host.member, proxy)
    assert (
        b"denied: this node is locked by stop"
        in cluster.jump("alice", proxy, "nat1", "true").stderr
    )


def test_a_removed_node_is_cut_off_at_once(cluster: SmallCluster) -> None:
    """``tele nodes rm`` ends all its connections, and it is not found any more."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    tunnel = tunnel_of(proxy, node)
    silent = as_member(cluster, node.host.member, proxy)
    stop_checks(proxy)
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(node.host.member.host_id)))
    cluster.reactor.until(lambda: tunnel.connection._stopped and silent._stopped)
    assert b"no such node" in cluster.jump("alice", proxy, "nat1", "true").stderr


def test_a_locked_proxy_brings_no_client(cluster: SmallCluster) -> None:
    """Its connection to others ends at once, nodes leave it, and its signatures are refused."""
    first, second = cluster.proxy("proxy1"), cluster.proxy("proxy2")
    node = cluster.tunnel_node(first)
    cluster.reactor.until(lambda: len(node.proxies) == 2)
    peer = as_member(cluster, first.member, second)
    tunnel = tunnel_of(first, node)
    stop_checks(second)
    lock(cluster, first.member.host_id)
    cluster.reactor.until(lambda: peer._stopped and tunnel.connection._stopped)
    cluster.reactor.until(lambda: node.proxies == (second.member.host_id,))
    with pytest.raises(AccessDenied, match="locked"):
        as_member(cluster, first.member, second)
    assert cluster.jump("alice", second, "nat1", "echo on").stdout == b"on\n"


def test_a_node_that_was_removed_joins_as_another_host(cluster: SmallCluster) -> None:
    """Started with a valid token it is a member again, under a new id."""
    node = cluster.node()
    before = node.member.host_id
    cluster.stop_node(node)
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(before)))
    again = cluster.node()
    cluster.reactor.until(lambda: again.member.host_id != before and not again.member.expelled)
    assert cluster.ssh("alice", again, "echo on").stdout == b"on\n"


def test_a_removed_nodes_certificate_opens_no_tunnel(cluster: SmallCluster) -> None:
    """Its certificate is good for hours more, and opens nothing at a proxy or at auth (attack)."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    thief = cluster.member(MemoryStore())
    thief._store.keep_identity(node.host.member.identity)
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(node.host.member.host_id)))
    cluster.reactor.until(lambda: bool(proxy.member.state.revoked_hosts))
    with pytest.raises(AccessDenied, match="removed from the cluster"):
        as_member(cluster, thief, proxy)


def test_a_removed_node_that_continues_is_cut_off(cluster: SmallCluster) -> None:
    """Clients at its own address lose their connection at the proxy, whatever it does (attack)."""
    proxy, node = cluster.proxy(), cluster.node()
    wait_known(cluster, proxy, "web1")
    alice = as_alice(cluster, proxy)
    ended: list[Any] = []

    class Stream(Protocol):
        def connectionLost(self, reason: Any = None) -> None:
            ended.append(reason)

    target = string(b"web1") + uint32(22) + string(b"127.0.0.1") + uint32(1)
    cluster.reactor.wait(open_stream(alice, b"direct-tcpip", target, Stream()))
    # A host that was taken over does not end what it should.
    node.service._end_refused = lambda: None  # type: ignore[method-assign]
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(node.member.host_id)))
    cluster.reactor.until(lambda: bool(ended))
    alice.transport.loseConnection()


def test_a_node_that_was_removed_admits_no_client(cluster: SmallCluster) -> None:
    """A node that learns of its removal ends its sessions, and refuses direct connections."""
    node = cluster.node()
    script = f"touch {cluster.folder}/in; exec sleep 600"
    running = cluster.start("ssh", *cluster.ssh_words("alice", node, "127.0.0.1", script))
    cluster.reactor.until((cluster.folder / "in").exists)
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(node.member.host_id)))
    cluster.reactor.until(lambda: running.poll() is not None)
    assert running.returncode == 255
    assert running.stderr is not None
    assert b"this node is no longer a member: node web1" in running.stderr.read()
    assert cluster.ssh("alice", node, "true").returncode == 255


def test_a_removed_proxy_brings_no_client(cluster: SmallCluster) -> None:
    """Its certificate is good for hours more: other proxies and nodes deal with it no more, what
    it brought ends, and its signed client addresses are refused (attack).
    """
    first, second = cluster.proxy("proxy1"), cluster.proxy("proxy2")
    node, direct = cluster.tunnel_node(first), cluster.node()
    wait_known(cluster, first, "web1")
    cluster.reactor.until(lambda: len(node.proxies) == 2)
    peer = as_member(cluster, first.member, second)
    tunnel = tunnel_of(first, node)
    alice = as_alice(cluster, first)
    cluster.reactor.wait(ask_for(alice, "web1"))
    cluster.reactor.until(lambda: any(t.vouched_by for t in direct.service.factory.present))
    thief = cluster.member(MemoryStore())
    thief._store.keep_identity(first.member.identity)
    # A host that was taken over does not end what it should.
    first.service._end_refused = lambda: None  # type: ignore[method-assign]
    stop_checks(second)
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(first.member.host_id)))
    cluster.reactor.until(lambda: peer._stopped and tunnel.connection._stopped)
    cluster.reactor.until(lambda: not direct.service.factory.present)
    cluster.reactor.until(lambda: node.proxies == (second.member.host_id,))
    with pytest.raises(AccessDenied, match="removed from the cluster"):
        as_member(cluster, thief, second)
    identity = thief.identity
    line = sign_client_address(
        ClientAddress(direct.member.host_id, ("192.0.2.1", 1)),
        identity.keys.ssh,
        identity.ssh_certificate,
        cluster.reactor.seconds(),
    )
    with pytest.raises(ProtocolError, match="removed from the cluster"):
        direct.service._client_addresses.verify(line, cluster.reactor.seconds())
    alice.transport.loseConnection()


def test_a_removed_proxy_keeps_no_old_tunnel(cluster: SmallCluster) -> None:
    """A tunnel that stays for its last client, since the node has new certificates, ends with its
    proxy's removal like any other (attack).
    """
    first = cluster.proxy("proxy1")
    node = cluster.tunnel_node(first)
    wait_known(cluster, first, "nat1")
    alice = as_alice(cluster, first)
    stream = cluster.reactor.wait(ask_for(alice, "nat1"))
    agents: Any = node.serving._agents
    (old,) = agents._connections()
    agents.renew()
    cluster.reactor.until(lambda: not agents._old and agents.proxy_ids != ())
    assert old not in agents._connections()
    assert stream.transport.is_open
    ended: list[bool] = []
    lose = old.transport.loseConnection

    def losing() -> None:
        ended.append(True)
        lose()

    old.transport.loseConnection = losing
    # A host that was taken over does not end what it should.
    first.service._end_refused = lambda: None  # type: ignore[method-assign]
    cluster.reactor.wait(cluster.admin.perform(DELETE_HOST, ById(first.member.host_id)))
    cluster.reactor.until(lambda: bool(node.host.member.refuses(first.member.identity.host)))
    assert ended
    cluster.reactor.until(lambda: old.has_ended)
    alice.transport.loseConnection()


def test_a_proxy_that_renewed_dials_others_anew(cluster: SmallCluster) -> None:
    """Clients that are connected stay; later ones use a new connection."""
    first, second = cluster.proxy("proxy1"), cluster.proxy("proxy2")
    node = cluster.tunnel_node(first, tunnels=1)
    there = cluster.settled(node, first, second)
    here = first if second.member.host_id == there else second
    cluster.reactor.until(lambda: bool(here.service.router.other_proxies()))
    wait_known(cluster, here, "nat1")
    assert here.service.router.peers is not None
    alice = as_alice(cluster, here)
    stream = cluster.reactor.wait(ask_for(alice, "nat1"))
    (old,) = here.service.router.peers._peers.values()
    here.service.router.peers.renew()
    assert cluster.jump("alice", here, "nat1", "echo on").stdout == b"on\n"
    (new,) = here.service.router.peers._peers.values()
    assert new is not old
    assert old.connection is not None
    assert not old.connection._stopped
    assert stream.transport.is_open
    alice.transport.loseConnection()


# -- balancers ---------------------------------------------------------------------------
def test_a_balancer_that_leads_to_one_proxy(cluster: SmallCluster) -> None:
    """Two agents that are led to the same proxy at once do not end with a tunnel that the
    proxy has forgotten.
    """
    first = cluster.proxy("proxy1")
    cluster.proxy("proxy2", public=first.port)
    node = cluster.tunnel_node(first)
    cluster.reactor.until(lambda: len(first.member.state.proxies) == 2)
    agents = node.serving._agents
    assert agents is not None
    for _ in range(5):
        agents.renew()
        cluster.reactor.until(lambda: first.member.host_id in agents.proxy_ids)
        cluster.reactor.until(lambda: not agents._old)
        mine = {id(c.transport.outgoing) for c in agents._connections()}
        assert len(mine) == 1
        assert cluster.jump("alice", first, "nat1", "echo on").stdout == b"on\n"


def test_a_user_has_so_many_connections(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user at the limit is refused, others are not, and one freed place can be used (attack)."""
    monkeypatch.setattr(user_limits, "CONNECTIONS_LIMIT", 2)
    cluster.person("bob", ME)
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    mine = [as_alice(cluster, proxy) for _ in range(2)]
    refused = cluster.jump("alice", proxy, "nat1", "true")
    assert refused.returncode == 255
    assert b"has 2 connections to this proxy" in refused.stderr
    denied = cluster.wait_event("auth.denied")[0]
    assert (denied.user, denied.fields["reason"]) == ("alice", "too_many")
    assert cluster.jump("bob", proxy, "nat1", "echo in").stdout == b"in\n"
    mine[0].transport.loseConnection()
    cluster.reactor.until(lambda: users_at(proxy) == 1)
    assert cluster.jump("alice", proxy, "nat1", "echo in").stdout == b"in\n"
    mine[1].transport.loseConnection()
    assert node.proxies


def test_a_user_requests_so_many_nodes(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who floods requests has to wait, on all connections; others do not (attack)."""
    monkeypatch.setattr(user_limits, "DECISIONS_BURST", 20)
    monkeypatch.setattr(user_limits, "DECISIONS_PER_SECOND", 0)
    cluster.person("bob", ME)
    proxy = cluster.proxy()
    cluster.tunnel_node(proxy)
    wait_known(cluster, proxy, "nat1")
    errors = []
    for _ in range(3):
        connection = as_alice(cluster, proxy)
        for _ in range(10):
            try:
                cluster.reactor.wait(ask_for(connection, "nat1"))
                errors.append("")
            except ConchError as error:
                errors.append(str(error))
        connection.transport.loseConnection()
    assert [bool(text) for text in errors] == [False] * 20 + [True] * 10
    assert "too many nodes requested from this proxy" in errors[-1]
    assert cluster.jump("bob", proxy, "nat1", "echo in").stdout == b"in\n"


def test_an_address_for_another_node_is_no_fault_of_the_proxy(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that announces another's address does not get proxies shut out there (attack)."""
    proxy = cluster.proxy()
    node = cluster.node()
    admission = node.service.factory.admission
    blamed: list[Fault] = []
    monkeypatch.setattr(admission, "penalize", lambda host, fault: blamed.append(fault))
    line = proxy.service.router.sign(ClientAddress("another", ("192.0.2.1", 1)))
    for expected in ([], [Fault.NOAUTH]):  # the second one is a copy
        with socket.create_connection(("127.0.0.1", node.port), 20) as there:
            there.sendall(line)
            there.setblocking(False)

            def closed(there: socket.socket = there) -> bool:
                try:
                    return not there.recv(4096)
                except BlockingIOError:
                    return False
                except ConnectionResetError:
                    return True

            cluster.reactor.until(closed)
            cluster.reactor.until(lambda: not node.service.factory.present)
        assert blamed == expected
    errors = [event.error for event in cluster.wait_event("auth.denied", 2)]
    assert errors == [
        "signed client address is for another node",
        "signed client address was used before",
    ]


def test_clients_of_one_address_at_a_node(cluster: SmallCluster) -> None:
    """Clients of a proxy that do not log in have a share, and exclude no others (attack)."""
    proxy = cluster.proxy()
    node = cluster.node(limits=Limits(startups_per_member=2))
    with contextlib.ExitStack() as stack:
        ports = itertools.count(1)

        def come(address: str) -> socket.socket:
            client = ClientAddress(node.member.host_id, (address, next(ports)))
            made = socket.create_connection(("127.0.0.1", node.port), 20)
            stack.enter_context(made)
            made.sendall(proxy.service.router.sign(client))
            made.setblocking(False)
            return made

        def closed(made: socket.socket) -> bool:
            try:
                while made.recv(65536):
                    pass
            except BlockingIOError:
                return False
            except ConnectionResetError:
                pass
            return True

        admission = node.service.factory.admission
        waiting = [come("192.0.2.1") for _ in range(2)]
        cluster.reactor.until(lambda: admission.vouched._count == 2)
        third = come("192.0.2.1")
        cluster.reactor.until(lambda: len(admission.vouched_waiting) == 1)
        other = come("192.0.2.2")
        cluster.reactor.until(lambda: admission.vouched._count == 3)
        assert not any(map(closed, (*waiting, third, other)))
        assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
    cluster.reactor.until(lambda: admission.vouched._count == 0)
