"""Counting strangers."""

from __future__ import annotations

import pytest

from tele.conch.limits import (
    PROXY_STARTUPS,
    REKEY_BURST,
    STARTUPS,
    Limits,
    RekeyAllowance,
    Startups,
    fitted,
)


@pytest.mark.parametrize(
    ("inside", "draw", "enters"),
    [
        (9, 0.0, True),
        (10, 0.29, False),
        (10, 0.30, True),
        (55, 0.64, False),
        (55, 0.65, True),
        (99, 0.992, False),
        (100, 0.9999, False),
    ],
)
def test_early_drop(inside: int, draw: float, enters: bool) -> None:
    """From 10 on, 30 % are dropped, growing to all at 100, of those who have a connection."""
    draws = [0.9999] * inside + [draw]
    startups = Startups(Limits(startups=(10, 30, 100)), lambda: draws[-1])
    draws[-1] = 0.9999
    for number in range(inside):
        assert startups.enter(f"192.0.2.{number}") is not None
    draws[-1] = draw
    assert (startups.enter("192.0.2.1") is not None) is enters


def test_who_comes_alone_is_not_refused_by_chance() -> None:
    """A few sources that use all of their shares keep out nobody else, until all is full."""
    limits = fitted(Limits(startups=PROXY_STARTUPS), 100_000)
    startups = Startups(limits, lambda: 0.0)  # a draw that refuses wherever one is made
    for number in range(4):
        while startups.enter(f"192.0.2.{number}", home=True):
            pass
    assert startups.enter("198.51.100.1") is not None
    assert startups.enter("198.51.100.1") is None


@pytest.mark.parametrize("startups", [STARTUPS, PROXY_STARTUPS])
@pytest.mark.parametrize("descriptors", [8, 64, 256, 100_000])
def test_a_home_alone_keeps_nobody_out(startups: tuple[int, int, int], descriptors: int) -> None:
    """Idle connections from behind the fleet's address refuse nobody who comes from elsewhere."""
    limits = fitted(Limits(startups=startups), descriptors)
    counted = Startups(limits, lambda: 0.0)
    while counted.enter("192.0.2.1", home=True):
        pass
    assert counted.enter("198.51.100.1") is not None


def test_fifty_at_once() -> None:
    """A tool that logs in fifty times at once is let in; its source alone keeps nobody out."""
    startups = Startups(Limits(), lambda: 0.0)  # a draw that refuses wherever one is made
    assert all(startups.enter("192.0.2.1") for _ in range(50))
    while startups.enter("192.0.2.1"):
        pass
    assert startups.enter("198.51.100.1") is not None


def test_one_source_has_a_share() -> None:
    """A source that has its share waits until one of its own has left."""
    startups = Startups(Limits(startups_per_source=2), lambda: 0.5)
    first = startups.enter("192.0.2.1")
    assert first is not None
    assert startups.enter("192.0.2.1") is not None
    assert startups.enter("192.0.2.1") is None
    assert startups.enter("192.0.2.2") is not None
    startups.leave(first)
    assert startups.enter("192.0.2.1") is not None


def test_leaving_leaves_nothing() -> None:
    """Sources that are gone are not remembered."""
    startups = Startups(Limits(), lambda: 0.5)
    for number in range(1000):
        source = startups.enter(f"192.0.{number % 256}.{number // 256}")
        assert source is not None
        startups.leave(source)
    assert not startups._by_source
    assert startups._count == 0


def test_rekeying() -> None:
    """Exchanges after some data are free; idle ones are rationed and come back with time."""
    allowance = RekeyAllowance()
    assert all(allowance.take(1 << 20, 0.0) for _ in range(1000))
    assert all(allowance.take(0, 0.0) for _ in range(REKEY_BURST))
    assert not allowance.take(0, 0.0)
    assert allowance.take(0, 1.0)
    assert not allowance.take(0, 1.0)
