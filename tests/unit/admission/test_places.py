"""Places of connections: a total, a share of each source, and who goes when it is full."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.admission.places import Places


def test_the_oldest_of_the_same_source_is_displaced() -> None:
    """A source that uses up its share closes its own oldest connection, and no other's."""
    places: Places[int] = Places(100, 2, newest_wins=True)
    assert [places.enter(n, "a") for n in (1, 2)] == [None, None]
    assert places.enter(9, "b") is None
    assert places.enter(3, "a") == 1
    assert (places.count("a"), places.count("b"), len(places)) == (2, 1, 3)


def test_a_share_that_is_used_up_is_refused() -> None:
    """Without ``newest_wins`` what lasts is not ended by what comes from the same source."""
    places: Places[int] = Places(100, 2, newest_wins=False)
    assert [places.enter(n, "a") for n in (1, 2, 3)] == [None, None, 3]
    assert len(places) == 2


@pytest.mark.parametrize("newest_wins", [True, False])
def test_a_source_with_many_clients_yields_to_one_with_few(newest_wins: bool) -> None:
    """When all is full, the source with most of its share gives a place to another (attack)."""
    places: Places[str] = Places(10, 10, newest_wins)
    for n in range(9):
        assert places.enter(f"crowd{n}", "crowd") is None
    assert places.enter("alice", "a") is None
    assert places.enter("bob", "b") == "crowd0"
    assert places.enter("carol", "c") == "crowd1"
    more = "crowd2" if newest_wins else "crowd9"
    assert places.enter("crowd9", "crowd") == more
    assert [places.count(who) for who in "abc"] == [1, 1, 1]


def test_many_sources_with_equal_use_shut_out_none() -> None:
    """Where clients send a request at once, the newest connection gets a place."""
    places: Places[int] = Places(10, 5, newest_wins=True)
    for n in range(10):
        places.enter(n, f"source{n}")
    assert places.enter(10, "another") == 0
    steady: Places[int] = Places(10, 5, newest_wins=False)
    for n in range(10):
        steady.enter(n, f"source{n}")
    assert steady.enter(10, "another") == 10


def test_a_larger_weight_gives_more_places() -> None:
    """A fleet behind one address has a larger share, and is not the fullest by its number."""
    places: Places[str] = Places(12, 3, newest_wins=True)
    for n in range(9):
        assert places.enter(f"node{n}", "nat", 4) is None
    for n in range(3):
        assert places.enter(f"attack{n}", "attacker") is None
    assert places.enter("node9", "nat", 4) == "node0"
    assert places.enter("alice", "a") in {"node1", "attack0"}


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 3), st.booleans()), min_size=1, max_size=200
    ),
    st.booleans(),
)
def test_bounds_hold_for_any_order_of_clients(
    steps: list[tuple[int, int, bool]], newest_wins: bool
) -> None:
    """Neither the total nor a share is passed, and what is counted is what is there."""
    places: Places[int] = Places(12, 3, newest_wins)
    there: dict[int, tuple[str, int]] = {}
    for number, (source, weight, leaves) in enumerate(steps):
        if leaves and there:
            gone = next(iter(there))
            del there[gone]
            places.leave(gone)
            continue
        out = places.enter(number, str(source), weight)
        there[number] = (str(source), weight)
        if out is not None:
            del there[out]
        assert len(places) == len(there) <= 12
        for name in {source for source, _ in there.values()}:
            assert places.count(name) == sum(s == name for s, _ in there.values())
    for item in list(there):
        places.leave(item)
    assert (len(places), places._levels, places._sources) == (0, {}, {})


def test_a_step_costs_the_same_however_many_there_are() -> None:
    """Ten times the connections and sources do not make one more connection dearer (attack)."""

    class Counted(str):
        steps = 0

        def __eq__(self, other: object) -> bool:
            Counted.steps += 1
            return super().__eq__(other)

        def __hash__(self) -> int:
            Counted.steps += 1
            return super().__hash__()

    def cost(sources: int) -> int:
        places: Places[int] = Places(3 * sources, 3, newest_wins=True)
        numbers = itertools.count()
        for n in range(sources):
            for _ in range(3):
                places.enter(next(numbers), Counted(f"s{n}"))
        Counted.steps = 0
        for n in range(100):
            places.enter(next(numbers), Counted(f"new{n}"))
        return Counted.steps

    assert cost(1000) <= cost(100) * 2
