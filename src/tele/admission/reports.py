"""How often may something happen that a stranger can cause?

Invariants of this file:

* Bookkeeping only: the time is an argument.
* What is left out is counted, and the count is told with the next that is not.
* Where sources or people have a share each, memory is bounded: who was not heard of for longest
  is forgotten, and begins with a full share again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

#: Sources or people whose shares are remembered.
KEYS_LIMIT: Final = 10_000


@define
class Allowance:
    """So many in one go, and so many more each second."""

    burst: float
    per_second: float
    _left: float = field(init=False)
    _last: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float, amount: int = 1) -> bool:
        """Take ``amount``; False if there is less left. ``now`` is in seconds."""
        earned = max(0.0, now - self._last) * self.per_second
        self._left = min(self.burst, self._left + earned)
        self._last = now
        if self._left < amount:
            return False
        self._left -= amount
        return True


@define
class Allowances:
    """An allowance for each key: ``make()`` makes a full one."""

    make: Callable[[], Allowance]
    most: int = KEYS_LIMIT
    _of: dict[str, Allowance] = field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._of)

    def take(self, key: str, now: float, amount: int = 1) -> bool:
        """Take ``amount`` of what ``key`` has; False if there is less left."""
        allowance = self._of.pop(key, None) or self.make()
        while len(self._of) >= self.most:
            del self._of[next(iter(self._of))]
        self._of[key] = allowance
        return allowance.take(now, amount)


@define
class Ration:
    """Which of many reports are made, so that a stranger fills neither log nor audit.

    With ``each`` every source has an allowance, too: what one says again and again leaves room
    for what others say.
    """

    allowance: Allowance
    each: Allowances | None = None
    _unsaid: int = field(default=0, init=False)

    def admit(self, now: float, source: str = "") -> int | None:
        """Return how many were left out since the last one that was made; None: leave it out."""
        own = self.each is None or self.each.take(source, now)
        if not own or not self.allowance.take(now):
            self._unsaid += 1
            return None
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
