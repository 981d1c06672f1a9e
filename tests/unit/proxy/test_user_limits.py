"""What one user may use of a proxy, over all connections."""

from __future__ import annotations

from typing import Any

import pytest

from tele.conch.connection.windows import MIN_WINDOW, WindowBudget, Windows
from tele.errors import AccessDenied, Unavailable
from tele.proxy.user_limits import (
    DECISIONS_BURST,
    DECISIONS_PER_SECOND,
    WINDOWS_LIMIT,
    UserLimits,
    UserUsage,
    user_limits,
)

NO_CONNECTION: Any = None


def test_connections_are_counted_by_user() -> None:
    """The limit does not depend on other users; one that is gone frees one place, once."""
    usage = UserUsage(UserLimits(connections=2))
    mine = [object(), object()]
    for each in mine:
        usage.add_connection("alice", each)
    with pytest.raises(AccessDenied, match="2 connections"):
        usage.add_connection("alice", object())
    usage.add_connection("bob", object())
    for _ in range(2):
        usage.remove_connection("alice", mine[0])
    usage.add_connection("alice", mine[0])
    with pytest.raises(AccessDenied):
        usage.add_connection("alice", object())
    for each in mine:
        usage.remove_connection("alice", each)
    assert len(usage) == 1


def test_channels_are_counted_over_all_connections() -> None:
    """It makes no difference on which connection they are; with a connection its own go."""
    usage = UserUsage(UserLimits(channels=10))
    first, second = object(), object()
    for each in (first, second):
        usage.add_connection("alice", each)
    usage.set_channels("alice", first, 6)
    assert usage.may_open("alice") == ""
    usage.set_channels("alice", second, 4)
    assert "10 channels" in usage.may_open("alice")
    assert usage.may_open("bob") == ""
    usage.set_channels("alice", first, 5)
    assert usage.may_open("alice") == ""
    usage.remove_connection("alice", first)
    usage.set_channels("alice", first, 9)
    usage.set_channels("alice", second, 9)
    assert usage.may_open("alice") == ""
    usage.set_channels("alice", second, 10)
    assert usage.may_open("alice")


def test_windows_are_counted_over_all_connections() -> None:
    """What may wait for a user who does not read is bounded over all connections (attack)."""
    usage = UserUsage()
    connections = [
        Windows(NO_CONNECTION, 1 << 24, 1 << 26, budget(usage, "alice")) for _ in range(50)
    ]
    channels = [(windows, Sized()) for windows in connections for _ in range(32)]
    for windows, channel in channels:
        windows.open(channel)
    sizes = [channel.localWindowSize for _, channel in channels]
    assert sum(sizes) <= WINDOWS_LIMIT + len(channels) * MIN_WINDOW
    assert min(sizes) == MIN_WINDOW
    other = Sized()
    Windows(NO_CONNECTION, 1 << 24, 1 << 26, budget(usage, "bob")).open(other)
    assert other.localWindowSize == 1 << 21
    for windows, channel in channels:
        windows.close(channel)
    assert budget(usage, "alice").taken == 0


class Sized:
    """A channel as far as its window goes."""

    localWindowSize = localWindowLeft = 1 << 21


def budget(usage: UserUsage, user: str) -> WindowBudget:
    """The window budget of ``user``, with one more connection."""
    return usage.add_connection(user, object())


def test_decisions_have_a_rate() -> None:
    """A user who sends requests all the time has so many a second, and takes none of another's."""
    usage = UserUsage()
    for _ in range(DECISIONS_BURST):
        usage.count_decision("alice", 0.0)
    with pytest.raises(Unavailable, match="wait"):
        usage.count_decision("alice", 0.0)
    usage.count_decision("bob", 0.0)
    for _ in range(DECISIONS_PER_SECOND):
        usage.count_decision("alice", 1.0)
    with pytest.raises(Unavailable):
        usage.count_decision("alice", 1.0)


@pytest.mark.parametrize("descriptors", [4, 256, 1024, 20_000, 1 << 20])
def test_a_user_never_has_all_descriptors(descriptors: int) -> None:
    """What one user may have is a quarter of what the process may, however little that is."""
    limits = user_limits(descriptors)
    assert limits.connections > 0
    assert limits.channels > 0
    assert limits.connections + limits.channels <= max(2, descriptors // 4)
