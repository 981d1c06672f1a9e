"""Attempts to reach a node: one after another, within a time limit, none for a client that left."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.conch.error import ConchError
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from tele.conch.connection.relay import StreamEnd
from tele.errors import AccessDenied, InvalidInput, Unreachable
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import Host, Mode, Status
from tele.proxy.jump_session import read_target
from tele.routing import dialer as dialer_module
from tele.routing.dialer import ATTEMPT_SECONDS, NodeDialer
from tele.tunnel.acceptor import (
    CONNECTIONS_LIMIT,
    STREAMS_BURST,
    STREAMS_PER_SECOND,
    AgentAvatar,
    Tunnels,
)
from tele.tunnel.messages import ClientAddress
from tele.tunnel.relayed_channels import OPEN_SECONDS, open_client_splice
from tele.tunnel.versions import advice

HOST = Host(
    id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a111",
    name="web1",
    role=HostRole.NODE,
    addresses=tuple(f"192.0.2.{number}:3022" for number in range(1, 33)),
    labels={},
    mode=Mode.DIRECT,
    status=Status.ONLINE,
    last_seen=datetime(2026, 11, 24, 12, tzinfo=UTC),
)
SIGNED = b"TELE-CLIENT x\r\n"


class Transport(StringTransport):
    """Knows whether it was aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


@define
class Dialled:
    """An endpoint; ``answers`` is the result of an attempt."""

    address: str
    answers: str
    cancelled: bool = False
    transport: Transport = field(factory=Transport)
    protocol: Any = None

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.answers == "refused":
            return fail(ConnectError())
        if self.answers == "nothing":
            return Deferred(self._cancel)
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)

    def _cancel(self, _: object) -> None:
        self.cancelled = True


class World:
    """The dialer of a proxy without tunnels, and what it dials."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.answers = "nothing"
        self.dialled: list[Dialled] = []

        def dial(host_id: str, address: str) -> Any:
            self.dialled.append(Dialled(address, self.answers))
            return self.dialled[-1]

        tunnels = Tunnels(self.clock, lambda old, new: None)
        peers: Any = None
        self.dialer = NodeDialer(self.clock, tunnels, peers, lambda: (), lambda _: SIGNED, dial)

    def connect(self, host: Host = HOST) -> tuple[Deferred[StreamEnd], list[Any]]:
        ended: list[Any] = []
        connecting = self.dialer.connect(host, ("192.0.2.99", 40000))
        connecting.addBoth(ended.append)
        return connecting, ended


def test_all_attempts_have_one_time_limit() -> None:
    """A node with many dead addresses does not delay a client, or us, for longer (attack)."""
    world = World()
    _, ended = world.connect()
    for _ in range(int(OPEN_SECONDS)):
        world.clock.advance(1)
    assert ended[0].check(Unreachable)
    assert "did not answer within 10 s" in str(ended[0].value)
    assert len(world.dialled) == OPEN_SECONDS // ATTEMPT_SECONDS + 1
    world.clock.advance(120)
    assert len(world.dialled) == OPEN_SECONDS // ATTEMPT_SECONDS + 1
    assert all(dialled.cancelled for dialled in world.dialled)
    assert not world.clock.getDelayedCalls()


def test_a_client_that_disconnects_ends_the_attempts() -> None:
    """The attempt ends, no other one follows it, and no address is blamed for it (attack)."""
    world = World()
    connecting, ended = world.connect()
    connecting.cancel()
    assert ended[0].check(CancelledError)
    assert [dialled.cancelled for dialled in world.dialled] == [True]
    assert not world.clock.getDelayedCalls()
    assert not world.dialer._avoided


def test_a_dead_address_is_tried_last() -> None:
    """One that did not answer lately does not delay the next client again."""
    world = World()
    host = evolve(HOST, addresses=HOST.addresses[:2])
    world.connect(host)
    world.clock.advance(ATTEMPT_SECONDS)
    world.connect(host)
    assert [dialled.address[:9] for dialled in world.dialled] == [
        "192.0.2.1", "192.0.2.2", "192.0.2.2",
    ]  # fmt: skip


def test_an_address_is_avoided_for_its_announcer_only() -> None:
    """A node that announces another's address, and fails there, does not hide it (attack)."""
    world = World()
    victim = evolve(HOST, id="victim", addresses=HOST.addresses[:2])
    liar = evolve(HOST, id="liar", addresses=HOST.addresses[:2])
    for answers in ("refused", "connected", "nothing"):
        world.answers = answers
        world.connect(liar)
        if answers == "connected":
            world.dialled[-1].protocol.connectionLost()
        world.clock.advance(ATTEMPT_SECONDS)
    world.answers = "connected"
    world.connect(victim)
    assert world.dialled[-1].address == victim.addresses[0]


