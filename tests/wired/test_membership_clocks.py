"""A member whose clock, or auth's, is set: nothing is missed, and the difference is said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.errors import NotLoggedIn, Unreachable, WrongClock
from tele.log import event_text
from tele.loop import now
from tele.membership.cluster_clock import SETTLE_SECONDS
from tele.tunnel.client_address import VALID_SECONDS
from test_membership_member import World, result

HOUR = 3600.0
STEPS = pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A machine and an auth, with clocks of their own."""
    made = World(tmp_path / "data")
    yield made
    for member in list(made.members):
        made.stop(member)
    assert made.clock.getDelayedCalls() == []


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def events_of(world: World, name: str) -> list[Any]:
    """Return the events of this name that auth has."""
    return [event for event in world.auth.events if event.event == name]


def another_clock(world: World, ahead: float = 0.0) -> None:
    """Let auth go by a clock of its own, which is that much ahead of the machine's."""

    class Elsewhere:
        def seconds(self) -> float:
            return world.clock.seconds()

        def wall_seconds(self) -> float:
            return world.clock.seconds() + ahead

    elsewhere: Any = Elsewhere()
    world.auth.clock = elsewhere


@STEPS
def test_a_renewal_comes_in_time(world: World, hours: int) -> None:
    """Certificates are renewed when two thirds of their life have passed, or their date is here."""
    another_clock(world)
    member = world.start()
    first = member.identity
    world.clock.set_wall(hours * HOUR)
    world.clock.pump([60.0] * int(13.1 * 60))
    early = hours > 0
    assert (member.identity is not first) is early
    world.clock.pump([60.0] * int(3.3 * 60))
    assert member.identity is not first
    assert world.auth.calls.count("renew") == 1


def test_a_clock_that_is_set_far_back_misses_no_renewal(world: World) -> None:
    """Even when the date of the renewal would come only after the certificate's end at auth."""
    another_clock(world)
    member = world.start()
    world.clock.set_wall(-100 * HOUR)
    world.clock.pump([60.0] * (17 * 60))
    assert world.auth.calls.count("renew") == 1
    assert member.identity.expires > now(world.auth.clock) + timedelta(hours=20)


def test_a_clock_that_is_far_ahead_does_not_make_a_member_hurry(world: World) -> None:
    """Each new certificate is due at once by that clock: renewals become rare, none is missed."""
    another_clock(world)
    world.start()
    world.clock.set_wall(18 * HOUR)
    world.clock.pump([1.0] * 3600)
    first = world.auth.calls.count("renew")
    assert 2 <= first < 20
    world.clock.pump([10.0] * 360)
    assert world.auth.calls.count("renew") - first < 12


def test_a_host_refused_by_auth_rejoins_with_its_key(world: World) -> None:
    """A host whose clock is behind does not know that its certificate has expired: auth's error
    says so.
    """
    member = world.start()
    first = member.identity
    world.auth.refusal = NotLoggedIn("auth.example:3025 does not accept this certificate")
    world.auth.leave()
    world.auth.away = False
    world.clock.pump([1.0] * 30)
    world.auth.refusal = None
    world.clock.pump([1.0] * 60)
    assert member.identity is not first
    assert "rejoin" in world.auth.calls


@STEPS
def test_a_step_and_a_difference_are_events(world: World, hours: int) -> None:
    """Each is reported once, and once more when the clocks agree again."""
    another_clock(world)
    world.start()
    world.clock.pump([1.0] * 60)
    assert events_of(world, "clock.skew") == []
    world.clock.set_wall(hours * HOUR)
    world.clock.pump([1.0] * 120)
    (step,) = events_of(world, "clock.step")
    (skew,) = events_of(world, "clock.skew")
    assert step.fields["seconds"] == skew.fields["seconds"] == hours * HOUR
    assert (skew.ok, step.server_name) == (False, "web1")
    world.clock.set_wall(-hours * HOUR)
    world.clock.pump([1.0] * 120)
    back = events_of(world, "clock.skew")[-1]
    assert (back.ok, back.fields["seconds"], len(events_of(world, "clock.skew"))) == (True, 0.0, 2)


def test_auth_is_told_how_far_the_clock_is_off(world: World) -> None:
    """Once it has asked for that; an auth of an older version never reads of it."""
    another_clock(world)
    world.start()
    world.clock.set_wall(HOUR)
    world.clock.pump([1.0] * 120)
    assert {each.clock_ahead for each in world.auth.announced} == {None}
    world.auth.wants_clock = True
    world.clock.pump([1.0] * 120)
    assert world.auth.announced[-1].clock_ahead == HOUR
    world.clock.set_wall(-HOUR)
    world.clock.pump([1.0] * 120)
    assert world.auth.announced[-1].clock_ahead == 0


