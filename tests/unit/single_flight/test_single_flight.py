"""One piece of work for all that call while it runs."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from tele.single_flight import SingleFlight


class World:
    """Work whose ends the test decides, and callers with their results."""

    def __init__(self) -> None:
        self.works: list[Deferred[str]] = []
        self.flight = SingleFlight(self.work)

    async def work(self) -> str:
        self.works.append(Deferred())
        return await self.works[-1]

    def call(self) -> tuple[Deferred[str], list[Any]]:
        results: list[Any] = []
        caller = self.flight.call()
        caller.addBoth(results.append)
        return caller, results


def test_the_work_runs_once() -> None:
    """All that call meanwhile get its result; the next call begins anew."""
    world = World()
    calls = [world.call()[1] for _ in range(3)]
    assert len(world.works) == 1
    world.works[0].callback("one")
    assert calls == [["one"]] * 3
    assert not world.flight.is_running
    _, results = world.call()
    assert len(world.works) == 2
    world.works[1].callback("two")
    assert results == ["two"]


def test_a_result_that_is_there_at_once() -> None:
    """It is returned, and not kept."""

    async def work() -> int:
        made.append(1)
        return len(made)

    made: list[int] = []
    flight = SingleFlight(work)
    results: list[int] = []
    for _ in range(2):
        flight.call().addCallback(results.append)
    assert results == [1, 2]


def test_a_failure_is_that_of_all() -> None:
    """Each gets it, and the next call tries again."""
    world = World()
    calls = [world.call()[1] for _ in range(2)]
    world.works[0].errback(ZeroDivisionError())
    assert all(results[0].check(ZeroDivisionError) for results in calls)
    _, results = world.call()
    world.works[1].callback("good")
    assert results == ["good"]


def test_the_first_caller_may_leave() -> None:
    """The work is shared: other callers still wait for it, and are not cancelled."""
    world = World()
    first, gone = world.call()
    _, results = world.call()
    first.cancel()
    assert gone[0].check(CancelledError)
    assert results == []
    assert not world.works[0].called
    world.works[0].callback("one")
    assert results == ["one"]
    assert len(gone) == 1


def test_a_caller_that_waits_may_leave() -> None:
    """The first one's result is the same."""
    world = World()
    _, results = world.call()
    second, gone = world.call()
    second.cancel()
    assert gone[0].check(CancelledError)
    world.works[0].callback("one")
    assert results == ["one"]


def test_work_without_callers_is_cancelled() -> None:
    """When the last caller leaves; a later caller gets new work, not the cancelled one."""
    world = World()
    callers = [world.call() for _ in range(2)]
    for caller, _ in callers:
        caller.cancel()
    assert world.works[0].called
    assert not world.flight.is_running
    _, results = world.call()
    assert len(world.works) == 2
    world.works[1].callback("two")
    assert results == ["two"]


def test_the_result_of_cancelled_work_is_dropped() -> None:
    """Its result does not become that of the work that was begun after it."""
    late: list[Deferred[str]] = []

    async def work() -> str:
        late.append(Deferred(lambda _: None))
        try:
            return await late[-1]
        except CancelledError:
            late.append(Deferred())
            return await late[-1]

    flight = SingleFlight(work)
    first = flight.call()
    first.addErrback(lambda _: None)
    first.cancel()
    results: list[str] = []
    flight.call().addCallback(results.append)
    late[1].callback("old")
    assert results == []
    assert flight.is_running
    late[2].callback("new")
    assert results == ["new"]


def test_cancelling_the_work() -> None:
    """Its callers get what it makes of that."""
    world = World()
    calls = [world.call()[1] for _ in range(2)]
    world.flight.cancel()
    assert all(results[0].check(CancelledError) for results in calls)
    world.flight.cancel()  # nothing runs


def test_one_caller_cancels_another_or_calls_again() -> None:
    """From its callback: the other's result is not given twice, and the new call is new work."""
    world = World()
    first = world.flight.call()
    other, gone = world.call()
    again: list[Any] = []

    def act(_: str) -> None:
        other.cancel()
        world.flight.call().addBoth(again.append)

    first.addCallback(act)
    world.works[0].callback("one")
    assert len(gone) == 1
    assert len(world.works) == 2
    assert again == []
    world.works[1].callback("two")
    assert again == ["two"]
