"""The reactor's client against the real server, on in-memory wires."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint

from api_world import SERVER_NAME, Ca, MemoryEndpoint, RawClient, World, host, state, user
from tele.errors import AccessDenied, InvalidInput, NotFound, NotLoggedIn, TeleError, Unreachable
from tele.https.client import RemoteAuthority, fetch_cluster
from tele.https.identity import TlsIdentity
from tele.https.limits import Limits
from tele.https.pinning import UnverifiedCluster
from tele.model.api import table
from tele.model.api.audit import FollowEvents
from tele.model.api.hosts import ListHosts, WatchHosts
from tele.model.api.members import WatchState
from tele.model.api.operation import Nothing
from tele.model.api.paging import ByName, Paged
from tele.model.api.recordings import GetChunk, PutChunk
from tele.model.api.users import NewUser
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import Metadata, User


class Clients:
    """Makes clients of a world and waits for their answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.refused: set[str] = set()
        self.silent: set[str] = set()
        self.connected: list[str] = []
        self.identity: TlsIdentity | None = None
        self.clients: list[RemoteAuthority] = []

    def endpoint(self, name: str, port: int) -> IStreamClientEndpoint:
        self.connected.append(name)
        if name in self.silent:
            return Silent(self.world)
        return MemoryEndpoint(self.world, Refused("no") if name in self.refused else None)

    def make(
        self, *addresses: str, trust: str | None = None, server_name: str = SERVER_NAME
    ) -> RemoteAuthority:
        client = RemoteAuthority(
            self.world.clock,
            addresses or ("one:1",),
            lambda: self.identity,
            lambda: [trust or self.world.host_ca.certificate],
            server_name,
            endpoint=self.endpoint,
        )
        self.clients.append(client)
        return client

    def ask(self, deferred: Deferred[Any], seconds: float = 0) -> Any:
        """Return the result, or raise the failure, after letting everything happen."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.world.wires.flush()
        self.world.wires.pass_time(seconds)
        assert results, "no answer"
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]


class Silent(MemoryEndpoint):
    """Connects to a server that never sends anything."""

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        client = protocolFactory.buildProtocol(None)
        self.world.wires.join(RawClient(), client)
        answer: Deferred[Any] = Deferred()
        answer.callback(client)
        return answer


@pytest.fixture
def world() -> World:
    return World(Limits(keepalive=timedelta(seconds=15)))


@pytest.fixture
def clients(world: World) -> Iterator[Clients]:
    made = Clients(world)
    yield made
    for client in made.clients:
        client.close()
    world.wires.flush()
    Deferred.fromCoroutine(world.server.close())
    world.wires.flush()
    world.clock.advance(0)
    assert [c for c in world.clock.getDelayedCalls() if c.active()] == []


def test_requests_of_every_shape(clients: Clients) -> None:
    """Path, query, JSON body, octets up and octets down arrive as they were."""
    calls = clients.world.handler.calls
    clients.identity = clients.world.user_ca.issue(user())
    remote = clients.make()
    request = ListHosts(HostRole.PROXY, ("a=b c", "d=&e"), 5, "x y")
    assert clients.ask(remote.perform(table.LIST_HOSTS, request)).next == "5"
    new = NewUser(User(Metadata("bob")), "pass word")
    assert clients.ask(remote.perform(table.ADD_USER, new)).password == "pass word"
    chunk = clients.ask(remote.perform(table.GET_CHUNK, GetChunk("abc", 70_000)))
    assert chunk.data == b"\x00\xff" * 70_000
    clients.identity = clients.world.host_ca.issue(host(HostRole.NODE))
    put = PutChunk("abc", 3, bytes(range(256)) * 1000)
    clients.ask(remote.perform(table.PUT_CHUNK, put))
    presence = Presence("web1", HostRole.NODE, ("h:1",), {"a": "b"})
    assert clients.ask(remote.perform(table.ANNOUNCE, presence)).rotation == "now"
    assert [c[1] for c in calls] == [request, new, GetChunk("abc", 70_000), put, presence]


def test_one_connection_carries_many_requests(clients: Clients) -> None:
    """Connections are kept and used again, and closed by us when idle."""
    remote = clients.make()
    for _ in range(5):
        clients.ask(remote.perform(table.HEALTH, Nothing()))
    assert clients.connected == ["one"]
    clients.world.wires.pass_time(50)
    clients.ask(remote.perform(table.HEALTH, Nothing()))
    assert clients.connected == ["one", "one"]


def test_a_new_identity_gets_a_new_connection(clients: Clients) -> None:
    """After a renewal nothing is sent under the old certificate."""
    remote = clients.make()
    with pytest.raises(NotLoggedIn):
        clients.ask(remote.perform(table.WHOAMI, Nothing()))
    clients.identity = clients.world.user_ca.issue(user("alice"))
    assert clients.ask(remote.perform(table.WHOAMI, Nothing())).user == "alice"
    clients.identity = clients.world.user_ca.issue(user("bob"))
    assert clients.ask(remote.perform(table.WHOAMI, Nothing())).user == "bob"


def test_errors_come_back_as_they_were(clients: Clients) -> None:
    """Kind, text and reason survive; a mistake inside auth is not ours."""
    clients.identity = clients.world.user_ca.issue(user())
    remote = clients.make()
    with pytest.raises(NotFound, match="there is no user 'bob'"):
        clients.ask(remote.perform(table.GET_USER, ByName("bob")))
    with pytest.raises(AccessDenied, match="no rule") as caught:
        clients.ask(remote.perform(table.LIST_USERS, Paged()))
    assert caught.value.reason == "rule"
    with pytest.raises(TeleError, match="incident"):
        clients.ask(remote.perform(table.LIST_ROLES, Paged()))


def test_the_next_address_answers(clients: Clients) -> None:
    """An address that refuses is skipped, and the one that answered is tried first then."""
    clients.refused = {"one", "two"}
    remote = clients.make("one:1", "two:2", "three:3")
    clients.ask(remote.perform(table.HEALTH, Nothing()))
    assert clients.connected == ["one", "two", "three"]
    clients.world.wires.pass_time(60)
    clients.ask(remote.perform(table.HEALTH, Nothing()))
    assert clients.connected[3:] == ["three"]


def test_no_address_answers(clients: Clients) -> None:
    """The error names the address and what is wrong."""
    clients.refused = {"one"}
    with pytest.raises(Unreachable, match="one:1 did not answer"):
        clients.ask(clients.make().perform(table.HEALTH, Nothing()))


def test_an_idempotent_call_survives_a_dead_kept_connection(clients: Clients) -> None:
    """A server that restarted unnoticed costs one more connection, no error."""
    remote = clients.make()
    clients.ask(remote.perform(table.HEALTH, Nothing()))
    clients.world.server._api.close_all()
    asked = remote.perform(table.HEALTH, Nothing())
    assert clients.ask(asked).status == "ok"
    assert clients.connected == ["one", "one"]


def test_what_may_have_been_done_is_not_done_again(clients: Clients) -> None:
    """A POST whose connection breaks before the answer fails instead of being repeated."""
    clients.identity = clients.world.user_ca.issue(user())
    remote = clients.make("one:1", "two:2")
    new = NewUser(User(Metadata("bob")))
    clients.silent = {"one"}
    with pytest.raises(Unreachable, match="in time"):
        clients.ask(remote.perform(table.ADD_USER, new), 35)
    assert clients.connected == ["one"]


def test_a_silent_address_is_given_up(clients: Clients) -> None:
    """A GET is sent to the next address after its time."""
    clients.silent = {"one"}
    remote = clients.make("one:1", "two:2")
    assert clients.ask(remote.perform(table.HEALTH, Nothing()), 35).status == "ok"
    assert clients.connected == ["one", "two"]


def test_a_server_of_another_ca_or_name_is_refused(clients: Clients) -> None:
    """Nothing is sent to who cannot prove to be auth of this cluster."""
    rogue = Ca.make(AuthorityKind.HOST)
    with pytest.raises(AccessDenied, match="not the auth server"):
        clients.ask(clients.make(trust=rogue.certificate).perform(table.HEALTH, Nothing()))
    with pytest.raises(Unreachable, match="not the auth server"):
        clients.ask(clients.make(server_name="auth.other").perform(table.HEALTH, Nothing()))
    clients.world.auth = clients.world.host_ca.issue(host(HostRole.NODE))
    with pytest.raises(Unreachable, match="not the auth server"):
        clients.ask(clients.make().perform(table.HEALTH, Nothing()))
    assert clients.world.handler.calls == []


def test_our_certificate_is_not_accepted(clients: Clients) -> None:
    """The error says to log in."""
    clients.identity = Ca.make(AuthorityKind.USER).issue(user())
    with pytest.raises(NotLoggedIn, match="log in again"):
        clients.ask(clients.make().perform(table.WHOAMI, Nothing()))


def test_what_is_too_large_is_not_sent(clients: Clients) -> None:
    """The limit of an operation is kept on this side too."""
    clients.identity = clients.world.host_ca.issue(host(HostRole.NODE))
    with pytest.raises(InvalidInput, match="over the limit"):
        clients.ask(clients.make().perform(table.PUT_CHUNK, PutChunk("a", 0, bytes(9_000_000))))
    assert clients.connected == []


def test_a_cancelled_call_ends_its_connection(clients: Clients) -> None:
    """Nothing is left open by a caller that lost interest."""
    clients.identity = clients.world.user_ca.issue(user())
    asked = clients.make().perform(table.LIST_TOKENS, Paged())
    clients.world.wires.flush()
    asked.addErrback(lambda _: None)
    asked.cancel()
    clients.world.wires.flush()
    assert clients.world.server._api._all == set()


# -- streams --------------------------------------------------------------------------
def follow(clients: Clients) -> tuple[list[Any], Deferred[None], list[Any]]:
    clients.identity = clients.world.host_ca.issue(host(HostRole.NODE))
    values: list[Any] = []
    ended: list[Any] = []
    following = clients.make().follow(table.WATCH_STATE, WatchState(), values.append)
    following.addBoth(ended.append)
    clients.world.wires.flush()
    return values, following, ended


def test_values_arrive_as_they_come(clients: Clients) -> None:
    """The present one at once, then each change, until the server ends it."""
    values, _, ended = follow(clients)
    assert [v.revision for v in values] == [1]
    for revision in (2, 3):
        clients.world.handler.receivers[0](state(revision))
    clients.world.wires.flush()
    assert [v.revision for v in values] == [1, 2, 3]
    clients.world.handler.followed[0].callback(None)
    clients.world.wires.flush()
    assert ended == [None]


def test_keepalives_keep_a_quiet_stream(clients: Clients) -> None:
    """Minutes without a value are no reason to end."""
    values, _, ended = follow(clients)
    clients.world.wires.pass_time(200)
    clients.world.handler.receivers[0](state(2))
    clients.world.wires.flush()
    assert len(values) == 2
    assert ended == []


def test_a_stream_from_a_dead_server_fails(clients: Clients) -> None:
    """After 45 seconds without even a keepalive."""
    _, _, ended = follow(clients)
    clients.world.server._ticker.stop()
    clients.world.wires.pass_time(44)
    assert ended == []
    clients.world.wires.pass_time(2)
    assert isinstance(ended[0].value, Unreachable)


def test_a_stream_that_breaks_fails(clients: Clients) -> None:
    """The end of a connection is not the end of the stream."""
    _, _, ended = follow(clients)
    clients.world.server._api.close_all()
    clients.world.wires.flush()
    assert isinstance(ended[0].value, Unreachable)


def test_cancelling_ends_both_sides(clients: Clients) -> None:
    """The handler's Deferred is cancelled when the follower goes, and nothing is sent then."""
    _, following, ended = follow(clients)
    following.cancel()
    clients.world.wires.flush()
    assert clients.world.handler.cancelled == ["watch_state"]
    assert len(ended) == 1
    clients.world.handler.receivers[0](state(9))


