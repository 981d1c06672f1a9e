"""What one network, user or host may cost the API: permission first, and shares."""

from __future__ import annotations

from typing import Any

import pytest

from api_world import RawClient, World, error_of, host, parsed, user
from counting import calls, is_linear
from tele.errors import AccessDenied
from tele.https.channel import IN_FLIGHT
from tele.https.limits import LONGEST_WAIT, UNCHECKED_BODY, Limits
from tele.model.identity import HostRole

WHOAMI = b"GET /v1/whoami HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNK = b"PUT /v1/recordings/abc/chunks/0 HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture
def world() -> World:
    return World()


def node(world: World) -> RawClient:
    return world.raw(world.host_ca.issue(host(HostRole.NODE)))


def client_of(world: World, name: str = "alice") -> RawClient:
    return world.raw(world.user_ca.issue(user(name)))


# -- permission first ------------------------------------------------------------------
def test_a_large_body_comes_after_permission(world: World) -> None:
    """A caller that the handler refuses is answered by the head, whatever follows."""
    world.handler.denies = AccessDenied("no rule lets you", "rule")
    client = node(world)
    head = CHUNK + b"expect: 100-continue\r\ncontent-length: 8000000\r\n\r\n"
    status, headers, body = world.send(client, head)
    assert (status, headers["connection"]) == (403, "close")
    assert error_of(body) == {"kind": "denied", "message": "no rule lets you", "reason": "rule"}
    assert world.handler.checked == ["put_chunk"]
    assert world.handler.calls == []


def test_nothing_is_decoded_before_permission(world: World) -> None:
    """A small body that is no JSON gets the same refusal as a good one: it is not read."""
    world.handler.denies = AccessDenied("no rule lets you", "rule")
    client = client_of(world)
    for body in (b'{"a": 1, "a": 2}', b"[[[[", b'{"user": 1}'):
        status, _, answer = world.request(client, "POST", "/v1/users", body)
        assert (status, error_of(answer)["kind"]) == (403, "denied")
    assert world.handler.checked == [], "one check is enough: the one before decoding"


def test_requests_are_bounded_while_permission_is_checked(world: World) -> None:
    """A sender that does not wait for the answer is not read from, and its body arrives whole."""
    world.handler.slow_checks = []
    client = node(world)
    data = b"z" * (UNCHECKED_BODY + 1)
    status, _, _ = world.send(client, CHUNK + b"content-length: %d\r\n\r\n" % len(data) + data)
    assert status == 0
    assert world.handler.calls == []
    world.handler.slow_checks[0].callback(None)
    world.wires.flush()
    assert parsed(client.received)[0] == 200
    assert world.handler.calls[0][1].data == data
    assert world.request(client, "GET", "/v1/health")[0] == 200, "the connection stays open"


def test_permission_that_is_refused_late_ends_it(world: World) -> None:
    """A refusal that took its time is an answer, too, and the body before it is thrown away."""
    world.handler.slow_checks = []
    client = node(world)
    head = CHUNK + b"content-length: 8000000\r\n\r\n"
    world.send(client, head + b"z" * 100_000)
    world.handler.slow_checks[0].errback(AccessDenied("removed", "removed"))
    world.wires.flush()
    status, headers, body = parsed(client.received)
    assert (status, headers["connection"]) == (403, "close")
    assert error_of(body)["reason"] == "removed"
    assert world.handler.calls == []


def test_a_sender_that_leaves_while_permission_is_checked(world: World) -> None:
    """Nothing is sent then, and nothing is left behind."""
    world.handler.slow_checks = []
    client = node(world)
    world.send(client, CHUNK + b"content-length: 8000000\r\n\r\n")
    client.transport.abortConnection()
    world.wires.flush()
    world.handler.slow_checks[0].callback(None)
    world.wires.flush()
    assert world.handler.calls == []
    assert world.server._admission._bodies.held == 0


def test_a_check_that_hangs_has_the_time_of_the_operation(world: World) -> None:
    """The deadline of a body runs from its head, also while permission is checked."""
    world.handler.slow_checks = []
    client = node(world)
    world.send(client, CHUNK + b"content-length: 8000000\r\n\r\n")
    world.wires.pass_time(121)
    assert client.lost is not None


def test_a_refused_sender_that_continues_is_cut_off(world: World) -> None:
    """A client has five seconds to close after its last response."""
    client = world.raw()
    world.send(client, b"POST /v1/login HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n")
    world.wires.pass_time(6)
    assert client.lost is not None


