"""The list of revoked certificates at a proxy: fetched rarely, and served without auth."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.errors import Unavailable, Unreachable
from tele.model.api.revocation import RevocationList
from tele.proxy.revocation_list import FRESH_SECONDS, WAIT_SECONDS, RevocationLists


class World:
    """A proxy whose calls to auth the test answers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls: list[Deferred[RevocationList]] = []
        self.lists = RevocationLists(self.clock, self._call)

    def _call(self) -> Deferred[RevocationList]:
        self.calls.append(Deferred())
        return self.calls[-1]

    def ask(self) -> list[Any]:
        answers: list[Any] = []
        self.lists.get().addBoth(answers.append)
        return answers


def test_auth_is_asked_once() -> None:
    """Clients that ask at the same time, or soon after, get one answer of auth (attack)."""
    world = World()
    waiting = [world.ask() for _ in range(100)]
    assert len(world.calls) == 1
    world.calls[0].callback(RevocationList(b"first"))
    assert waiting == [[b"first"]] * 100
    world.clock.advance(FRESH_SECONDS - 0.1)
    assert (world.ask(), len(world.calls)) == ([b"first"], 1)
    world.clock.advance(0.2)
    later = world.ask()
    world.calls[1].callback(RevocationList(b"second"))
    assert later == [b"second"]


def test_without_auth_the_last_list_is_served() -> None:
    """When auth refuses, or does not answer in time; each time it is asked again."""
    world = World()
    assert world.ask() == []
    world.calls[0].callback(RevocationList(b"known"))
    world.clock.advance(60)
    answer = world.ask()
    world.calls[1].errback(Unreachable("auth is away"))
    assert answer == [b"known"]
    slow = world.ask()
    assert slow == []
    world.clock.advance(WAIT_SECONDS)
    assert slow == [b"known"]
    assert len(world.calls) == 3


def test_a_list_that_was_never_there() -> None:
    """An empty list would say that nothing is revoked: there is an error."""
    world = World()
    (first, second) = world.ask(), world.ask()
    world.calls[0].errback(Unreachable("auth is away"))
    assert [each[0].check(Unavailable) for each in (first, second)] == [Unavailable] * 2
    world.ask()
    assert len(world.calls) == 2
