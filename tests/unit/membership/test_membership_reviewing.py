"""Which connections are reviewed again, and when?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from tele.errors import Unavailable
from tele.loop import now
from tele.membership.reviewing import BATCH, Review
from tele.model.api.members import ClusterState, Proxy
from tele.model.resources import (
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingSettings,
    Role,
)
from tele.model.revocation import UserRevocation
from tele.rbac.policy import Policy
from tele.testing import SettableClock

HOUR = timedelta(hours=1)


class World:
    """Connections, and the reviews of them."""

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.clock.advance(1_800_000_000)
        moment = now(self.clock)
        self.state: ClusterState | None = ClusterState(
            "c", 1, moment, (), (), (), RecordingSettings()
        )
        self.present: list[int] = [1, 2]
        self.asked: list[int] = []
        self.labels = "a"
        self.review = Review(
            self.clock, self._state, lambda: Policy.of(self._state()), lambda: self.present,
            self._ask, lambda: self.labels,
        )  # fmt: skip

    def _state(self) -> ClusterState:
        if self.state is None:
            raise Unavailable("not yet")
        return self.state

    def _ask(self, one: int) -> None:
        self.asked.append(one)
        if one < 0:
            raise RuntimeError("a mistake")

    def change(self, **fields: Any) -> list[int]:
        """Set another state; return what is decided about at once."""
        assert self.state is not None
        self.asked.clear()
        self.state = evolve(self.state, **fields)
        self.review.check()
        return list(self.asked)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.review.check()
    yield made
    made.review.stop()
    assert not made.clock.getDelayedCalls()


def test_each_change_of_the_rules_reviews_all(world: World) -> None:
    """Roles, locks, revocations, and what else a decision depends on."""
    assert world.change(roles=(Role(Metadata("a")),)) == [1, 2]
    lock = Lock(Metadata("l"), LockSpec(LockTarget(user="alice")))
    assert world.change(locks=(lock,)) == [1, 2]
    assert world.change(revoked_users=(UserRevocation("alice"),)) == [1, 2]
    world.labels = "b"
    assert world.change() == [1, 2]


def test_other_changes_cost_nothing(world: World) -> None:
    """Proxies come and go in large fleets; nothing is decided again for that."""
    assert world.change(proxies=(Proxy("p", "gate", ()),), revision=2) == []


def test_an_expiry_is_reviewed_at_its_time(world: World) -> None:
    """When a role or a user expires, though nothing else happens then; also far in the future."""
    soon = Role(Metadata("a", expires=now(world.clock) + HOUR))
    late = UserRevocation("alice", expires=now(world.clock) + 100 * HOUR)
    world.change(roles=(soon,), revoked_users=(late,))
    world.asked.clear()
    world.clock.advance(3599)
    assert world.asked == []
    world.clock.advance(1)
    assert world.asked == [1, 2]
    for _ in range(99):
        world.asked.clear()
        world.clock.advance(3600)
    assert world.asked == [1, 2]
    assert not world.clock.getDelayedCalls()


def test_many_connections_are_reviewed_in_batches(world: World) -> None:
    """A thousand connections block no turn of the reactor, and a change meanwhile begins anew."""
    world.present = list(range(1000))
    assert len(world.change(roles=(Role(Metadata("a")),))) == BATCH
    assert world.change(roles=()) == [], "there is a turn to come"
    world.clock.advance(0)
    assert world.asked == [*range(1000)]


def test_a_failing_review_does_not_stop_the_others(world: World) -> None:
    """A mistake with one connection leaves no other in."""
    world.present = [-1, 3]
    assert world.change(roles=(Role(Metadata("a")),)) == [-1, 3]


def test_nothing_is_reviewed_before_the_state_is_known(world: World) -> None:
    """A host that is not a member yet has no connections."""
    world.state = None
    world.review.check()
    assert world.asked == [1, 2], "only what was asked at first"


@pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])
def test_connections_are_reviewed_when_the_clock_was_set(world: World, hours: int) -> None:
    """What expires by date may have expired, or be valid again: once for each step."""
    assert world.change(roles=(Role(Metadata("ops")),)) == [1, 2]
    world.clock.set_wall(hours * 3600)
    assert world.change() == [1, 2]
    assert world.change() == []


def test_a_role_ends_soon_after_the_clock_passes_its_end(world: World) -> None:
    """However far the clock is set forward: within seconds, not when the timer would have come."""
    end = now(world.clock) + 5 * HOUR
    assert world.change(roles=(Role(Metadata("ops", expires=end)),)) == [1, 2]
    world.asked.clear()
    world.clock.set_wall(6 * 3600)
    world.clock.advance(5)
    assert world.asked == [1, 2]
