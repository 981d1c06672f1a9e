"""Slots: so many at once, the rest in order, and nothing is left behind."""

from __future__ import annotations

from tele.admission.slots import Slot, Slots


def entered(slots: Slots, key: str, most: int, names: str, called: list[str]) -> dict[str, Slot]:
    """Enter one for each name; those who are called are noted."""
    made = {}
    for name in names:
        slot = slots.enter(key, lambda: most, lambda name=name: called.append(name))  # type: ignore[misc]
        assert slot is not None
        made[name] = slot
    return made


def test_the_rest_waits_in_order() -> None:
    """A waiting caller is called when another leaves, in order, each key by itself."""
    slots, called = Slots(waiting=10), list[str]()
    made = entered(slots, "alice", 2, "abcde", called)
    entered(slots, "bob", 2, "x", called)
    assert called == ["a", "b", "x"]
    assert (slots.held("alice"), slots.waits("alice")) == (2, 3)
    slots.leave(made["c"])
    slots.leave(made["a"])
    slots.leave(made["a"])
    assert called == ["a", "b", "x", "d"]
    slots.leave(made["b"])
    assert called[-1] == "e"


def test_what_waits_is_bounded() -> None:
    """One too many is refused, and those that wait are not affected."""
    slots, called = Slots(waiting=2), list[str]()
    made = entered(slots, "alice", 1, "abc", called)
    assert slots.enter("alice", lambda: 1, lambda: None) is None
    slots.leave(made["a"])
    assert called == ["a", "b"]
    assert slots.enter("alice", lambda: 1, lambda: None) is not None


def test_a_limit_counts_as_it_is_when_it_counts() -> None:
    """With a larger one all that it admits are called; with a smaller one none is."""
    slots, called, most = Slots(waiting=10), list[str](), [1]
    made = [
        slots.enter("alice", lambda: most[0], lambda name=name: called.append(name))  # type: ignore[misc]
        for name in "abcd"
    ]
    most[0] = 3
    slots.check("alice")
    assert called == ["a", "b", "c"]
    assert made[0] is not None
    slots.leave(made[0])
    assert called == ["a", "b", "c", "d"]
    most[0] = 1
    assert slots.enter("alice", lambda: most[0], lambda: called.append("e")) is not None
    assert made[1] is not None
    slots.leave(made[1])
    assert called[-1] == "d"


def test_nothing_is_left_behind() -> None:
    """Keys whose slots have all been left are forgotten, also where the limit was 0."""
    slots, called = Slots(waiting=0), list[str]()
    assert slots.enter("bob", lambda: 0, lambda: None) is None
    slots = Slots(waiting=5)
    for slot in entered(slots, "alice", 2, "abcd", called).values():
        slots.leave(slot)
        slots.leave(slot)
    assert len(slots) == 0
