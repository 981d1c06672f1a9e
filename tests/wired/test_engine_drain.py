"""A server that stops waits for connections in use, and sends all of them the reason."""

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
    """A server with three connections, two of them busy, and an unauthenticated one."""

    world: World = field(factory=World)
    busy: set[Any] = field(factory=set)
    drain: Drain = field(init=False)
    ends: list[Ends] = field(init=False)
    unauthenticated: Any = field(init=False)
    reasons: list[tuple[Any, bytes]] = field(factory=list)
    done: list[float] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        factory = self.world.factory
        self.ends = [self.world.connect() for _ in range(3)]
        self.busy = {id(ends.server) for ends in self.ends[:2]}
        self.unauthenticated, _ = self.world.alone()
        self.drain = Drain(self.world.clock, lambda: factory.present, lambda t: id(t) in self.busy)
        for ends in self.ends:
            ends.client.receiveError = lambda code, text, c=ends.client: self.reasons.append(
                (c, text)
            )
        assert len(factory.present) == 4

    def start(self, grace: float) -> None:
        draining = Deferred.fromCoroutine(self.drain.start(grace, WHY))
        draining.addCallback(lambda _: self.done.append(self.world.clock.seconds()))
        self.advance()

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass, and bytes arrive."""
        for _ in range(int(seconds / 0.05) or 1):
            self.world.clock.advance(0.05 if seconds else 0)
            for ends in self.ends:
                ends.settle()
            if self.unauthenticated.closing:
                self.unauthenticated.connectionLost(None)
            for ends in self.ends:
                if ends.server.closing:
                    ends.server.connectionLost(None)

    @property
    def closing(self) -> list[bool]:
        return [ends.server.closing for ends in self.ends]


@pytest.fixture
def stopping() -> Stopping:
    return Stopping()


def test_busy_connections_continue(stopping: Stopping) -> None:
    """Nothing is sent while one is busy; after the last one all are closed with a reason."""
    stopping.start(60)
    stopping.advance(20)
    assert stopping.closing == [False] * 3
    assert not stopping.reasons
    stopping.busy.pop()
    stopping.advance(5)
    assert stopping.closing == [False] * 3
    stopping.busy.pop()
    stopping.advance(2 * POLL_SECONDS)
    assert [text for _, text in stopping.reasons] == [WHY.encode()] * 3
    assert stopping.done
    assert not stopping.world.factory.present


def test_an_unauthenticated_client_is_disconnected_at_once(stopping: Stopping) -> None:
    """An unauthenticated connection is closed whatever is busy, without a penalty."""
    stopping.start(60)
    assert stopping.unauthenticated.closing
    assert stopping.unauthenticated.fault is None
    assert not stopping.done
    assert len(stopping.world.factory.present) == 3


def test_the_deadline(stopping: Stopping) -> None:
    """A connection in use at the deadline is closed."""
    stopping.start(10)
    stopping.advance(9)
    assert not any(stopping.closing)
    stopping.advance(2)
    assert all(stopping.closing)
    assert stopping.done


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_hurry(stopping: Stopping, when: str) -> None:
    """Once forced, it does not wait."""
    if when == "before":
        stopping.drain.force()
    stopping.start(1000)
    assert all(stopping.closing) is (when == "before")
    stopping.drain.force()
    stopping.advance(2 * POLL_SECONDS)
    assert all(stopping.closing)
    assert stopping.done


def test_no_grace_is_the_end_at_once(stopping: Stopping) -> None:
    """With a grace of 0 it does not wait."""
    stopping.start(0)
    assert all(stopping.closing)


def test_a_client_that_does_not_read_the_disconnect(stopping: Stopping) -> None:
    """A peer that does not take the DISCONNECT is waited for as long as it may linger."""
    for ends in stopping.ends:
        ends.server.transport.loseConnection = lambda: None
        ends.server.connectionLost = lambda _=None: None
    stopping.start(0)
    stopping.advance(stopping.world.limits.linger)
    assert not stopping.done
    stopping.advance(1)
    assert stopping.done
    assert not stopping.world.clock.getDelayedCalls()


def test_a_server_without_connections(stopping: Stopping) -> None:
    """There is nothing to wait for."""
    world = World()
    done: list[None] = []
    draining = Deferred.fromCoroutine(
        Drain(world.clock, lambda: world.factory.present).start(1000, WHY)
    )
    draining.addCallback(done.append)
    assert done == [None]


def test_every_connection_is_listed_until_it_ends() -> None:
    """A connection is in the factory's list until it is closed, by either end."""
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
