"""A loop sleeps for its time, or until it is woken."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tele.wakeup import Wakeup


def waiting(wakeup: Wakeup, seconds: float | None = None) -> tuple[Deferred[None], list[Any]]:
    ended: list[Any] = []
    wait = Deferred.fromCoroutine(wakeup.wait(seconds))
    wait.addBoth(ended.append)
    return wait, ended


def test_it_ends_in_time_or_when_it_is_set() -> None:
    """No timer is left behind, and without a time it waits for ever."""
    clock = Clock()
    wakeup = Wakeup(clock)
    _, ended = waiting(wakeup, 5)
    clock.advance(4)
    assert ended == []
    clock.advance(1)
    assert ended == [None]
    _, ended = waiting(wakeup, 5)
    wakeup.set()
    assert ended == [None]
    assert clock.getDelayedCalls() == []
    _, ended = waiting(wakeup)
    assert clock.getDelayedCalls() == []
    assert ended == []
    wakeup.set()
    assert ended == [None]


def test_setting_early_is_not_lost() -> None:
    """However often it was set: the next wait returns at once, and the one after it waits."""
    clock = Clock()
    wakeup = Wakeup(clock)
    wakeup.set()
    wakeup.set()
    assert waiting(wakeup, 5)[1] == [None]
    assert waiting(wakeup, 5)[1] == []


def test_a_cancelled_wait_leaves_nothing() -> None:
    """No timer, and the next wait is a new one."""
    clock = Clock()
    wakeup = Wakeup(clock)
    wait, ended = waiting(wakeup, 5)
    wait.cancel()
    assert ended[0].check(CancelledError)
    assert clock.getDelayedCalls() == []
    _, ended = waiting(wakeup, 5)
    clock.advance(5)
    assert ended == [None]
