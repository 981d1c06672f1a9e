"""Shares and queues: no source shuts out others, and counting costs the same for all."""

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


def test_sources_and_their_users_take_turns() -> None:
    """An item after a hundred of another source waits for one of them, not for all."""
    queue: FairQueue[str] = FairQueue(total=500, per_source=200, each=100)
    for number in range(100):
        queue.add("flood", "mallory", f"m{number}")
    queue.add("flood", "alice", "alice")
    queue.add("office", "bob", "bob")
    order = [queue.next() for _ in range(5)]
    assert order == ["m0", "bob", "alice", "m1", "m2"]
    assert len(queue) == 97


def test_a_full_queue_displaces_for_those_who_have_less() -> None:
    """A source that fills the queue loses its last ones to others, down to an equal share."""
    queue: FairQueue[str] = FairQueue(total=4, per_source=4, each=4)
    for number in range(4):
        assert queue.add("flood", "mallory", f"m{number}") == []
    assert queue.add("flood", "mallory", "m4") is None
    assert queue.add("office", "bob", "b0") == ["m3"]
    assert queue.add("office", "bob", "b1") == ["m2"]
    assert queue.add("office", "bob", "b2") is None, "both have the same now"
    assert len(queue) == 4


def test_unwanted_items_are_dropped() -> None:
    """Those who left give their places back."""
    queue: FairQueue[int] = FairQueue(total=9, per_source=9, each=9)
    for number in range(9):
        queue.add(f"s{number % 2}", f"p{number % 3}", number)
    assert sorted(queue.drop(lambda n: n % 3 != 1)) == [0, 2, 3, 5, 6, 8]
    assert sorted(n for n in (queue.next() for _ in range(3)) if n is not None) == [1, 4, 7]
    assert (queue.next(), len(queue)) == (None, 0)
    assert queue.add("s0", "p0", 1) == []


def test_turns_cost_the_same_for_each() -> None:
    """Twice as many that wait are twice the work."""

    def work(size: int) -> int:
        queue: FairQueue[int] = FairQueue(total=10_000, per_source=100, each=1)

        def run() -> None:
            for number in range(size):
                queue.add(f"s{number // 100}", str(number), number)
            while queue.next() is not None:
                pass

        return calls(run)

    assert is_linear(work)
