"""How old is what a member knows of its cluster's state?

Invariants:

* While auth sends the state, it is new: auth sends a change at once, and a word at least every
  :data:`STREAM_TIMEOUT` seconds. A connection that breaks may have been silent for so long before.
* The age never depends on a date. A member that has not heard from auth since it was started does
  not know how old its state is: it counts as older than any limit.
"""

from __future__ import annotations

from math import inf

from twisted.internet.interfaces import IReactorTime

from tele.https.call_rules import STREAM_TIMEOUT


class StateAge:
    """The age of the state that auth sends on a stream, by a monotonic clock."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._follows = False
        self._known: float | None = None

    def received(self) -> None:
        """Auth sent the state: it follows from now on."""
        self._follows = True

    def lost(self) -> None:
        """The stream has ended, or could not be opened."""
        if self._follows:
            self._follows = False
            self._known = self._clock.seconds() - STREAM_TIMEOUT

    @property
    def seconds(self) -> float:
        """The age in seconds, at most; infinite if it is not known."""
        if self._follows:
            return 0.0
        return inf if self._known is None else self._clock.seconds() - self._known
