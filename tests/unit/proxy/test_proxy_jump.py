"""Who may stay at the jump host? Its decisions, with a fake clock."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.certs.check import CheckedUser
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied
from tele.log import event_text
from tele.loop import now
from tele.model.access import Denied
from tele.model.api.hosts import HostChanges
from tele.model.api.members import ClusterState
from tele.model.identity import HostRole, UserIdentity
from tele.model.presence import Host, Mode, Status
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingSettings,
    Role,
    RoleSpec,
)
from tele.model.revocation import UserRevocation
from tele.proxy.jump import NODES_FIRST, Jump, Visitor
from tele.proxy.user_limits import People, person_limits
from tele.rbac.policy import Policy
from tele.routing.index import NodeIndex
from tele.testing import SettableClock

HOUR = timedelta(hours=1)
#: Nobody looks at it: it was checked.
NO_CERTIFICATE: Any = None


class FakeWay:
    """A channel to a node."""

    is_open = True


class World:
    """A proxy with two nodes, web1 (env=test) and db1 (env=prod)."""

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.clock.advance(1_800_000_000)
        moment = now(self.clock)
        everywhere = self.role({"*": ("*",)})
        self.state = ClusterState("c", 1, moment, (), (everywhere,), (), RecordingSettings())
        self.hosts = [
            Host(f"id-{name}", name, HostRole.NODE, ("192.0.2.1:3022",), {"env": env},
                 Mode.DIRECT, Status.ONLINE, moment)
            for name, env in (("web1", "test"), ("db1", "prod"))
        ]  # fmt: skip
        index = NodeIndex("c")
        index.change(HostChanges(tuple(self.hosts), first=True, last=True))
        self.openings: list[Deferred[Any]] = []
        ways: Any = SimpleNamespace(open=self._open)
        tunnels: Any = SimpleNamespace(get=lambda _: None)
        self.ended: list[tuple[str, str]] = []
        self.evicted: list[str] = []
        self.jump = Jump(
            self.clock, lambda: self.state, lambda: Policy.of(self.state), index, tunnels, ways,
            lambda *_: None, self._ended, People(person_limits(1024)),
        )  # fmt: skip
        self.jump.look()

    def role(self, labels: dict[str, tuple[str, ...]]) -> Role:
        return Role(Metadata("ops"), RoleSpec(Conditions(("root",), labels)))

    def _open(self, host: Host, remote_addr: object, **near: object) -> Deferred[Any]:
        self.openings.append(Deferred(lambda _: None))
        return self.openings[-1]

    def _ended(self, visitor: Visitor, denied: Denied) -> None:
        self.ended.append((visitor.identity.user, denied.message))

    def visitor(self, user: str = "alice") -> Visitor:
        moment = now(self.clock)
        identity = UserIdentity(user, "c", moment + HOUR, ("ops",), ("root",), issued=moment)
        credentials: Any = CertificateCredentials(
            CheckedUser(identity), "root", NO_CERTIFICATE, ("h", 1), ("h", 2)
        )
        visitor = self.jump.admit(credentials)
        visitor.conn = SimpleNamespace(transport=SimpleNamespace(evict=self.evicted.append))
        return visitor

    def go(self, visitor: Visitor, name: str) -> Deferred[Any]:
        return self.jump.open(visitor, self.jump.find(visitor, name, 22))

    def change(self, **fields: Any) -> None:
        self.state = evolve(self.state, **fields)
        self.jump.look()


@pytest.fixture
def world() -> World:
    return World()


def test_a_removed_user_passes_no_more(world: World) -> None:
    """The connection ends a moment after the nodes ended theirs, once, and the audit hears it."""
    alice, bob = world.visitor("alice"), world.visitor("bob")
    later = now(world.clock) + HOUR
    world.change(revoked_users=(UserRevocation("alice", removed=later),))
    world.change(revoked_users=(UserRevocation("alice", removed=later, roles=("x",)),))
    assert world.ended == [("alice", "user alice was removed from the cluster")]
    assert world.evicted == []
    world.clock.advance(NODES_FIRST)
    assert world.evicted == ["user alice was removed from the cluster"]
    with pytest.raises(AccessDenied, match="was removed"):
        world.visitor("alice")
    alice.left()
    bob.left()
    world.jump.stop()
    assert not world.clock.getDelayedCalls()


def test_a_way_that_is_denied_ends_its_connection(world: World) -> None:
    """Also one that is just being opened; who goes elsewhere stays."""
    opening, there, elsewhere = (world.visitor(name) for name in ("alice", "bob", "carol"))
    world.go(opening, "db1")
    way = FakeWay()
    world.go(there, "db1")
    world.openings[-1].callback(way)
    world.go(elsewhere, "web1")
    world.change(roles=(world.role({"env": ("test",)}),))
    assert sorted(user for user, _ in world.ended) == ["alice", "bob"]
    with pytest.raises(AccessDenied):
        world.go(elsewhere, "db1")


def test_a_way_that_has_ended_ends_nothing(world: World) -> None:
    """Where somebody was once is no reason."""
    alice = world.visitor()
    way = FakeWay()
    world.go(alice, "db1")
    world.openings[-1].callback(way)
    way.is_open = False
    world.change(roles=(world.role({"env": ("test",)}),))
    assert world.ended == []


def test_a_lock_on_a_node_ends_the_ways_to_it(world: World) -> None:
    """Whoever goes there, at once and not after the node, and nobody else."""
    alice, bob = world.visitor("alice"), world.visitor("bob")
    world.go(alice, "db1")
    world.go(bob, "web1")
    world.change(locks=(Lock(Metadata("l"), LockSpec(LockTarget(host_id="id-db1"))),))
    assert world.ended == [("alice", "this node is locked by l")]
    assert world.evicted == ["this node is locked by l"]


def test_an_end_comes_by_itself(world: World) -> None:
    """A user expires; a certificate that does is no reason for those who are here."""
    world.visitor()
    world.change(revoked_users=(UserRevocation("alice", expires=now(world.clock) + 2 * HOUR),))
    world.clock.advance(7199)
    assert world.ended == []
    world.clock.advance(1)
    assert world.ended == [("alice", "user alice has expired")]


@pytest.mark.parametrize("hours", [-3, 0, 3], ids=["back", "right", "forward"])
def test_nobody_goes_further_after_the_life_of_their_certificate(world: World, hours: int) -> None:
    """An hour is an hour, when the clock was set back, too; set forward, its date has passed."""
    alice = world.visitor()
    world.clock.set_wall(hours * 3600)
    world.clock.advance(3599)
    if hours <= 0:
        world.go(alice, "web1")
    world.clock.advance(1)
    with pytest.raises(AccessDenied, match="has expired"):
        world.go(alice, "web1")


def test_who_comes_and_goes_is_in_the_log(world: World) -> None:
    """One line each, with who, from where, to which nodes, and why it ended."""
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        said.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    try:
        alice = world.visitor()
        world.go(alice, "web1")
        world.openings[-1].callback(FakeWay())
        world.clock.advance(2)
        world.change(revoked_users=(UserRevocation("alice", removed=now(world.clock) + HOUR),))
        alice.left()
    finally:
        globalLogPublisher.removeObserver(observe)
    start, end = (line for line in said if line.startswith("connection."))
    assert start.startswith("connection.start user=alice remote_addr=h:1")
    assert end.startswith("connection.end user=alice remote_addr=h:1")
    assert "nodes=web1 seconds=2" in end
    assert 'error="user alice was removed from the cluster"' in end
