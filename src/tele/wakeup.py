"""How does a loop sleep so that it can be woken early?

A sleep that nothing ends early is Twisted's ``deferLater``.

Invariants:

* :meth:`Wakeup.set` while nothing waits is not lost: the next wait returns at once.
* A wait that is cancelled leaves no timer behind.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Wakeup:
    """An event that one loop waits for, at most for some time."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiter: Deferred[None] | None = None
        self._is_set = False

    async def wait(self, seconds: float | None = None) -> None:
        """Return when it is set, or after ``seconds`` (None: never)."""
        if self._is_set:
            self._is_set = False
            return
        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        timer = None if seconds is None else self._clock.callLater(seconds, self.set)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None and timer.active():
                timer.cancel()

    def set(self) -> None:
        """End the wait, or the next one if nothing waits."""
        if self._waiter is None:
            self._is_set = True
        else:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)
