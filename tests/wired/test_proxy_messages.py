"""Auth learns a client's address from a proxy, and from no other peer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from api_world import RawClient
from api_world import World as ApiWorld
from auth_world import OTHER_ID, PROXY_ID, World
from small_cluster import SmallCluster, SmallProxy, small_cluster
from tele.auth.proxy_messages import LINES_BURST, ProxyMessages
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, ProtocolError
from tele.https.client import RemoteAuthority
from tele.interfaces import Delete, Put
from tele.membership.identity import tls_authorities
from tele.model.api import members, table, users
from tele.model.api.paging import ById
from tele.model.codec import encode
from tele.model.identity import Caller, HostRole
from tele.model.presence import Presence
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata, User
from tele.tunnel.client_address import LIMIT, PREFACE, VALID_SECONDS, sign_client_address
from tele.tunnel.messages import ClientAddress, auth_as_destination

CLIENT = ("203.0.113.9", 4321)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.stop()


class ProxyOfAuth:
    """A proxy of the cluster, and what auth makes of its messages."""

    def __init__(self, world: World) -> None:
        self.world = world
        host = world.proxy()
        joined, self.key = world.joined[PROXY_ID]
        self.certificate = parse_certificate(parse_line(joined.ssh))
        world.do(table.ANNOUNCE, Presence("gate", HostRole.PROXY), host)
        self.words = ProxyMessages(
            world.parts.authorities, world.parts.state, world.parts.hosts, "c", world.clock
        )

    def word(self, to: str = auth_as_destination("c"), late: float = 0.0) -> bytes:
        seconds = self.world.clock.seconds() - late
        return sign_client_address(ClientAddress(to, CLIENT), self.key, self.certificate, seconds)

    def taken(self, line: bytes) -> tuple[str, int] | None:
        found = self.words.read(line)
        assert found is not None
        assert found[0] == len(line), "whatever it says, it is no part of TLS"
        return found[1]


@pytest.fixture
def proxy(world: World) -> ProxyOfAuth:
    return ProxyOfAuth(world)


def test_a_message_of_a_proxy_is_accepted_once(proxy: ProxyOfAuth) -> None:
    """A replayed message does not change the address of its sender."""
    line = proxy.word()
    assert proxy.words.read(line[:-1]) is None
    assert proxy.words.read(b"\x16\x03\x01") == (0, None)
    assert proxy.taken(line) == CLIENT
    assert proxy.taken(line) is None


def test_messages_that_are_ignored(world: World, proxy: ProxyOfAuth) -> None:
    """For another cluster or a node, too old, changed, or of a key that is not the proxy's."""
    assert proxy.taken(proxy.word("auth.d")) is None
    assert proxy.taken(proxy.word(OTHER_ID)) is None
    assert proxy.taken(proxy.word(late=VALID_SECONDS + 1)) is None
    assert proxy.taken(PREFACE + b"!!!\r\n") is None
    assert proxy.taken(PREFACE + b"AAAA\r\n") is None
    proxy.key = PrivateKey.generate()
    assert proxy.taken(proxy.word()) is None


def test_a_message_of_a_node_is_ignored(world: World, proxy: ProxyOfAuth) -> None:
    """A node of the cluster is no proxy, whatever it signs."""
    node = world.join(world.token())
    proxy.key, proxy.certificate = world.ssh, parse_certificate(parse_line(node.ssh))
    assert proxy.taken(proxy.word()) is None


def test_a_proxy_that_was_removed_or_locked_is_not_believed(
    world: World, proxy: ProxyOfAuth
) -> None:
    """Its certificate is valid for a day; its messages are refused at once."""
    lock = Lock(Metadata("l"), LockSpec(LockTarget(host_id=PROXY_ID)))
    world.backend.commit(Put("/locks/l", encode(lock)))
    assert proxy.taken(proxy.word()) is None
    world.backend.commit(Delete("/locks/l"))
    assert proxy.taken(proxy.word(late=1)) == CLIENT
    world.do(table.DELETE_HOST, ById(PROXY_ID))
    assert proxy.taken(proxy.word(late=2)) is None


def test_an_incomplete_message_is_not_waited_for(proxy: ProxyOfAuth) -> None:
    """It ends within 4 KiB, or the connection does."""
    with pytest.raises(ProtocolError):
        proxy.words.read(PREFACE + b"A" * LIMIT)


