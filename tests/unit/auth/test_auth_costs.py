"""What callers can make auth do: each answer costs what it gives, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError

from auth_world import Tape, World, result
from counting import calls, is_linear
from tele.audit import reading
from tele.audit.reading import PAGE_BYTES, SCAN
from tele.auth.guessing import FAILURES
from tele.auth.journal import (
    CLIENT_BURST,
    CLIENT_PER_SECOND,
    SUPPRESSED_LIMIT,
    UNAUTHENTICATED_BURST,
)
from tele.auth.operations.hosts import SCAN_LIMIT
from tele.auth.operations.recordings import ACCESS_SECONDS
from tele.auth.presence import Announcement
from tele.errors import AccessDenied, NotFound
from tele.loop import now
from tele.model.api import audit, recordings, table
from tele.model.api.hosts import ListHosts
from tele.model.api.keeping import RemoveRecording
from tele.model.api.paging import ById, Paged
from tele.model.identity import Caller, HostRole
from tele.model.presence import Presence


# -- the audit ----------------------------------------------------------------------------
def test_no_client_fills_the_audit_with_its_refusals(world: World) -> None:
    """A user or host that is refused again and again leaves so many events, and the next one
    says how many there were; what happens to others is listed all the while.
    """
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    world.join(world.token())
    for caller in (world.user("alice", "access"), world.host()):
        for _ in range(int(CLIENT_BURST) + 30):
            with pytest.raises(AccessDenied):
                world.do(table.LIST_USERS, Paged(), caller)
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, Paged(), world.user("bob", "access"))
    denied = world.events("auth.denied")
    assert len(denied) == 2 * CLIENT_BURST + 1
    assert denied[-1].user == "bob"
    assert "others_not_listed" not in denied[-1].fields
    world.clock.advance(2 / CLIENT_PER_SECOND)
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, Paged(), world.user("alice", "access"))
    assert world.events("auth.denied")[-1].fields["others_not_listed"] == 30


def test_many_networks_fill_the_audit_no_faster(world: World) -> None:
    """All unauthenticated clients together have a bound, and the count of the rest is bounded."""
    for number in range(int(UNAUTHENTICATED_BURST) + SUPPRESSED_LIMIT + 10):
        client = Caller(None, f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:1")
        result(world.auth.denied(table.JOIN, client, AccessDenied("no", "token")))
    assert len(world.events("auth.denied")) == UNAUTHENTICATED_BURST
    journal: Any = world.auth._journal
    assert len(journal._suppressed) <= SUPPRESSED_LIMIT + 1
    assert sum(journal._suppressed.values()) == SUPPRESSED_LIMIT + 10


def test_failed_logins_fill_the_audit_no_faster(world: World) -> None:
    """A network that tries passwords without end leaves so many events, and lock-outs always."""
    world.add_user("alice", "access")
    for number in range(int(CLIENT_BURST) + 10):
        with pytest.raises(AccessDenied):
            world.login(f"user{number}")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    assert len(world.events("user.login")) == CLIENT_BURST
    assert len(world.events("user.locked_out")) == 1


def _append(world: World, count: int, **words: Any) -> None:
    journal: Any = world.auth._journal
    events = [journal.event("exec", None, **words) for _ in range(count)]
    result(world.parts.audit.append(*events))


def test_a_search_of_the_audit_reads_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search without results gets short pages, each of which costs the same; together they cover
    everything.
    """
    most = 1500
    monkeypatch.setattr(reading, "SCAN_LIMIT", most)
    _append(world, 3, user="eve")
    _append(world, 3 * most, user="bob")
    ranges = 0
    backend: Any = world.backend
    plain = backend.range

    def counted(*words: Any) -> Any:
        nonlocal ranges
        ranges += 1
        return plain(*words)

    backend.range = counted
    request = audit.ListEvents(user="eve", newest=True, limit=10)
    page = world.do(table.LIST_EVENTS, request)
    assert (page.items, ranges) == ((), most // SCAN)
    pages = 1
    while page.next and not page.items:
        page = world.do(table.LIST_EVENTS, evolve(request, after=page.next))
        pages += 1
    assert (len(page.items), pages) == (3, 4)


def test_a_page_of_events_has_so_many_bytes(world: World) -> None:
    """Large events make short pages; none is left out."""
    _append(world, 30, command="x" * 200_000)
    after, counts = "", []
    while True:
        page = world.do(table.LIST_EVENTS, audit.ListEvents(event="exec", after=after))
        counts.append(len(page.items))
        after = page.next
        if not after:
            break
    assert sum(counts) == 30
    assert max(counts) <= 1 + PAGE_BYTES // 200_000


def test_an_event_is_read_once_for_all_followers(world: World) -> None:
    """A hundred users that follow the audit cost one decoding of each event."""
    received: list[Any] = []
    streams = [
        world.auth.follow(table.FOLLOW_EVENTS, audit.FollowEvents(), world.admin, received.append)
        for _ in range(100)
    ]
    _append(world, 1)
    assert len(received) == 100
    assert len({id(value) for value in received}) == 1
    for stream in streams:
        stream.addErrback(lambda failure: failure.trap(CancelledError))
        stream.cancel()
    _append(world, 1)
    assert len(received) == 100


def test_appending_costs_the_same_for_each_event(world: World) -> None:
    """Twice as many events that come at once are twice the work."""

    def work(size: int) -> int:
        return calls(lambda: _append(world, size))

    assert is_linear(work)


# -- hosts --------------------------------------------------------------------------------
def _fleet(world: World, size: int) -> None:
    """Let ``size`` nodes say that they live; every second one is in zone b."""
    for number in range(size):
        host_id = f"5b8b6f2e-6a0c-4c8e-9a53-{number:012d}"
        labels = {"zone": "ab"[number % 2]}
        said = Presence(f"web{number:05d}", HostRole.NODE, labels=labels)
        word = Announcement(host_id, said, now(world.clock), labels)
        result(world.parts.hosts.observe(HostRole.NODE, word))


def _pages(world: World, request: ListHosts, caller: Any = None) -> list[Any]:
    pages = [world.do(table.LIST_HOSTS, request, caller)]
    while pages[-1].next:
        pages.append(world.do(table.LIST_HOSTS, evolve(request, after=pages[-1].next), caller))
    return pages


def test_a_page_of_hosts_reads_so_many(world: World) -> None:
    """A selection of few hosts of a large fleet gets short pages, and all of it in the end."""
    _fleet(world, SCAN_LIMIT + 200)
    labels = (f"zone=b*{'?' * 20}", "zone=b", "zone=c")
    pages = _pages(world, ListHosts(labels=labels, limit=1000))
    assert [len(page.items) for page in pages] == [SCAN_LIMIT // 2, 100]
    names = [host.name for page in pages for host in page.items]
    assert names == sorted(names)
    assert len(set(names)) == SCAN_LIMIT // 2 + 100
    assert [len(p.items) for p in _pages(world, ListHosts(labels=("zone=c",)))] == [0, 0]


def test_a_page_costs_the_same_in_a_large_fleet(world: World) -> None:
    """What a page costs grows with the page, not with the fleet."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    _fleet(world, 300)
    costs = [calls(lambda: world.do(table.LIST_HOSTS, ListHosts(limit=50), alice))]
    costs += [calls(lambda: world.do(table.LIST_HOSTS, ListHosts(limit=50), alice))]
    _fleet(world, 900)
    costs += [calls(lambda: world.do(table.LIST_HOSTS, ListHosts(limit=50), alice))]
    assert costs[2] <= costs[1] + 10


def test_hosts_are_listed_by_name_after_they_changed_it(world: World) -> None:
    """A host is in the list once, under the name that it has now, and not when it is forgotten."""
    _fleet(world, 3)
    host_id = f"5b8b6f2e-6a0c-4c8e-9a53-{0:012d}"
    said = Presence("zzz", HostRole.NODE)
    result(
        world.parts.hosts.observe(HostRole.NODE, Announcement(host_id, said, now(world.clock), {}))
    )
    listed = world.do(table.LIST_HOSTS, ListHosts()).items
    assert [host.name for host in listed] == ["web00001", "web00002", "zzz"]
    world.do(table.DELETE_HOST, ById(host_id))
    listed = world.do(table.LIST_HOSTS, ListHosts()).items
    assert [host.name for host in listed] == ["web00001", "web00002"]


def test_thousands_of_readers_that_leave_cost_the_same_each(world: World) -> None:
    """When a proxy goes away, its fleet's streams end in time that grows with their number."""

    def work(size: int) -> int:
        reads = 0

        class Receiver:
            def __call__(self, _: Any) -> None:
                pass

            def __eq__(self, other: object) -> bool:
                nonlocal reads
                reads += 1
                return self is other

            __hash__ = object.__hash__

        streams = [world.parts.state.watch(Receiver()) for _ in range(size)]
        for stream in streams:
            stream.addErrback(lambda failure: failure.trap(CancelledError))

        def leave() -> None:
            for stream in reversed(streams):
                stream.cancel()

        return calls(leave) + reads

    assert is_linear(work)


# -- sessions, tokens, accesses ---------------------------------------------------------------
def test_ones_own_sessions_cost_what_one_has(world: World) -> None:
    """A user who may see their own sessions does not make auth read those of others."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), Tape(world, "alice").host)

    def mine() -> int:
        (session,) = world.do(table.LIST_SESSIONS, Paged(), alice).items
        assert session.user == "alice"
        return calls(lambda: world.do(table.LIST_SESSIONS, Paged(), alice))

    mine()
    few = mine()
    for _ in range(20):
        Tape(world, "bob")
    assert mine() <= few + 10
    assert len(world.do(table.LIST_SESSIONS, Paged()).items) == 21


def test_a_session_that_ended_is_in_no_list(world: World) -> None:
    """However a session ends, it is removed from its user's sessions."""
    ended, finished, removed = (Tape(world, "alice") for _ in range(3))
    moment = now(world.clock)
    world.do(table.UPDATE_RECORDING, recordings.UpdateRecording(ended.id, ended=moment), ended.host)
    removed.upload(0)
    world.do(table.DELETE_RECORDING, RemoveRecording(removed.id, "old"))
    assert len(result(world.backend.range("/sessions-of/", "/sessions-of0"))) == 1
    world.do(
        table.UPDATE_RECORDING, recordings.UpdateRecording(finished.id, ended=moment), finished.host
    )
    assert result(world.backend.range("/sessions", "/sessiont")) == []


def test_a_token_is_found_by_its_id_at_once(world: World) -> None:
    """Revoking a token costs the same among a few and among many; a wrong id finds none."""

    def removed() -> int:
        world.token()
        token_id = world.do(table.LIST_TOKENS, Paged()).items[-1].id
        cost = calls(lambda: world.do(table.DELETE_TOKEN, ById(token_id)))
        assert token_id not in [t.id for t in world.do(table.LIST_TOKENS, Paged()).items]
        with pytest.raises(NotFound):
            world.do(table.DELETE_TOKEN, ById(token_id))
        return cost

    removed()
    few = removed()
    for _ in range(50):
        world.token()
    assert removed() <= few + 100


def test_noting_the_reader_of_a_recording_has_a_constant_cost(world: World) -> None:
    """An auditor who reads many recordings makes the next one no slower; old notes go."""
    world.add_user("otto", "auditor")
    otto = world.user("otto", "auditor")
    handler: Any = world.auth._handlers[table.GET_RECORDING]
    operations = handler.perform.__self__
    tape = Tape(world)

    def work(size: int) -> int:
        ids = [f"{n}" for n in range(size)]
        rows = [evolve(result(world.parts.recordings.get(tape.id)), id=name) for name in ids]
        operations._accessed.clear()
        return calls(lambda: [result(operations._note_access(row, otto)) for row in rows])

    assert is_linear(work, 100)
    world.clock.advance(ACCESS_SECONDS)
    world.do(table.GET_RECORDING, ById(tape.id), otto)
    assert len(operations._accessed) == 1
