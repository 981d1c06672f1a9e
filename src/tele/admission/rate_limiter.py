"""How often may a peer cause an action?

Invariants:

* Bookkeeping only: times are arguments, in seconds of any one clock.
* Each call costs the same, however many keys there are, and memory is bounded: the key that was
  used least recently is forgotten, and begins with a full bucket again.
* A report that is left out is counted, and the count goes with the next one that is made.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

from attrs import define, field

#: Keys that a limiter remembers.
KEYS_LIMIT: Final = 65536


@define
class RateLimiter:
    """A token bucket for each key: ``burst`` units at once, and ``per_second`` more.

    One bucket for all is the bucket of one key, such as the empty string.
    """

    burst: float
    per_second: float
    most: int = KEYS_LIMIT
    #: Units left and when they were counted, the key used last at the end.
    _left: dict[str, tuple[float, float]] = field(factory=dict, init=False)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._left)

    def take(self, key: str, now: float, units: float = 1.0) -> bool:
        """Use ``units`` of ``key``. False: it has fewer, and none are used."""
        return self.wait(key, now, units, longest=0.0) is not None

    def give_back(self, key: str, units: float = 1.0) -> None:
        """Return units that ``key`` has taken."""
        if key in self._left:
            left, last = self._left[key]
            self._left[key] = (min(self.burst, left + units), last)

    def wait(self, key: str, now: float, units: float, longest: float) -> float | None:
        """Return after how many seconds ``key`` may use ``units``, which are used at once.

        None: it would be longer than ``longest``, and nothing was used.
        """
        left, last = self._left.pop(key, (self.burst, now))
        left = min(self.burst, left + max(0.0, now - last) * self.per_second)
        missing = max(0.0, units - left)
        seconds = missing / self.per_second if self.per_second else inf if missing else 0.0
        while len(self._left) >= self.most:
            del self._left[next(iter(self._left))]
        self._left[key] = (left if seconds > longest else left - units, now)
        return None if seconds > longest else seconds


@define
class ReportLimiter:
    """Which of many reports are made, so that a peer fills neither log nor audit.

    With ``each`` every source has a bucket, too: one that reports often does not silence others.
    """

    total: RateLimiter
    each: RateLimiter | None = None
    _left_out: int = field(default=0, init=False)

    def admit(self, now: float, source: str = "") -> int | None:
        """Return how many were left out since the last one that was made; None: leave it out."""
        own = self.each is None or self.each.take(source, now)
        if not own or not self.total.take("", now):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out

    def listed(self, now: float, fields: dict[str, Any], source: str = "") -> dict[str, Any] | None:
        """Return the fields of a report, with the number of those left out; None: leave it out."""
        left_out = self.admit(now, source)
        if left_out is None:
            return None
        return {**fields, "others_not_listed": left_out} if left_out else fields
