"""A server that stops lets those end who are in the middle of something, and tells all why."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred

from tele.conch.server.drain import POLL_SECONDS, Drain
from tele.testing.ssh import Address, Ends, World
from tele.wire import numbers as n

WHY = "the node is shutting down"


@define
class Stopping:
    """A server with three visitors of whom two are busy, and a stranger."""

    world: World = field(factory=World)
    busy: set[Any] = field(factory=set)
    drain: Drain = field(init=False)
    ends: list[Ends] = field(init=False)
    stranger: Any = field(init=False)
    said: list[tuple[Any, bytes]] = field(factory=list)
    done: list[float] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        factory = self.world.factory
        self.ends = [self.world.connect() for _ in range(3)]
        self.busy = {id(ends.server) for ends in self.ends[:2]}
        self.stranger, _ = self.world.alone()
        self.drain = Drain(self.world.clock, lambda: factory.present, lambda t: id(t) in self.busy)
        for ends in self.ends:
            ends.client.receiveError = lambda code, text, c=ends.client: self.said.append((c, text))
        assert len(factory.present) == 4

    def start(self, grace: float) -> None:
        saying = Deferred.fromCoroutine(self.drain.start(grace, WHY))
        saying.addCallback(lambda _: self.done.append(self.world.clock.seconds()))
        self.look()

    def look(self, seconds: float = 0.0) -> None:
        """Let time pass, and bytes arrive."""
        for _ in range(int(seconds / 0.05) or 1):
            self.world.clock.advance(0.05 if seconds else 0)
            for ends in self.ends:
                ends.settle()
            if self.stranger.closing:
                self.stranger.connectionLost(None)
            for ends in self.ends:
                if ends.server.closing:
                    ends.server.connectionLost(None)

    @property
    def closing(self) -> list[bool]:
        return [ends.server.closing for ends in self.ends]


@pytest.fixture
def stopping() -> Stopping:
    return Stopping()


def test_those_who_are_busy_may_go_on(stopping: Stopping) -> None:
    """Nobody is told anything while somebody is busy; when the last one is done, all end with
    a word why.
    """
    stopping.start(60)
    stopping.look(20)
    assert stopping.closing == [False] * 3
    assert not stopping.said
    stopping.busy.pop()
    stopping.look(5)
    assert stopping.closing == [False] * 3
    stopping.busy.pop()
    stopping.look(2 * POLL_SECONDS)
    assert [text for _, text in stopping.said] == [WHY.encode()] * 3
    assert stopping.done
    assert not stopping.world.factory.present


def test_a_stranger_has_to_leave_at_once(stopping: Stopping) -> None:
    """Who has not logged in is sent away whoever is busy, and it is not held against them."""
    stopping.start(60)
    assert stopping.stranger.closing
    assert stopping.stranger.fault is None
    assert not stopping.done
    assert len(stopping.world.factory.present) == 3


def test_the_deadline(stopping: Stopping) -> None:
    """Who is busy still at the deadline is hung up on."""
    stopping.start(10)
    stopping.look(9)
    assert not any(stopping.closing)
    stopping.look(2)
    assert all(stopping.closing)
    assert stopping.done


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_hurry(stopping: Stopping, when: str) -> None:
    """Told to hurry, it waits for nobody."""
    if when == "before":
        stopping.drain.force()
    stopping.start(1000)
    assert all(stopping.closing) is (when == "before")
    stopping.drain.force()
    stopping.look(2 * POLL_SECONDS)
    assert all(stopping.closing)
    assert stopping.done


def test_no_grace_is_the_end_at_once(stopping: Stopping) -> None:
    """With a grace of 0 nobody is waited for."""
    stopping.start(0)
    assert all(stopping.closing)


def test_who_does_not_read_our_last_words(stopping: Stopping) -> None:
    """A peer that does not take the DISCONNECT is waited for as long as it may linger."""
    for ends in stopping.ends:
        ends.server.transport.loseConnection = lambda: None
        ends.server.connectionLost = lambda _=None: None
    stopping.start(0)
    stopping.look(stopping.world.limits.linger)
    assert not stopping.done
    stopping.look(1)
    assert stopping.done
    assert not stopping.world.clock.getDelayedCalls()


def test_a_server_without_visitors(stopping: Stopping) -> None:
    """There is nothing to wait for."""
    world = World()
    done: list[None] = []
    saying = Deferred.fromCoroutine(
        Drain(world.clock, lambda: world.factory.present).start(1000, WHY)
    )
    saying.addCallback(done.append)
    assert done == [None]


def test_everybody_is_known_until_they_are_gone() -> None:
    """Who is connected is in the factory's list exactly as long, whichever end it was."""
    world = World()
    ends = world.connect()
    server, _ = world.alone()
    vouched = world.factory.build_vouched(Address())
    assert world.factory.present == {ends.server, server}  # not connected: not present
    assert vouched not in world.factory.present
    ends.client.sendDisconnect(n.BY_APPLICATION, b"bye")
    ends.settle()
    server.connectionLost(None)
    assert not world.factory.present
