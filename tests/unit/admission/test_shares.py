"""Shares, rates and turns: nobody keeps others out, and counting costs the same for all."""

from __future__ import annotations

from counting import calls, is_linear
from tele.admission.fair_queue import FairQueue
from tele.admission.shares import Shares


def test_one_key_does_not_take_what_others_need() -> None:
    """A key gets its share and no more, all together get the total, and nothing is left behind."""
    shares = Shares(each=3, total=5)
    assert [shares.take("a") for _ in range(4)] == [True, True, True, False]
    assert shares.take("b", 2)
    assert not shares.take("c")
    shares.give_back("a", 3)
    assert shares.take("c")
    shares.give_back("b", 2)
    shares.give_back("c")
    assert (shares.held, len(shares)) == (0, 0)


def test_sources_and_their_people_take_turns() -> None:
    """Whoever comes after a hundred of another source waits for one of them, not for all."""
    turns: FairQueue[str] = FairQueue(total=500, per_source=200, each=100)
    for number in range(100):
        turns.add("flood", "mallory", f"m{number}")
    turns.add("flood", "alice", "alice")
    turns.add("home", "bob", "bob")
    order = [turns.next() for _ in range(5)]
    assert order == ["m0", "bob", "alice", "m1", "m2"]
    assert len(turns) == 97


def test_a_full_queue_makes_room_for_those_who_have_less() -> None:
    """A source that fills the queue loses its last ones to others, down to an equal share."""
    turns: FairQueue[str] = FairQueue(total=4, per_source=4, each=4)
    for number in range(4):
        assert turns.add("flood", "mallory", f"m{number}") == []
    assert turns.add("flood", "mallory", "m4") is None
    assert turns.add("home", "bob", "b0") == ["m3"]
    assert turns.add("home", "bob", "b1") == ["m2"]
    assert turns.add("home", "bob", "b2") is None, "both have the same now"
    assert len(turns) == 4


def test_what_nobody_waits_for_is_taken_out() -> None:
    """Those who left give their places back."""
    turns: FairQueue[int] = FairQueue(total=9, per_source=9, each=9)
    for number in range(9):
        turns.add(f"s{number % 2}", f"p{number % 3}", number)
    assert sorted(turns.drop(lambda n: n % 3 != 1)) == [0, 2, 3, 5, 6, 8]
    assert sorted(n for n in (turns.next() for _ in range(3)) if n is not None) == [1, 4, 7]
    assert (turns.next(), len(turns)) == (None, 0)
    assert turns.add("s0", "p0", 1) == []


def test_turns_cost_the_same_for_each() -> None:
    """Twice as many that wait are twice the work."""

    def work(size: int) -> int:
        turns: FairQueue[int] = FairQueue(total=10_000, per_source=100, each=1)

        def run() -> None:
            for number in range(size):
                turns.add(f"s{number // 100}", str(number), number)
            while turns.next() is not None:
                pass

        return calls(run)

    assert is_linear(work)