def test_a_reader_that_closes_has_time_to_read(world: World) -> None:
    """An answer that ends the connection may take as long to be read as any other."""
    client = client_of(world)
    channel: Any = next(iter(world.server._api._all))
    world.request(client, "GET", "/v1/recordings/abc/chunks/9", headers="connection: close\r\n")
    assert parsed(client.received)[0] == 200
    assert client.lost is not None
    assert channel._deadline is None

    slow = client_of(world)
    channel = next(iter(world.server._api._all))
    channel.loseConnection = lambda: None  # the transport has more to send first
    world.request(slow, "GET", "/v1/recordings/abc/chunks/9", headers="connection: close\r\n")
    world.wires.pass_time(70)
    assert slow.lost is None
    world.wires.pass_time(6)
    assert slow.lost is not None


# -- shares -------------------------------------------------------------------------------
def test_one_unauthenticated_network_does_not_crowd_out_another() -> None:
    """Of too many connections, the oldest of the network with the most of them ends."""
    world = World(Limits(unauthenticated=4))
    alone = world.raw(address="192.0.2.1")
    flood = [world.raw(address="198.51.100.66") for _ in range(10)]
    assert alone.lost is None
    assert [client.lost is None for client in flood] == [False] * 7 + [True] * 3
    assert world.request(alone, "GET", "/v1/health")[0] == 200


def test_one_network_shakes_hands_so_often() -> None:
    """Signatures for unauthenticated clients of one network have a rate; members do not count,
    and other networks are not affected.
    """
    world = World(Limits(handshakes_burst=3, handshakes_per_second=1))
    flood = [world.raw(address="198.51.100.66") for _ in range(5)]
    assert [client.lost is None for client in flood] == [True] * 3 + [False] * 2
    assert world.raw(address="192.0.2.1").lost is None
    world.wires.pass_time(3)
    identity = world.user_ca.issue(user())
    for _ in range(10):
        member = world.raw(identity, address="198.51.100.66")
        assert world.request(member, "GET", "/v1/whoami")[0] == 200
    more = [world.raw(address="198.51.100.66") for _ in range(35)]
    assert [client.lost is None for client in more].count(True) == 30, "a fleet may be there"


def test_one_member_has_so_many_connections() -> None:
    """One more is refused and closed; another user's, and the first ones, stay open."""
    world = World(Limits(connections_per_caller=3))
    clients = [client_of(world) for _ in range(3)]
    for client in clients:
        assert world.request(client, "GET", "/v1/whoami")[0] == 200
    status, headers, body = world.request(client_of(world), "GET", "/v1/whoami")
    assert (status, headers["connection"]) == (503, "close")
    assert "user alice has 3 connections" in error_of(body)["message"]
    assert world.request(client_of(world, "bob"), "GET", "/v1/whoami")[0] == 200
    clients[0].transport.loseConnection()
    world.wires.flush()
    assert world.request(client_of(world), "GET", "/v1/whoami")[0] == 200


def test_a_busy_member_does_not_slow_the_others() -> None:
    """A member that asks too fast waits, then is refused; another one's request is served."""
    world = World(Limits(units_burst=5, units_per_second=1))
    client = client_of(world)
    answers = []
    for _ in range(15):
        world.request(client, "GET", "/v1/whoami")
        world.wires.pass_time(0)
        answers.append(parsed(client.received)[0])
        if answers[-1] == 0:
            world.wires.pass_time(LONGEST_WAIT)
            answers[-1] = parsed(client.received)[0]
    assert set(answers) == {200}, "one after the other it is only slower"
    flood = [client_of(world) for _ in range(12)]
    for each in flood:
        world.send(each, WHOAMI)
    assert [parsed(each.received)[0] for each in flood].count(503) >= 6
    assert world.request(client_of(world, "bob"), "GET", "/v1/whoami")[0] == 200
    world.wires.pass_time(LONGEST_WAIT)
    assert {parsed(each.received)[0] for each in flood} == {200, 503}


def test_what_has_to_be_decoded_costs_by_its_length() -> None:
    """A megabyte of JSON takes more of its sender's share than a few bytes."""
    world = World(Limits(units_burst=40, units_per_second=1))
    client = node(world)
    body = b'{"events": []}'
    assert world.request(client, "POST", "/v1/events", body + b" " * 1_000_000)[0] == 200
    assert world.request(client, "GET", "/v1/health")[0] == 200
    world.request(client, "POST", "/v1/events", body)
    assert parsed(client.received)[0] == 503


