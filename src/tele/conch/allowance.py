"""How often may something happen that a stranger can cause?

Laws of this file:

* Bookkeeping only: the time is an argument, and nothing is remembered but two numbers.
* What is left out is counted, and the count is told with the next that is not.
"""

from __future__ import annotations

from attrs import define, field


@define
class Allowance:
    """So many in one go, and so many more each second."""

    burst: float
    per_second: float
    _left: float = field(init=False)
    _last: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float) -> bool:
        """Take one; False if there is none left. ``now`` is in seconds."""
        earned = max(0.0, now - self._last) * self.per_second
        self._left = min(self.burst, self._left + earned)
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@define
class Ration:
    """Which of many reports are made, so that a stranger fills neither log nor audit."""

    allowance: Allowance
    _unsaid: int = field(default=0, init=False)

    def admit(self, now: float) -> int | None:
        """Return how many were left out since the last one that was made; None: leave it out."""
        if not self.allowance.take(now):
            self._unsaid += 1
            return None
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