def test_what_is_remembered_of_a_node_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever addresses a node announces one after the other, its own are remembered (attack)."""
    monkeypatch.setattr(dialer_module, "AVOID_LIMIT", 3)
    world = World()
    world.answers = "refused"
    for number in range(20):
        world.connect(evolve(HOST, id="liar", addresses=(f"192.0.2.{number}:1",)))
    assert [len(each) for each in world.dialer._avoided.values()] == [1]
    for number in range(5):
        world.connect(evolve(HOST, id=f"n{number}", addresses=HOST.addresses[:1]))
    assert list(world.dialer._avoided) == ["n2", "n3", "n4"]


def test_only_an_ssh_server_gets_clients() -> None:
    """A node that announces another service's address gives no access to it (attack)."""
    world = World()
    world.answers = "connected"
    host = evolve(HOST, addresses=HOST.addresses[:1])
    for data in (b"HTTP/1.1 400 Bad Request\r\n", b"+OK\r\n", b"S", b""):
        _, ended = world.connect(host)
        dialled = world.dialled[-1]
        dialled.protocol.dataReceived(data)
        if data in (b"S", b""):
            world.clock.advance(OPEN_SECONDS)
        assert ended[0].check(Unreachable)
        assert dialled.transport.value() == SIGNED
        assert dialled.transport.aborted


def test_the_version_of_an_ssh_server_reaches_the_client() -> None:
    """However its first bytes are cut into pieces, none of them is lost."""
    world = World()
    world.answers = "connected"
    _, ended = world.connect()
    made = world.dialled[0]
    made.transport.protocol = made.protocol  # type: ignore[attr-defined]
    for piece in (b"SS", b"H-2.0-x\r\n"):
        assert not ended
        made.protocol.dataReceived(piece)
    assert ended[0]._early == [b"SSH-2.0-x\r\n"]