def test_one_unauthenticated_network_has_a_rate() -> None:
    """Over its rate a network is refused for now; members from there and other networks not."""
    world = World(Limits(unauthenticated_units_burst=3, unauthenticated_units_per_second=1))
    flood = world.raw(address="198.51.100.66")
    statuses = [world.request(flood, "GET", "/v1/health")[0] for _ in range(5)]
    assert statuses == [200] * 3 + [503] * 2
    assert world.request(flood, "GET", "/v1/nothing")[0] == 503, "what does not exist counts, too"
    assert world.request(world.raw(address="192.0.2.1"), "GET", "/v1/health")[0] == 200
    member = world.raw(world.user_ca.issue(user()), address="198.51.100.66")
    assert world.request(member, "GET", "/v1/whoami")[0] == 200
    world.wires.pass_time(1)
    assert world.request(flood, "GET", "/v1/health")[0] == 200


def test_one_member_sends_so_much_at_once() -> None:
    """Bodies of one machine have a bound together; what was sent is given back."""
    world = World(Limits(bodies_per_caller=1_000_000))
    first, second = node(world), node(world)
    head = CHUNK + b"content-length: 600000\r\n\r\n"
    assert world.send(first, head)[0] == 0
    assert world.send(second, head)[0] == 503
    assert world.send(first, b"z" * 600_000)[0] == 200
    assert world.send(node(world), head, b"z" * 600_000)[0] == 200
    assert world.server._admission._bodies.held == 0


def test_one_member_reads_so_many_streams() -> None:
    """With one too many the oldest ends, and says why; the others go on."""
    world = World(Limits(streams_per_caller=2))
    watchers = [node(world) for _ in range(3)]
    for client in watchers:
        world.send(client, b"GET /v1/state HTTP/1.1\r\nhost: a\r\n\r\n")
    assert b"too many streams" in watchers[0].received
    assert len(world.handler.cancelled) == 1
    assert b"too many" not in watchers[1].received + watchers[2].received


def test_streams_of_slow_readers_have_a_bound_together() -> None:
    """When all streams behind have too much together, the next that is sent more is cut off."""
    world = World(Limits(backlogs=1000))
    client = node(world)
    world.send(client, b"GET /v1/state HTTP/1.1\r\nhost: a\r\n\r\n")
    assert world.server._backlogs.take("others", 1000)
    (stream,) = (s for streams in world.server._streams.values() for s in streams)
    stream.pauseProducing()
    stream.send({"revision": 2})
    world.wires.flush()
    assert client.lost is not None
    assert world.server._backlogs.held == 1000
    assert world.server._streams == {}


def test_a_client_that_does_not_read_answers_gets_no_more(world: World) -> None:
    """Answers that wait for their reader count in the reader's share until they are read."""
    world = World(Limits(answers_per_caller=1000))
    slow = client_of(world)
    channel: Any = next(iter(world.server._api._all))
    assert world.request(slow, "GET", "/v1/whoami")[0] == 200
    channel.pauseProducing()  # the transport has more than the network takes
    world.request(slow, "GET", "/v1/recordings/abc/chunks/900")
    status, _, body = world.request(client_of(world), "GET", "/v1/whoami")
    assert (status, "does not read" in error_of(body)["message"]) == (503, True)
    channel.resumeProducing()
    assert world.request(client_of(world), "GET", "/v1/whoami")[0] == 200


def test_what_is_sent_before_the_answer_is_bounded(world: World) -> None:
    """A peer that sends on and on while its request is handled is stopped, also if it reads
    nothing, and counting what it sent costs the same for each byte.
    """
    client = client_of(world)
    world.request(client, "GET", "/v1/tokens")
    channel: Any = next(iter(world.server._api._all))
    channel._waitingForTransport = True

    def work(size: int) -> int:
        channel._ahead, channel._dataBuffer = 0, []
        return calls(lambda: [channel.rawDataReceived(b"x") for _ in range(size)])

    assert is_linear(work)
    channel._ahead, channel._dataBuffer = 0, []
    for _ in range(2 + (IN_FLIGHT + 16 * 1024) // 4096):
        channel.rawDataReceived(b"x" * 4096)
    world.wires.flush()
    assert client.lost is not None


def test_headers_that_go_on_are_refused(world: World) -> None:
    """Folded header lines do not circumvent the limit of headers."""
    client = world.raw()
    head = b"GET /v1/health HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n"
    assert world.send(client, head)[0] == 400
    assert client.lost is not None


def test_what_one_left_behind_is_forgotten(world: World) -> None:
    """After all clients have disconnected no share is held."""
    clients = [client_of(world), node(world), world.raw()]
    for client in clients[:2]:
        world.request(client, "GET", "/v1/health")
    for client in clients:
        client.transport.abortConnection()
    world.wires.flush()
    api = world.server._api
    assert (len(api._members), api._unauthenticated, api._unauthenticated_count) == (0, {}, 0)
    assert (api.unread.held, world.server._admission._bodies.held, world.server._streams) == (
        0,
        0,
        {},
    )
