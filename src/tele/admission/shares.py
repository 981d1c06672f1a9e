"""How much of a resource may one source, user or machine hold at a time?

Invariants:

* Bookkeeping only: times are arguments, in seconds of any one clock; nothing is closed here.
* Each call costs the same, however many keys there are, and memory is bounded.
"""

from __future__ import annotations

from collections import Counter

from attrs import define, field


@define
class Shares:
    """Counts what is held: at most ``each`` by one key and ``total`` by all."""

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
        """Let ``key`` hold ``amount`` more. False: it exceeds a limit, and nothing changed."""
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