def test_refused_messages_do_not_fill_the_log(
    proxy: ProxyOfAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unauthenticated clients can send anything; a few lines are logged."""
    lines: list[str] = []

    class Log:
        def warn(self, text: str, /, **fields: object) -> None:
            lines.append(text)

    monkeypatch.setattr("tele.auth.proxy_messages.log", Log())
    for _ in range(100):
        proxy.taken(PREFACE + b"AAAA\r\n")
    assert len(lines) == LINES_BURST


# -- on the wire --------------------------------------------------------------------------
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_tls_follows_the_message(step: int) -> None:
    """However the bytes arrive, the line is read and TLS begins after it."""
    line = b"WORD 203.0.113.9\n"

    def preface(data: bytes) -> tuple[int, tuple[str, int] | None] | None:
        if not data.startswith(b"W"):
            return 0, None
        return (data.index(b"\n") + 1, CLIENT) if b"\n" in data else None

    world = ApiWorld(preface=preface)
    pieces = [line[n : n + step] for n in range(0, len(line), step)]
    client = world.raw(address="192.0.2.1", before=pieces)
    assert world.request(client, "GET", "/v1/health")[0] == 200
    assert world.handler.calls[-1][2].remote_addr == "203.0.113.9:4321"
    api = world.server._api
    assert list(api._unauthenticated) == ["203.0.113.9"]
    other = world.raw(address="192.0.2.1")
    assert world.request(other, "GET", "/v1/health")[0] == 200
    assert world.handler.calls[-1][2].remote_addr == "192.0.2.1:1234"
    for each in (client, other):
        each.transport.abortConnection()
    world.wires.flush()
    assert (api._unauthenticated, api._unauthenticated_count) == ({}, 0)


def test_an_endless_message_has_the_time_of_a_handshake() -> None:
    """A client that begins a line and waits is disconnected like one that begins TLS and waits."""
    world = ApiWorld(preface=lambda _: None)
    client = RawClient()
    world.attach(client)
    client.transport.write(b"TELE")
    world.wires.pass_time(16)
    assert client.lost is not None


def begin_login(
    cluster: SmallCluster, proxy: SmallProxy, source: str, name: str, password: str
) -> Deferred[Any]:
    """Log in through the proxy, from an address of this machine."""

    def endpoint(host: str, port: int) -> IStreamClientEndpoint:
        return HostnameEndpoint(cluster.reactor, host, port, bindAddress=(source, 0))

    authority = RemoteAuthority(
        cluster.reactor, [f"127.0.0.1:{proxy.port}"], lambda: None,
        lambda: tls_authorities(proxy.member.authorities), "auth.small", endpoint=endpoint,
    )  # fmt: skip
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    done = authority.perform(table.LOGIN, users.LoginRequest(name, password, keys))

    def close(result: Any) -> Any:
        authority.close()
        return result

    return done.addBoth(close)


# -- the real thing -----------------------------------------------------------------------
@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


def test_auth_sees_clients_and_not_their_proxy(cluster: SmallCluster) -> None:
    """A client that guesses through the proxy waits alone: another client of it logs in."""
    proxy = cluster.proxy()
    user = users.NewUser(User(Metadata("alice")), "correct horse")
    cluster.reactor.wait(cluster.admin.perform(table.ADD_USER, user))

    def login(source: str, password: str) -> Any:
        return cluster.reactor.wait(begin_login(cluster, proxy, source, "alice", password))

    for _ in range(6):
        with pytest.raises(AccessDenied):
            login("127.0.0.66", "wrong password")
    with pytest.raises(AccessDenied):
        login("127.0.0.66", "correct horse")
    assert login("127.0.0.2", "correct horse").ssh
    (locked_out,) = cluster.events("user.locked_out")
    assert locked_out.fields["source"] == "127.0.0.66"
    assert {e.remote_addr.partition(":")[0] for e in cluster.events("user.login")} == {
        "127.0.0.66", "127.0.0.2",
    }  # fmt: skip


def test_a_flood_of_logins_through_the_proxy_does_not_make_others_wait(
    cluster: SmallCluster,
) -> None:
    """Thirty logins from one address wait: a client from another address is served next."""
    proxy = cluster.proxy()
    user = users.NewUser(User(Metadata("alice")), "correct horse")
    cluster.reactor.wait(cluster.admin.perform(table.ADD_USER, user))
    answered: list[object] = []
    flood = [
        begin_login(cluster, proxy, "127.0.0.66", f"user{n}", "x").addBoth(answered.append)
        for n in range(32)
    ]
    cluster.reactor.until(lambda: len(cluster.events("user.login")) > 0)
    assert cluster.reactor.wait(
        begin_login(cluster, proxy, "127.0.0.2", "alice", "correct horse")
    ).ssh
    assert len(answered) < len(flood) - 8, "in order of coming it would have been the last one"
    cluster.reactor.until(lambda: len(answered) == len(flood))
    assert {type(answer) for answer in answered} == {Failure}


def test_a_message_of_a_proxy_ties_no_address_to_a_host(world: World) -> None:
    """What a proxy says of where a host comes from is for shares and the audit: no certificate
    gets that address, which the proxy could have made up.
    """
    world.next_id = OTHER_ID
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    request = members.JoinRequest(
        world.token(), "web9", HostRole.NODE, keys, ("203.0.113.9:3022", "0.0.0.0:3022")
    )
    caller = Caller(None, "203.0.113.9:4321", proxy_addr="192.0.2.80:5555")
    certificate = parse_certificate(parse_line(world.do(table.JOIN, request, caller).ssh))
    assert "203.0.113.9" not in certificate.principals
    (event,) = world.events("node.join")
    assert event.remote_addr == "203.0.113.9:4321"


@pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])
def test_messages_are_accepted_while_auths_clock_is_set(proxy: ProxyOfAuth, hours: int) -> None:
    """Proxies send the date as it was, and then as it is; their certificates are of before. A
    message is accepted once, by whatever date.
    """
    proxy.world.clock.set_wall(hours * 3600)
    before, after = proxy.word(), proxy.word(late=-hours * 3600.0)
    assert proxy.taken(before) == CLIENT
    assert proxy.taken(after) == CLIENT
    assert proxy.taken(before) is None
    assert proxy.taken(after) is None
    assert proxy.taken(proxy.word(late=VALID_SECONDS + 1)) is None
    assert proxy.taken(proxy.word(late=-hours * 1800.0)) is None


def test_a_message_of_an_expired_certificate_is_refused(proxy: ProxyOfAuth) -> None:
    """The clock that was set back prolongs none (attack)."""
    proxy.world.clock.advance(25 * 3600)
    proxy.world.clock.set_wall(0)
    assert proxy.taken(proxy.word()) is None
