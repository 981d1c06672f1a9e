"""Threads that wait for others: each key has a share, a bounded queue, and a deadline."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import Unavailable
from tele.workers import KEYS_WAITING, Workers


@implementer(IReactorFromThreads)
class Reactor(Clock):
    """A clock that threads can call; :meth:`turn` waits for the next call of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put(lambda: callable(*args, **kwargs))

    def turn(self) -> None:
        self._calls.get(timeout=30)()


@define
class World:
    """Workers whose calls last until the test ends them."""

    reactor: Reactor = field(factory=Reactor)
    ends: dict[str, threading.Event] = field(factory=dict)
    began: SimpleQueue[str] = field(factory=SimpleQueue)
    ended: dict[str, Any] = field(factory=dict)
    workers: Workers = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.workers = Workers(
            self.reactor, "the oracle", threads=4, share=2, waiting=3, seconds=15
        )

    def ask(self, key: str, name: str) -> Deferred[str]:
        """Call something that lasts, by the name ``name``."""
        event = self.ends[name] = threading.Event()

        def wait() -> str:
            self.began.put(name)
            assert event.wait(30)
            return f"answer of {name}"

        asked = self.workers.call(key, wait)
        asked.addBoth(lambda result: self.ended.__setitem__(name, result))
        return asked

    def begin(self, count: int) -> set[str]:
        """Return the names of the next ``count`` that have a thread."""
        return {self.began.get(timeout=30) for _ in range(count)}

    def end(self, name: str) -> None:
        """Let one end, and the reactor get the result."""
        self.ends[name].set()
        self.reactor.turn()

    def end_all(self) -> None:
        for event in self.ends.values():
            event.set()
        self.workers.close()


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.end_all()


def test_an_answer_is_returned(world: World) -> None:
    """What a call returns, and what it raises, is what its caller gets."""
    world.ask("a", "one")
    world.begin(1)
    world.end("one")
    assert world.ended == {"one": "answer of one"}
    failed: list[Failure] = []
    world.workers.call("a", lambda: 1 / 0).addErrback(failed.append)
    world.reactor.turn()
    assert failed[0].check(ZeroDivisionError)
    assert (world.workers.running, world.workers.waiting) == (0, 0)
    assert not world.reactor.getDelayedCalls()


def test_a_stuck_call_does_not_delay_other_keys(world: World) -> None:
    """However many long calls one key makes, a call of another has a thread at once (attack)."""
    for number in range(10):
        world.ask("mallory", f"m{number}")
    assert world.begin(2) == {"m0", "m1"}
    world.ask("alice", "a")
    assert world.begin(1) == {"a"}
    world.end("a")
    assert world.ended["a"] == "answer of a"
    refused = [name for name, result in world.ended.items() if isinstance(result, Failure)]
    assert refused == [f"m{number}" for number in range(5, 10)]


def test_keys_take_turns(world: World) -> None:
    """When all threads are busy, a key with one call does not wait for all calls of another key."""
    for key in ("m", "n"):
        for number in range(4):
            world.ask(key, f"{key}{number}")
    assert world.begin(4) == {"m0", "m1", "n0", "n1"}
    world.ask("alice", "a")
    world.end("m0")
    first = world.begin(1)
    world.end("n0")
    second = world.begin(1)
    world.end("m1")
    assert "a" in first | second | world.begin(1)


def test_a_call_has_a_deadline_and_its_thread_still_counts(world: World) -> None:
    """A call that waits too long fails; a stuck thread still counts for its key."""
    for number in range(3):
        world.ask("mallory", f"m{number}")
    world.begin(2)
    world.reactor.advance(15)
    assert all(result.check(Unavailable) for result in world.ended.values())
    assert "the oracle did not answer within 15 s" in str(world.ended["m0"].value)
    assert (world.workers.running, world.workers.waiting) == (2, 0)
    world.ask("mallory", "m3")
    assert (world.workers.running, world.workers.waiting) == (2, 1)
    world.end("m0")
    assert world.begin(1) == {"m3"}


def test_a_cancelled_call_is_not_made(world: World) -> None:
    """A call that waits and is cancelled leaves nothing behind."""
    world.ask("a", "one")
    world.ask("a", "two")
    world.begin(2)
    world.ask("a", "three").cancel()
    assert world.ended["three"].check(CancelledError)
    assert world.workers.waiting == 0
    for name in ("one", "two"):
        world.end(name)
    assert world.began.empty()
    assert not world.reactor.getDelayedCalls()


def test_all_together_are_bounded_fairly(world: World) -> None:
    """When the queue is full, the key with most calls loses one for the new call of another key."""
    for number in range(KEYS_WAITING + 4):
        for call in range(3):
            world.ask(f"k{number}", f"k{number}.{call}")
    assert world.workers.waiting == 3 * KEYS_WAITING
    before = sum(isinstance(result, Failure) for result in world.ended.values())
    waiting = world.ask("alice", "a")
    assert not waiting.called
    assert world.workers.waiting == 3 * KEYS_WAITING
    assert sum(isinstance(result, Failure) for result in world.ended.values()) == before + 1


def test_closed_workers_do_nothing(world: World) -> None:
    """At the end what waits fails, and what comes later, too."""
    for number in range(3):
        world.ask("a", f"a{number}")
    world.begin(2)
    world.workers.close()
    assert world.ended["a2"].check(Unavailable)
    world.ask("a", "late")
    assert world.ended["late"].check(Unavailable)


def test_a_call_costs_the_same_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many calls that wait are twice the work, not more for each of them (attack)."""

    class Silent:
        def __init__(self, **named: Any) -> None:
            pass

        def start(self) -> None:
            pass

    monkeypatch.setattr(threading, "Thread", Silent)

    def steps(count: int) -> int:
        made = Workers(Clock(), "x", threads=1, share=1, waiting=10_000, seconds=15)
        count_of_calls = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal count_of_calls
            count_of_calls += event in ("call", "c_call")

        # The clock sorts all that is to be called, which is the test's.
        monkeypatch.setattr(made._reactor, "callLater", lambda *_: Timer())
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            asked = [made.call(f"k{n % 10}", int) for n in range(count)]
            for _ in range(count):
                call = made._jobs.get_nowait()
                assert call is not None
                made._done(call, 1)
        finally:
            sys.setprofile(before)
        assert all(each.called for each in asked)
        return count_of_calls

    assert steps(2000) <= 2.1 * steps(1000)


class Timer:
    """A call that never comes."""

    def active(self) -> bool:
        return True

    def cancel(self) -> None:
        pass
