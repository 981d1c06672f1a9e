"""Counting unauthenticated connections."""

from __future__ import annotations

import pytest

from tele.admission.limits import (
    EARNED_OCTETS,
    PROXY_STARTUPS,
    REKEY_BURST,
    REKEY_PER_SECOND,
    STARTUPS,
    Limits,
    RekeyPace,
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


def test_a_single_client_is_not_refused_by_chance() -> None:
    """A few sources that use all of their shares shut out no other, until all is full."""
    limits = fitted(Limits(startups=PROXY_STARTUPS), 100_000)
    startups = Startups(limits, lambda: 0.0)  # a draw that refuses wherever one is made
    for number in range(4):
        while startups.enter(f"192.0.2.{number}", member=True):
            pass
    assert startups.enter("198.51.100.1") is not None
    assert startups.enter("198.51.100.1") is None


@pytest.mark.parametrize("startups", [STARTUPS, PROXY_STARTUPS])
@pytest.mark.parametrize("descriptors", [8, 64, 256, 100_000])
def test_a_member_source_alone_shuts_out_no_other(
    startups: tuple[int, int, int], descriptors: int
) -> None:
    """Idle connections from the fleet's address do not make others be refused."""
    limits = fitted(Limits(startups=startups), descriptors)
    counted = Startups(limits, lambda: 0.0)
    while counted.enter("192.0.2.1", member=True):
        pass
    assert counted.enter("198.51.100.1") is not None


def test_fifty_at_once() -> None:
    """A tool that logs in fifty times at once is admitted; its source alone shuts out no other."""
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
    """Exchanges after some data are free; idle ones wait, whichever connection of a source starts
    them, and other sources do not wait for it.
    """
    pace = RekeyPace()
    assert not any(pace.wait("a", EARNED_OCTETS, 0.0) for _ in range(1000))
    assert not any(pace.wait("a", 0, 0.0) for _ in range(REKEY_BURST))
    assert pace.wait("a", 0, 0.0) == pytest.approx(1 / REKEY_PER_SECOND)
    assert pace.wait("a", 0, 0.0) == pytest.approx(2 / REKEY_PER_SECOND)
    assert not pace.wait("b", 0, 0.0)
    assert not pace.wait("a", 0, 1.0)


def test_an_exchange_costs_what_it_has_not_earned() -> None:
    """A client that moved half of the bytes for an exchange may start twice as many."""
    pace = RekeyPace()
    assert not any(pace.wait("a", EARNED_OCTETS // 2, 0.0) for _ in range(2 * REKEY_BURST))
    assert pace.wait("a", EARNED_OCTETS // 2, 0.0) == pytest.approx(0.5 / REKEY_PER_SECOND)
