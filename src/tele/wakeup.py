"""How does a loop sleep so that it can be woken early?

Invariants:

* A ring that comes while nobody waits is not lost: the next wait returns at once.
* A wait that is cancelled leaves no timer behind.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class Wakeup:
    """Something to wait for, with a clock beside it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiter: Deferred[None] | None = None
        self._rung = False

    async def wait(self, seconds: float | None = None) -> None:
        """Return after ``seconds`` (None: never), or when it rings."""
        if self._rung:
            self._rung = False
            return
        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        timer = None if seconds is None else self._reactor.callLater(seconds, self.ring)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None and timer.active():
                timer.cancel()

    def ring(self) -> None:
        """Wake the one who waits, or the next who will."""
        if self._waiter is None:
            self._rung = True
        else:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)
