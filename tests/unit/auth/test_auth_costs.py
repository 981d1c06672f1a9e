"""What callers can make auth do: each answer costs what it gives, and no more."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError

from auth_world import World, result
from counting import calls, is_linear
from tele.auth.operations.machines import LOOKED_AT
from tele.auth.presence import LastWord
from tele.loop import now
from tele.model.api import members, table
from tele.model.identity import HostRole
from tele.model.presence import Presence


def _fleet(world: World, size: int) -> None:
    """Let ``size`` nodes say that they live; every second one is in zone b."""
    for number in range(size):
        host_id = f"5b8b6f2e-6a0c-4c8e-9a53-{number:012d}"
        labels = {"zone": "ab"[number % 2]}
        said = Presence(f"web{number:05d}", HostRole.NODE, labels=labels)
        word = LastWord(host_id, said, now(world.clock), labels)
        result(world.parts.hosts.hear(HostRole.NODE, word))


def _pages(world: World, request: members.ListHosts, caller: Any = None) -> list[Any]:
    pages = [world.do(table.LIST_HOSTS, request, caller)]
    while pages[-1].next:
        pages.append(world.do(table.LIST_HOSTS, evolve(request, after=pages[-1].next), caller))
    return pages


def test_a_page_of_hosts_looks_at_so_many(world: World) -> None:
    """Who selects little of a large fleet gets short pages, and all of it in the end."""
    _fleet(world, LOOKED_AT + 200)
    labels = (f"zone=b*{'?' * 20}", "zone=b", "zone=c")
    pages = _pages(world, members.ListHosts(labels=labels, limit=1000))
    assert [len(page.items) for page in pages] == [LOOKED_AT // 2, 100]
    names = [host.name for page in pages for host in page.items]
    assert names == sorted(names)
    assert len(set(names)) == LOOKED_AT // 2 + 100
    assert [len(p.items) for p in _pages(world, members.ListHosts(labels=("zone=c",)))] == [0, 0]


def test_a_page_costs_the_same_in_a_large_fleet(world: World) -> None:
    """What a page costs grows with the page, not with the fleet."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    _fleet(world, 300)
    costs = [calls(lambda: world.do(table.LIST_HOSTS, members.ListHosts(limit=50), alice))]
    costs += [calls(lambda: world.do(table.LIST_HOSTS, members.ListHosts(limit=50), alice))]
    _fleet(world, 900)
    costs += [calls(lambda: world.do(table.LIST_HOSTS, members.ListHosts(limit=50), alice))]
    assert costs[2] <= costs[1] + 10


def test_hosts_are_listed_by_name_after_they_changed_it(world: World) -> None:
    """A host is in the list once, under the name that it has now, and not when it is forgotten."""
    _fleet(world, 3)
    host_id = f"5b8b6f2e-6a0c-4c8e-9a53-{0:012d}"
    said = Presence("zzz", HostRole.NODE)
    result(world.parts.hosts.hear(HostRole.NODE, LastWord(host_id, said, now(world.clock), {})))
    listed = world.do(table.LIST_HOSTS, members.ListHosts()).items
    assert [host.name for host in listed] == ["web00001", "web00002", "zzz"]
    world.do(table.DELETE_HOST, members.ById(host_id))
    listed = world.do(table.LIST_HOSTS, members.ListHosts()).items
    assert [host.name for host in listed] == ["web00001", "web00002"]


def test_thousands_of_readers_that_leave_cost_the_same_each(world: World) -> None:
    """When a proxy goes away, its fleet's streams end in time that grows with their number."""

    def work(size: int) -> int:
        looked = 0

        class Receiver:
            def __call__(self, _: Any) -> None:
                pass

            def __eq__(self, other: object) -> bool:
                nonlocal looked
                looked += 1
                return self is other

            __hash__ = object.__hash__

        streams = [world.parts.state.watch(Receiver()) for _ in range(size)]
        for stream in streams:
            stream.addErrback(lambda failure: failure.trap(CancelledError))

        def leave() -> None:
            for stream in reversed(streams):
                stream.cancel()

        return calls(leave) + looked

    assert is_linear(work)