def test_a_clock_that_was_wrong_from_the_start_is_reported(world: World) -> None:
    """By auth's date, in the log and in an event."""
    another_clock(world, ahead=-600.0)
    world.start()
    world.clock.pump([1.0] * 60)
    (skew,) = events_of(world, "clock.skew")
    assert skew.fields["seconds"] == 600.0
    assert events_of(world, "clock.step") == []


@STEPS
def test_members_mean_the_same_moment_whichever_was_set(world: World, hours: int) -> None:
    """What a proxy states to a node counts while either clock, or auth's, is set."""
    another_clock(world)
    proxy = world.start().clock
    world.clock.pump([1.0] * 40)
    world.clock.set_wall(hours * HOUR)
    world.clock.pump([1.0] * 40)
    assert abs(proxy.stated_seconds - world.clock.seconds()) < VALID_SECONDS
    another_clock(world, hours * HOUR)
    for _ in range(int(SETTLE_SECONDS)):
        world.clock.advance(1.0)
        # One that has not received it yet.
        assert abs(proxy.stated_seconds - world.clock.seconds()) < VALID_SECONDS
    world.clock.pump([1.0] * 45)
    # One that states the new date, and one that still states the old one.
    for date in (world.clock.seconds() + hours * HOUR, world.clock.seconds()):
        assert min(abs(date - known) for known in proxy.dates) < VALID_SECONDS
    assert abs(proxy.stated_seconds - (world.clock.seconds() + hours * HOUR)) < VALID_SECONDS
    world.clock.pump([1.0] * 60)
    assert len(proxy.dates) == 1


def test_members_agree_while_auths_clock_is_set_again_and_again(world: World) -> None:
    """Some learn of each step and some of the last only: each accepts what another states."""
    another_clock(world)
    proxy = world.start().clock
    world.clock.pump([1.0] * 100)
    for ahead in (-3 * HOUR, 0.0, 3 * HOUR):
        another_clock(world, ahead)
        world.clock.pump([1.0] * 31)
    # At any moment each states one of the dates that a member that knows all steps accepts.
    assert len(proxy.dates) == 4
    for _ in range(120):
        assert min(abs(proxy.stated_seconds - date) for date in proxy.dates) < 1
        world.clock.advance(1.0)
    assert abs(proxy.stated_seconds - (world.clock.seconds() + 3 * HOUR)) < VALID_SECONDS


def test_a_host_that_cannot_join_serves_no_clients(world: World, logged: list[str]) -> None:
    """Why, that it tries again, and when; once."""
    world.auth.away = True
    world.start()
    world.clock.pump([1.0] * 100)
    (line,) = [text for text in logged if "join" in text]
    assert line.startswith("not a member of the cluster, serving no clients call=join error=")
    assert "retry_seconds=" in line


def test_a_member_without_auth_uses_cached_state(world: World, logged: list[str]) -> None:
    """A member without auth serves by the last state; since when is known."""
    member = world.start()
    world.clock.pump([1.0] * 10)
    assert not member.auth_away_since
    begin = now(world.clock)
    world.auth.leave()
    world.clock.pump([1.0] * 40)
    assert any("using cached state" in text for text in logged)
    since = member.auth_away_since
    assert since is not None
    assert since - begin < timedelta(seconds=5)
    world.auth.away = False
    world.clock.pump([1.0] * 60)
    assert not member.auth_away_since


def test_a_wrong_clock_is_no_reason_to_give_up(world: World, logged: list[str]) -> None:
    """A host that cannot join because of its clock joins when that is set."""
    world.auth.refusal = WrongClock("auth.example:3025 does not count: set the clock")
    member = world.start()
    world.clock.pump([1.0] * 40)
    assert any("set the clock" in text for text in logged)
    world.auth.refusal = None
    world.clock.pump([1.0] * 40)
    assert result(member.ready()) is None


def test_auth_that_answers_with_an_error_is_not_away(world: World) -> None:
    """Only one that does not answer at all is."""
    member = world.start()
    world.auth.refusal = WrongClock("a clock is wrong")
    world.auth.leave()
    world.auth.away = False
    world.clock.pump([1.0] * 30)
    assert member.auth_away_since is None
    assert not isinstance(world.auth.refusal, Unreachable)
