"""One call in each turn of the reactor."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock

from tele.call_queue import CallQueue


def test_each_call_has_a_turn_of_its_own() -> None:
    """Calls that are ready at once run in order, and between two of them others have their turn."""
    clock, order = Clock(), list[str]()
    queue = CallQueue(clock)
    for name in ("one", "two", "three"):
        queue.add(partial(order.append, name))
    clock.callLater(0, order.append, "heartbeat")
    clock.advance(0)
    clock.advance(0)
    clock.advance(0)
    assert order.index("heartbeat") < order.index("two")
    assert [each for each in order if each != "heartbeat"] == ["one", "two", "three"]
    assert not clock.getDelayedCalls()


def test_a_call_may_add_another() -> None:
    """What a call adds comes after what waits, and nothing is left when all is done."""
    clock, order = Clock(), list[str]()
    queue = CallQueue(clock)

    def first() -> None:
        order.append("first")
        queue.add(lambda: order.append("third"))

    queue.add(first)
    queue.turn().addCallback(lambda _: order.append("second"))
    while clock.getDelayedCalls():
        clock.advance(0)
    assert order == ["first", "second", "third"]