def test_a_refused_stream_is_an_error_with_a_status(clients: Clients) -> None:
    """Before the first value an error is an answer like any other."""
    clients.identity = clients.world.user_ca.issue(user())
    with pytest.raises(AccessDenied, match="no rule"):
        clients.ask(clients.make().follow(table.FOLLOW_EVENTS, FollowEvents(), print))
    with pytest.raises(AccessDenied, match="not for user alice"):
        clients.ask(clients.make().follow(table.WATCH_HOSTS, WatchHosts(), print))


def test_an_error_in_the_middle_reaches_the_follower(clients: Clients) -> None:
    """The last line says why."""
    _, _, ended = follow(clients)
    clients.world.handler.followed[0].errback(NotFound("it is gone"))
    clients.world.wires.flush()
    assert isinstance(ended[0].value, NotFound)


def test_a_stream_ends_with_the_certificate(clients: Clients) -> None:
    """No stream lasts longer than the certificate of its reader."""
    clients.identity = clients.world.host_ca.issue(host(HostRole.NODE, timedelta(seconds=60)))
    ended: list[Any] = []
    following = clients.make().follow(table.WATCH_STATE, WatchState(), lambda _: None)
    following.addBoth(ended.append)
    clients.world.wires.flush()
    clients.world.wires.pass_time(80)
    assert isinstance(ended[0].value, NotLoggedIn)
    assert clients.world.handler.cancelled == ["watch_state"]


