"""Connections that end by time: idle ones, and those that outlast their certificate."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import Factory, define, evolve

from session_world import context
from tele.conch.session.channel import SessionChannel
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.sessions.time_limits import PERIOD, TimeLimits
from tele.testing.clocks import SettableClock


class Channel(SessionChannel):
    """A session whose windows are set here."""

    def __init__(self, terminal: bool) -> None:
        self.localWindowLeft = self.remoteWindowLeft = 1000
        self._terminal = terminal
        self.notices: list[str] = []

    @property
    def has_terminal(self) -> bool:
        return self._terminal

    def notice(self, text: str) -> bool:
        self.notices.append(text)
        self.remoteWindowLeft -= 1  # it is sent
        return True


@define
class Connection:
    """One with some channels."""

    channels: dict[int, Any] = Factory(dict)


@define
class World:
    """A connection with limits."""

    clock: SettableClock = Factory(SettableClock)
    connection: Connection = Factory(Connection)
    ended: list[Denied] = Factory(list)

    def limits(self, idle: float = 0, expires: float = 0) -> TimeLimits:
        grant = evolve(
            context().grant,
            client_idle_timeout=timedelta(seconds=idle),
            disconnect_expired_cert=bool(expires),
            expires=now(self.clock) + timedelta(seconds=expires or 1e6),
        )
        made = TimeLimits(self.clock, lambda: self.connection, self.end)
        made.follow(grant)
        return made

    def end(self, denied: Denied) -> None:
        self.ended.append(denied)

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)


@pytest.fixture
def world() -> World:
    return World()


def test_a_terminal_without_input_is_idle_whatever_it_shows(world: World) -> None:
    """Its user is told a minute before; the end has the reason."""
    terminal = world.connection.channels[0] = Channel(terminal=True)
    world.limits(idle=300)
    for _ in range(239):
        terminal.remoteWindowLeft -= 7
        world.pass_time(1)
    assert terminal.notices == []
    world.pass_time(2)
    (notice,) = terminal.notices
    assert notice == "idle for 4 min: this connection ends in 1 min unless you type something"
    world.pass_time(58)
    assert world.ended == []
    world.pass_time(2)
    (denied,) = world.ended
    assert (denied.reason, denied.message) == (
        Reason.IDLE,
        "idle for 5 min, which is the limit here",
    )
    assert len(terminal.notices) == 1
    assert world.clock.getDelayedCalls() == []


def test_input_counts_anew_also_after_the_notice(world: World) -> None:
    """A user who types at the last moment stays, and is told again before the next end."""
    terminal = world.connection.channels[0] = Channel(terminal=True)
    world.limits(idle=300)
    world.pass_time(280)
    terminal.localWindowLeft -= 1
    world.pass_time(230)
    assert world.ended == []
    assert len(terminal.notices) == 1
    world.pass_time(25 + int(PERIOD))
    assert len(terminal.notices) == 2
    world.pass_time(60)
    assert len(world.ended) == 1


@pytest.mark.parametrize("direction", ["localWindowLeft", "remoteWindowLeft"])
def test_a_command_or_a_transfer_is_active_in_either_direction(
    world: World, direction: str
) -> None:
    """A long download is not cut; a silent one is, and nothing is written into its output."""
    channel = world.connection.channels[0] = Channel(terminal=False)
    world.limits(idle=60)
    for _ in range(30):
        setattr(channel, direction, getattr(channel, direction) - 1)
        world.pass_time(20)
    assert world.ended == []
    world.pass_time(60 + int(PERIOD))
    assert [each.reason for each in world.ended] == [Reason.IDLE]
    assert channel.notices == []


def test_a_connection_without_channels_is_idle(world: World) -> None:
    """Such as a master of OpenSSH; a channel that opens or closes is activity."""
    world.limits(idle=60)
    world.pass_time(50)
    world.connection.channels[0] = Channel(terminal=True)
    world.pass_time(50)
    del world.connection.channels[0]
    world.pass_time(50)
    assert world.ended == []
    world.pass_time(60)
    assert len(world.ended) == 1


def test_a_limit_that_changes_holds_at_once(world: World) -> None:
    """A new limit begins now; none ends nothing, and leaves no timer."""
    made = world.limits(idle=600)
    world.pass_time(500)
    grant = evolve(context().grant, client_idle_timeout=timedelta(seconds=100))
    made.follow(grant)
    world.pass_time(90)
    assert world.ended == []
    made.follow(grant)  # another change of the rules
    world.pass_time(20)
    assert len(world.ended) == 1
    made.follow(evolve(grant, client_idle_timeout=timedelta(0)))
    assert world.clock.getDelayedCalls() == []


def test_a_connection_does_not_outlast_its_certificate(world: World) -> None:
    """Terminals show it a minute before, commands do not."""
    terminal = world.connection.channels[0] = Channel(terminal=True)
    command = world.connection.channels[1] = Channel(terminal=False)
    world.limits(expires=600)
    world.pass_time(538)
    assert terminal.notices == []
    world.pass_time(4)
    assert [("expires within a minute" in each) for each in terminal.notices] == [True]
    assert command.notices == []
    world.pass_time(55)
    assert world.ended == []
    world.pass_time(5)
    assert [each.reason for each in world.ended] == [Reason.EXPIRED]


def test_a_role_that_changes_after_the_end_of_the_certificate_ends_it(world: World) -> None:
    """At once: from then on it may not last any longer."""
    made = world.limits()
    grant = evolve(context().grant, expires=now(world.clock), disconnect_expired_cert=True)
    made.follow(grant)
    world.pass_time(2)
    assert [each.reason for each in world.ended] == [Reason.EXPIRED]


def test_a_connection_that_ends_first_leaves_no_timer(world: World) -> None:
    """Of either kind."""
    made = world.limits(idle=60, expires=600)
    assert world.clock.getDelayedCalls()
    made.stop()
    made.stop()
    assert world.clock.getDelayedCalls() == []
