"""What one person may use of a proxy, over all their connections."""

from __future__ import annotations

from typing import Any

import pytest

from tele.conch.connection.windows import MIN_WINDOW, WindowBudget, Windows
from tele.errors import AccessDenied, Unavailable
from tele.proxy.user_limits import (
    DECISIONS_BURST,
    DECISIONS_PER_SECOND,
    WINDOWS_LIMIT,
    People,
    PersonLimits,
    person_limits,
)

NO_CONNECTION: Any = None


def test_connections_are_counted_by_person() -> None:
    """So many and no more, whatever others have; one that is gone leaves room, once."""
    people = People(PersonLimits(connections=2))
    mine = [object(), object()]
    for each in mine:
        people.enter("alice", each)
    with pytest.raises(AccessDenied, match="2 connections"):
        people.enter("alice", object())
    people.enter("bob", object())
    for _ in range(2):
        people.leave("alice", mine[0])
    people.enter("alice", mine[0])
    with pytest.raises(AccessDenied):
        people.enter("alice", object())
    for each in mine:
        people.leave("alice", each)
    assert len(people) == 1


def test_channels_are_counted_over_all_connections() -> None:
    """It makes no difference on which connection they are; with a connection its own go."""
    people = People(PersonLimits(channels=10))
    first, second = object(), object()
    for each in (first, second):
        people.enter("alice", each)
    people.has_channels("alice", first, 6)
    assert people.may_open("alice") == ""
    people.has_channels("alice", second, 4)
    assert "10 ways" in people.may_open("alice")
    assert people.may_open("bob") == ""
    people.has_channels("alice", first, 5)
    assert people.may_open("alice") == ""
    people.leave("alice", first)
    people.has_channels("alice", first, 9)
    people.has_channels("alice", second, 9)
    assert people.may_open("alice") == ""
    people.has_channels("alice", second, 10)
    assert people.may_open("alice")


def test_windows_are_a_persons_over_all_connections() -> None:
    """What may wait for who does not read is bounded over all their connections (attack)."""
    people = People()
    connections = [
        Windows(NO_CONNECTION, 1 << 24, 1 << 26, budget(people, "alice")) for _ in range(50)
    ]
    channels = [(windows, Sized()) for windows in connections for _ in range(32)]
    for windows, channel in channels:
        windows.open(channel)
    sizes = [channel.localWindowSize for _, channel in channels]
    assert sum(sizes) <= WINDOWS_LIMIT + len(channels) * MIN_WINDOW
    assert min(sizes) == MIN_WINDOW
    other = Sized()
    Windows(NO_CONNECTION, 1 << 24, 1 << 26, budget(people, "bob")).open(other)
    assert other.localWindowSize == 1 << 21
    for windows, channel in channels:
        windows.close(channel)
    assert people.window_budget("alice").taken == 0


class Sized:
    """A channel as far as its window goes."""

    localWindowSize = localWindowLeft = 1 << 21


def budget(people: People, user: str) -> WindowBudget:
    """What ``user`` has, who is connected."""
    people.enter(user, object())
    return people.window_budget(user)


def test_decisions_come_back_with_time() -> None:
    """Somebody who asks all the time has so many a second, and takes none of another's."""
    people = People()
    for _ in range(DECISIONS_BURST):
        people.decides("alice", 0.0)
    with pytest.raises(Unavailable, match="wait"):
        people.decides("alice", 0.0)
    people.decides("bob", 0.0)
    for _ in range(DECISIONS_PER_SECOND):
        people.decides("alice", 1.0)
    with pytest.raises(Unavailable):
        people.decides("alice", 1.0)


@pytest.mark.parametrize("descriptors", [4, 256, 1024, 20_000, 1 << 20])
def test_a_person_never_has_all_descriptors(descriptors: int) -> None:
    """What one person may have is a quarter of what the process may, however little that is."""
    limits = person_limits(descriptors)
    assert limits.connections > 0
    assert limits.channels > 0
    assert limits.connections + limits.channels <= max(2, descriptors // 4)
