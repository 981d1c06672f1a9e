"""Decisions of the jump host about users who are connected, with a fake clock."""

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
from tele.proxy.jump import NODES_FIRST, JumpHost
from tele.proxy.jump_avatar import JumpAvatar
from tele.proxy.user_limits import UserUsage, user_limits
from tele.rbac.policy import Policy
from tele.routing.index import NodeIndex
from tele.testing import SettableClock

HOUR = timedelta(hours=1)
#: Not used: it was checked.
NO_CERTIFICATE: Any = None


class FakeChannel:
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
        dialer: Any = SimpleNamespace(open=self._open)
        audit: Any = SimpleNamespace(denied=lambda *_: None, ended=self._ended)
        self.ended: list[tuple[str, str]] = []
        self.evicted: list[str] = []
        self.jump = JumpHost(
            self.clock, lambda: self.state, lambda: Policy.of(self.state), index, lambda _: False,
            dialer, audit, UserUsage(user_limits(1024)),
        )  # fmt: skip
        self.jump.check()

    def role(self, labels: dict[str, tuple[str, ...]]) -> Role:
        return Role(Metadata("ops"), RoleSpec(Conditions(("root",), labels)))

    def _open(self, host: Host, remote_addr: object, **channel: object) -> Deferred[Any]:
        self.openings.append(Deferred(lambda _: None))
        return self.openings[-1]

    def _ended(self, avatar: JumpAvatar, denied: Denied) -> None:
        self.ended.append((avatar.identity.user, denied.message))

    def log_in(self, user: str = "alice") -> JumpAvatar:
        moment = now(self.clock)
        identity = UserIdentity(user, "c", moment + HOUR, ("ops",), ("root",), issued=moment)
        credentials: Any = CertificateCredentials(
            CheckedUser(identity), "root", NO_CERTIFICATE, ("h", 1), ("h", 2)
        )
        avatar = self.jump.admit(credentials)
        avatar.conn = SimpleNamespace(transport=SimpleNamespace(evict=self.evicted.append))
        return avatar

    def connect(self, avatar: JumpAvatar, name: str) -> Deferred[Any]:
        return avatar.open(avatar.find(name, 22))

    def change(self, **fields: Any) -> None:
        self.state = evolve(self.state, **fields)
        self.jump.check()


@pytest.fixture
def world() -> World:
    return World()


def test_a_removed_user_is_disconnected(world: World) -> None:
    """The connection ends a moment after the nodes ended theirs, once, and is reported."""
    alice, bob = world.log_in("alice"), world.log_in("bob")
    later = now(world.clock) + HOUR
    world.change(revoked_users=(UserRevocation("alice", removed=later),))
    world.change(revoked_users=(UserRevocation("alice", removed=later, roles=("x",)),))
    assert world.ended == [("alice", "user alice was removed from the cluster")]
    assert world.evicted == []
    world.clock.advance(NODES_FIRST)
    assert world.evicted == ["user alice was removed from the cluster"]
    with pytest.raises(AccessDenied, match="was removed"):
        world.log_in("alice")
    alice.logout()
    bob.logout()
    world.jump.stop()
    assert not world.clock.getDelayedCalls()


def test_a_denied_node_ends_the_connection(world: World) -> None:
    """Also while it is being opened; users of other nodes stay."""
    opening, connected, elsewhere = (world.log_in(name) for name in ("alice", "bob", "carol"))
    world.connect(opening, "db1")
    channel = FakeChannel()
    world.connect(connected, "db1")
    world.openings[-1].callback(channel)
    world.connect(elsewhere, "web1")
    world.change(roles=(world.role({"env": ("test",)}),))
    assert sorted(user for user, _ in world.ended) == ["alice", "bob"]
    with pytest.raises(AccessDenied):
        world.connect(elsewhere, "db1")


def test_a_channel_that_has_ended_ends_nothing(world: World) -> None:
    """A node that the user was connected to before is no reason."""
    alice = world.log_in()
    channel = FakeChannel()
    world.connect(alice, "db1")
    world.openings[-1].callback(channel)
    channel.is_open = False
    world.change(roles=(world.role({"env": ("test",)}),))
    assert world.ended == []


def test_a_lock_on_a_node_ends_connections_to_it(world: World) -> None:
    """At once and not after the node; other connections stay."""
    alice, bob = world.log_in("alice"), world.log_in("bob")
    world.connect(alice, "db1")
    world.connect(bob, "web1")
    world.change(locks=(Lock(Metadata("l"), LockSpec(LockTarget(host_id="id-db1"))),))
    assert world.ended == [("alice", "this node is locked by l")]
    assert world.evicted == ["this node is locked by l"]


def test_an_expiry_ends_connections(world: World) -> None:
    """The end of a user counts; that of a certificate does not end a connection."""
    world.log_in()
    world.change(revoked_users=(UserRevocation("alice", expires=now(world.clock) + 2 * HOUR),))
    world.clock.advance(7199)
    assert world.ended == []
    world.clock.advance(1)
    assert world.ended == [("alice", "user alice has expired")]


@pytest.mark.parametrize("hours", [-3, 0, 3], ids=["back", "right", "forward"])
def test_nothing_is_opened_after_the_certificate_expired(world: World, hours: int) -> None:
    """An hour is an hour, when the clock was set back, too; set forward, its date has passed."""
    alice = world.log_in()
    world.clock.set_wall(hours * 3600)
    world.clock.advance(3599)
    if hours <= 0:
        world.connect(alice, "web1")
    world.clock.advance(1)
    with pytest.raises(AccessDenied, match="has expired"):
        world.connect(alice, "web1")


def test_connections_are_logged(world: World) -> None:
    """One line each, with user, address, nodes, and why it ended."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    try:
        alice = world.log_in()
        world.connect(alice, "web1")
        world.openings[-1].callback(FakeChannel())
        world.clock.advance(2)
        world.change(revoked_users=(UserRevocation("alice", removed=now(world.clock) + HOUR),))
        alice.logout()
    finally:
        globalLogPublisher.removeObserver(observe)
    start, end = (line for line in lines if line.startswith("connection."))
    assert start.startswith("connection.start user=alice remote_addr=h:1")
    assert end.startswith("connection.end user=alice remote_addr=h:1")
    assert "nodes=web1 seconds=2" in end
    assert 'error="user alice was removed from the cluster"' in end
