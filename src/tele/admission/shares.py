"""How much of something may one source, person or machine hold, or use, at a time?

Invariants:

* Bookkeeping only: times are arguments, in seconds of any one clock; nothing is closed here.
* Each call costs the same, however many keys there are, and memory is bounded.
"""

from __future__ import annotations

from collections import Counter

from attrs import define, field


@define
class Shares:
    """What is held now: ``each`` at most by one key, ``total`` by all together."""

    each: int
    total: int
    held: int = field(default=0, init=False)
    _of: Counter[str] = field(factory=Counter, init=False)

    def __len__(self) -> int:
        """How many keys hold something."""
        return len(self._of)

    def of(self, key: str) -> int:
        """Return how much ``key`` holds."""
        return self._of.get(key, 0)

    def take(self, key: str, amount: int = 1) -> bool:
        """Let ``key`` hold ``amount`` more. False: it would be too much, and nothing changed."""
        if self.of(key) + amount > self.each or self.held + amount > self.total:
            return False
        self._of[key] += amount
        self.held += amount
        return True

    def give_back(self, key: str, amount: int = 1) -> None:
        """``key`` holds ``amount`` less."""
        self.held -= amount
        self._of[key] -= amount
        if self._of[key] <= 0:
            del self._of[key]


@define
class Rates:
    """So many units in one go for each key, and so many more each second.

    Of more than ``most`` keys, the one that came last the longest ago is forgotten.
    """

    burst: float
    per_second: float
    most: int = 65536
    _left: dict[str, tuple[float, float]] = field(factory=dict, init=False)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._left)

    def take(self, key: str, now: float, units: float = 1.0) -> bool:
        """Use ``units`` of what ``key`` has. False: it has less, and keeps what it has."""
        return self.wait(key, now, units, longest=0.0) is not None

    def give_back(self, key: str, units: float = 1.0) -> None:
        """What ``key`` used is not held against it after all."""
        if key in self._left:
            left, last = self._left[key]
            self._left[key] = (min(self.burst, left + units), last)

    def wait(self, key: str, now: float, units: float, longest: float) -> float | None:
        """Return after how many seconds ``key`` may use ``units``, which are used at once.

        None: it would be longer than ``longest``, and nothing was used.
        """
        left, last = self._left.pop(key, (self.burst, now))
        left = min(self.burst, left + max(0.0, now - last) * self.per_second)
        seconds = max(0.0, units - left) / self.per_second
        while len(self._left) >= self.most:
            del self._left[next(iter(self._left))]
        self._left[key] = (left if seconds > longest else left - units, now)
        return None if seconds > longest else seconds