def test_a_node_of_another_version_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it closes connections before a login; a client that leaves is no sign of that."""
    world = World()
    world.answers = "connected"
    monkeypatch.setattr(dialer_module, "advice", partial(advice, version="0.3.0"))

    def end(
        version: str, client_first: bool = False, answer: bytes = b"", sent: int = 1500
    ) -> list[Any]:
        with capturedLogs() as logs:
            _, ended = world.connect()
            made = world.dialled[-1].protocol
            made.dataReceived(f"SSH-2.0-OpenSSH_tele_{version}\r\n".encode() + bytes(900))
            stream = ended[0]
            stream.dataReceived(answer)
            stream.send(memoryview(bytes(sent)))
            if client_first:
                stream.end_writes()
            stream.connectionLost()
        return [(each["node"], each["error"]) for each in logs if "node" in each]

    assert end("0.2.0", client_first=True, sent=0) == []
    assert end("0.2.0", answer=bytes(5000)) == []
    assert end("0.3.0") == []
    ((node, error),) = end("0.2.0")
    assert (node, error.partition("; ")[2]) == ("web1", "upgrade the node")
    assert end("0.2.0") == []
    ((_, error),) = end("0.4.0", client_first=True)
    assert error.endswith("upgrade this proxy")


def test_a_node_that_is_removed_while_it_is_dialled_gets_no_client() -> None:
    """A node that answers late enough to be removed meanwhile is not reached any more (attack)."""
    world = World()
    world.answers = "connected"
    host = evolve(HOST, addresses=HOST.addresses[:1])
    _, ended = world.connect(host)
    world.dialer.end_host(host.id)
    world.dialled[0].protocol.dataReceived(b"SSH-2.0-x\r\n")
    assert ended[0].check(Unreachable)
    assert "was removed" in str(ended[0].value)
    assert world.dialled[0].transport.aborted
    assert not world.clock.getDelayedCalls()
    _, ended = world.connect(host)  # another one joined with its id
    world.dialled[1].protocol.dataReceived(b"SSH-2.0-x\r\n")
    assert isinstance(ended[0], StreamEnd)


def test_a_server_that_closes_is_no_route() -> None:
    """The next address is tried at once."""
    world = World()
    world.answers = "connected"
    world.connect()
    world.dialled[0].protocol.connectionLost()
    assert len(world.dialled) == 2


def test_a_node_that_answers_nothing_has_a_limit() -> None:
    """Channels that a hostile node never answers do not pile up at the proxy (attack)."""

    class Full:
        channels = dict.fromkeys(range(8))
        channels_limit = 8

    full: Any = Full()
    ended: list[Any] = []
    open_client_splice(full, ClientAddress(HOST.id, ("h", 1)), "web1").addErrback(ended.append)
    assert "too many channels" in str(ended[0].value)


@pytest.mark.parametrize("port", ["9" * 5000, "123456", "²", "-1", ""])
def test_a_port_that_python_would_stumble_over(port: str) -> None:
    """It is refused as any other mistake, without a line in our log (attack)."""
    with pytest.raises(InvalidInput):
        read_target(f"proxy:web1:{port}".encode())


def test_streams_of_a_node_are_counted_over_its_connections() -> None:
    """A node has so many streams to auth, however many connections it makes (attack)."""
    tunnels = Tunnels(Clock(), lambda old, new: None)
    node = HostIdentity("n-1", "web1", "example", HostRole.NODE, HOST.last_seen)
    other = HostIdentity("n-2", "web2", "example", HostRole.NODE, HOST.last_seen)
    endpoint: Any = Dialled("auth", "nothing")
    avatars = [AgentAvatar(node, ("192.0.2.1", n), tunnels, lambda: endpoint) for n in range(4)]
    opened = [avatar._open_auth(0, 0, b"", avatar) for avatar in avatars[:2] for _ in range(32)]
    for avatar in avatars:
        with pytest.raises(ConchError, match="too many streams"):
            avatar._open_auth(0, 0, b"", avatar)
    theirs = AgentAvatar(other, ("192.0.2.2", 1), tunnels, lambda: endpoint)
    theirs._open_auth(0, 0, b"", theirs).addErrback(lambda _: None)
    opened[0].addErrback(lambda _: None)
    opened[0].cancel()
    avatars[0]._open_auth(0, 0, b"", avatars[0]).addErrback(lambda _: None)
    with pytest.raises(ConchError):
        avatars[3]._open_auth(0, 0, b"", avatars[3])


def test_streams_of_a_node_have_a_rate() -> None:
    """A node that begins streams to auth all the time uses up no other node's share (attack)."""
    clock = Clock()
    tunnels = Tunnels(clock, lambda old, new: None)
    node = HostIdentity("n-1", "web1", "example", HostRole.NODE, HOST.last_seen)
    other = HostIdentity("n-2", "web2", "example", HostRole.NODE, HOST.last_seen)
    endpoint: Any = Dialled("auth", "refused")

    def begin(host: HostIdentity) -> None:
        avatar = AgentAvatar(host, ("192.0.2.1", 1), tunnels, lambda: endpoint)
        avatar._open_auth(0, 0, b"", avatar).addErrback(lambda f: f.trap(ConnectError))
        avatar.logout()

    for _ in range(STREAMS_BURST):
        begin(node)
    with pytest.raises(ConchError, match="too many streams"):
        begin(node)
    begin(other)
    clock.advance(1)
    for _ in range(STREAMS_PER_SECOND):
        begin(node)
    with pytest.raises(ConchError, match="too many streams"):
        begin(node)


def test_connections_of_a_node_are_counted() -> None:
    """So many and no more; those that are gone do not count, nor does their address."""
    tunnels = Tunnels(Clock(), lambda old, new: None)
    node = HostIdentity("n-1", "web1", "example", HostRole.NODE, HOST.last_seen)
    for _ in range(CONNECTIONS_LIMIT):
        tunnels.add_connection(node, "192.0.2.1")
    with pytest.raises(AccessDenied, match="already"):
        tunnels.add_connection(node, "192.0.2.1")
    assert tunnels.has_nodes_at("192.0.2.1")
    for _ in range(CONNECTIONS_LIMIT):
        tunnels.remove_connection(node, "192.0.2.1")
    assert not tunnels.has_nodes_at("192.0.2.1")
    tunnels.add_connection(node, "192.0.2.1")
