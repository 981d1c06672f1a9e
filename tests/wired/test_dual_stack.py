"""Listeners on ``[::]``, where the kernel reports IPv4 clients as ``::ffff:192.0.2.7``."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve

from own_reactor import OwnReactor, own_reactor
from small_cluster import ME, SmallCluster, set_options, small_cluster
from tele.admission.limits import Limits
from tele.admission.penalties import Fault, PenaltyRules
from tele.certs.certificate import parse_certificate
from tele.model.api import table, users
from tele.model.resources import Metadata, User, UserSpec
from tele.sockets.direct import listen
from tele.testing.ssh import World
from test_proxy_messages import begin_login

pytestmark = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")

#: Two clients, and what the kernel calls them at such a listener.
ONE, OTHER = "127.0.0.21", "127.0.0.22"


@contextmanager
def serving(reactor: OwnReactor, world: World) -> Iterator[int]:
    """Serve SSH on all addresses of both families; the port."""
    port: Any = listen(reactor, 0, world.factory, "::")
    try:
        yield port.getHost().port
    finally:
        reactor.wait(port.stopListening())
        for transport in list(world.factory.present):
            cast(Any, transport.transport).abortConnection()
        reactor.until(lambda: not world.factory.present)
        world.factory.stopFactory()


class Client:
    """A client that sends nothing, from one address."""

    def __init__(self, reactor: OwnReactor, port: int, source: str) -> None:
        self._reactor = reactor
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.bind((source, 0))
        self._socket.connect(("::1" if ":" in source else "127.0.0.1", port))
        self._socket.setblocking(False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def is_served(self) -> bool:
        """Wait for the server's algorithms; False if the connection is closed instead of it."""
        received = bytearray()

        def answered() -> bool:
            try:
                more = self._socket.recv(4096)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            received.extend(more)
            return not more or b"curve25519" in received

        self._reactor.until(answered)
        return b"curve25519" in received


def connect(stack: ExitStack, reactor: OwnReactor, port: int, *sources: str) -> list[bool]:
    """Connect from each of ``sources`` in turn; which of them are served."""
    return [stack.enter_context(Client(reactor, port, source)).is_served() for source in sources]


def test_each_ipv4_client_has_places_of_its_own() -> None:
    """A client that takes all places of one IPv4 address shuts out no other (attack)."""
    world = World(limits=Limits(startups_per_source=2, waiting=0))
    with own_reactor() as reactor, serving(reactor, world) as port, ExitStack() as stack:
        assert connect(stack, reactor, port, ONE, ONE, ONE) == [True, True, False]
        assert connect(stack, reactor, port, OTHER, "::1", OTHER) == [True, True, True]
        assert {transport.remote_addr()[0] for transport in world.factory.present} == {
            ONE, OTHER, "::1",
        }  # fmt: skip


def test_the_login_of_a_member_makes_its_own_address_known_and_no_other() -> None:
    """Penalties hold when a member has logged in from another IPv4 address."""
    rules = PenaltyRules(exempt=())
    world = World(limits=Limits(penalties=rules))
    admission = world.factory.admission
    with own_reactor() as reactor, serving(reactor, world) as port, ExitStack() as stack:
        assert connect(stack, reactor, port, ONE, OTHER) == [True, True]
        for transport in world.factory.present:
            host = transport.remote_addr()[0]
            if host == ONE:
                admission.member_entered(host)
            admission.penalize(host, Fault.CRASH)
        assert admission.is_member_source(ONE)
        assert not admission.is_member_source(OTHER)
        assert connect(stack, reactor, port, ONE, OTHER, "::1") == [True, False, True]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """All parts of it listen on both families."""
    with small_cluster(tmp_path) as made:
        made.stop_auth()
        made.interface = "::"
        made.start_auth()
        yield made


def test_audit_and_sessions_show_the_address_of_the_user(cluster: SmallCluster) -> None:
    """An IPv4 client is shown as one: in the audit and in the session's environment, directly and
    through a proxy; and a proxy is known by its address.
    """
    node, proxy = cluster.node(), cluster.proxy()
    cluster.person("alice", ME)
    direct = cluster.ssh(
        "alice", node, "echo $SSH_CONNECTION", options=("-o", f"BindAddress={ONE}")
    )
    assert direct.stdout.split()[:1] == [ONE.encode()], direct.stderr
    assert direct.stdout.split()[2] == b"127.0.0.1"
    cluster.source = OTHER
    cluster.reactor.until(lambda: any(host.addresses for host in proxy.service.router.index))
    jumped = cluster.jump("alice", proxy, "web1", "echo $SSH_CLIENT")
    assert jumped.stdout.split()[:1] == [OTHER.encode()], jumped.stderr
    started = cluster.wait_event("session.start", 2)
    assert {event.remote_addr.rpartition(":")[0] for event in started} == {ONE, OTHER}
    admission = node.service.factory.admission
    assert admission.is_member_source("127.0.0.1"), "the address of the proxy"
    assert not admission.is_member_source(ONE)


def test_auth_pins_certificates_to_the_address_of_the_user(cluster: SmallCluster) -> None:
    """A log-in over IPv4 is pinned to the IPv4 address, directly and through a proxy."""
    node, proxy = cluster.node(), cluster.proxy()
    set_options(cluster, node, pin_source_ip=True)
    alice = User(Metadata("alice"), UserSpec(("access",), {"logins": (ME,)}))
    new = users.NewUser(alice, "correct horse")
    cluster.reactor.wait(cluster.admin.perform(table.ADD_USER, new))
    for at in (proxy, evolve(proxy, port=cluster.port)):
        made = cluster.reactor.wait(begin_login(cluster, at, ONE, "alice", "correct horse"))
        certificate = parse_certificate(base64.b64decode(made.ssh.split()[1]))
        assert f"{ONE}/32".encode() in certificate.critical["source-address"]
    logins = cluster.wait_event("user.login", 2)
    assert {event.remote_addr.rpartition(":")[0] for event in logins} == {ONE}
