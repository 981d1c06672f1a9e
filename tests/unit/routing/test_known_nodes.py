"""The nodes that a proxy keeps over a restart, with a fake clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from attrs import evolve
from twisted.internet.task import Clock

from tele.loop import now
from tele.model.api.hosts import HostChanges
from tele.model.identity import HostRole
from tele.model.presence import FORGET_AFTER, Host, Mode, Status
from tele.model.revocation import HostRevocation
from tele.routing.index import NodeIndex
from tele.routing.known_nodes import NODES_PER_SECOND, SAVE_SECONDS, KnownNodes

WEB = Host(
    id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a111",
    name="web1",
    role=HostRole.NODE,
    addresses=("127.0.0.1:3022",),
    labels={},
    mode=Mode.DIRECT,
    status=Status.ONLINE,
    last_seen=datetime(2026, 11, 24, 12, tzinfo=UTC),
)
OTHER = evolve(WEB, id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a222")


class World:
    """A proxy whose member remembers nodes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.web = evolve(WEB, last_seen=now(self.clock))
        self.other = evolve(OTHER, name="web2", last_seen=now(self.clock))
        self.saved: list[Any] = []
        self.memory = SimpleNamespace(nodes=(), keep_nodes=self.saved.append)
        self.revoked: set[HostRevocation] = set()
        policy = SimpleNamespace(revoked_hosts=lambda _: frozenset(self.revoked))
        member: Any = SimpleNamespace(memory=self.memory, policy=policy)
        self.index = NodeIndex("Example")
        self.known = KnownNodes(self.clock, member, self.index)

    def send(self, *hosts: Any, first: bool = True, last: bool = True) -> None:
        """Auth sends nodes."""
        self.index.change(HostChanges(hosts, first=first, last=last))
        self.known.changed()


def test_they_are_saved_soon_and_together() -> None:
    """Many changes are one write; half of a list is none."""
    world = World()
    world.send(world.web, last=False)
    world.clock.advance(SAVE_SECONDS + 1)
    assert world.saved == []
    world.send(world.other, first=False)
    world.send(evolve(world.web, labels={"env": "prod"}), first=False)
    world.clock.advance(SAVE_SECONDS + 1)
    (saved,) = world.saved
    assert {each.name: dict(each.labels) for each in saved} == {"web1": {"env": "prod"}, "web2": {}}
    world.clock.advance(3600)
    assert len(world.saved) == 1
    assert world.clock.getDelayedCalls() == []


def test_stopping_keeps_the_rest() -> None:
    """What was sent last is saved when the proxy stops, and no timer is left."""
    world = World()
    world.send(world.web)
    world.known.stop()
    assert world.saved == [(world.web,)]
    assert world.clock.getDelayedCalls() == []


def test_a_large_fleet_is_written_less_often() -> None:
    """A list of thousands that changes all the time is not written each second."""
    world = World()
    ids = (f"0d9d28a3-4ff5-4b3b-8e5c-{number:012d}" for number in range(5 * NODES_PER_SECOND))
    world.send(*(evolve(world.web, id=each) for each in ids))
    for _ in range(60):
        world.clock.advance(1)
        world.send(world.web, first=False)
    assert len(world.saved) <= 60 / 5


def test_removed_nodes_are_not_restored() -> None:
    """A node that was removed after the list was saved is not known, also by cached state alone;
    one that was seen since then is (attack).
    """
    world = World()
    world.memory.nodes = (world.web, world.other)
    removed = now(world.clock) + timedelta(seconds=5)
    world.revoked.add(HostRevocation(world.web.id, HostRole.NODE, "web1", removed))
    world.known.restore()
    assert list(world.index) == [world.other]
    world.index.revoke(world.other.id, removed)
    assert list(world.index) == []
    world.send(evolve(world.web, last_seen=removed))
    world.index.revoke(world.web.id, removed)
    assert [each.name for each in world.index] == ["web1"]


def test_forgotten_nodes_are_not_restored() -> None:
    """After a long time away only nodes count that auth would still know."""
    world = World()
    gone = evolve(world.other, last_seen=now(world.clock) - FORGET_AFTER - timedelta(seconds=1))
    world.memory.nodes = (world.web, gone)
    world.known.restore()
    assert list(world.index) == [world.web]