def test_a_receiver_that_fails_ends_the_stream(clients: Clients) -> None:
    """Its own exception comes out."""
    clients.identity = clients.world.host_ca.issue(host(HostRole.NODE))

    def receive(_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        clients.ask(clients.make().follow(table.WATCH_STATE, WatchState(), receive))


def test_a_follower_that_does_not_read_is_cut_off() -> None:
    """The server keeps a bounded amount for it."""
    world = World(Limits(backlog=100_000))
    client = world.raw(world.host_ca.issue(host(HostRole.NODE)))
    world.request(client, "GET", "/v1/state")
    for channel in world.server._api._all:
        channel.pauseProducing()  # type: ignore[no-untyped-call]  # what the transport does when its buffer is full
    for revision in range(5000):
        world.handler.receivers[0](state(revision))
    world.wires.flush()
    assert client.lost is not None
    assert len(client.received) < 150_000
    assert world.handler.cancelled == ["watch_state"]


# -- first contact --------------------------------------------------------------------
def test_first_contact(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pin all of the answer is verified; without, its type says that nothing is."""
    world = clients.world
    monkeypatch.setattr("tele.https.pool.Pool._tcp", lambda self, h, p: clients.endpoint(h, p))
    pin = world.host_ca.trusted.pins[0]
    info = clients.ask(fetch_cluster(world.clock, "one:1", [pin.upper().replace("SHA", "sha")]))
    assert (info.cluster, type(info).__name__) == ("example", "ClusterInfo")
    assert isinstance(clients.ask(fetch_cluster(world.clock, "one:1", [])), UnverifiedCluster)
    with pytest.raises(AccessDenied) as caught:
        clients.ask(fetch_cluster(world.clock, "one:1", ["sha256:" + "0" * 64]))
    assert caught.value.reason == "pin"


def test_a_middleman_cannot_use_the_pinned_certificate(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Showing the real CA in the answer does not help one who lacks its key."""
    world = clients.world
    monkeypatch.setattr("tele.https.pool.Pool._tcp", lambda self, h, p: clients.endpoint(h, p))
    real = world.host_ca.trusted
    rogue = Ca.make(AuthorityKind.HOST)
    world.auth = rogue.issue(host(HostRole.AUTH, name="auth"))
    both = type(real)(
        real.kind,
        (),
        (real.tls_certificates[0], rogue.certificate),
        (real.pins[0], rogue.trusted.pins[0]),
    )
    world.trusted = (world.user_ca.trusted, both)
    with pytest.raises(AccessDenied, match="not the auth server"):
        clients.ask(fetch_cluster(world.clock, "one:1", [real.pins[0]]))
