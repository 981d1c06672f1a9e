"""Which connection is next, of those that wait for a place of their source?

Many connections from one address, such as an office in the morning or a tool with three hundred
logins, share its places. A connection that finds none free waits, in order of arrival.

Invariants:

* How many wait is bounded, of one source and in total. At the total, the last one of the source
  that has most is displaced by one of a source that has fewer.
* Bookkeeping only: items are opaque.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class WaitingList(Generic[T]):
    """At most ``total`` items wait, and ``share`` of one source."""

    total: int
    share: int
    _of: dict[str, dict[T, None]] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __len__(self) -> int:
        return self._count

    def accepts(self, source: str) -> bool:
        """Whether one more of ``source`` may wait."""
        mine = len(self._of.get(source, ()))
        return mine < self.share and (self._count < self.total or mine + 1 < self._most())

    def _most(self) -> int:
        """The largest number of items that one source has."""
        return max(map(len, self._of.values()), default=0)

    def add(self, source: str, item: T) -> list[T] | None:
        """Add ``item``; return the items that were displaced for it, at most one.

        None: too many wait already.
        """
        if not self.accepts(source):
            return None
        displaced = []
        if self._count >= self.total:
            fullest = max(self._of, key=lambda each: len(self._of[each]))
            displaced = [next(reversed(self._of[fullest]))]
            self.remove(fullest, displaced[0])
        self._of.setdefault(source, {})[item] = None
        self._count += 1
        return displaced

    def remove(self, source: str, item: T) -> None:
        """Remove ``item``, if it waits."""
        waiting = self._of.get(source)
        if waiting is not None and item in waiting:
            del waiting[item]
            self._count -= 1
            if not waiting:
                del self._of[source]

    def first(self, source: str) -> T | None:
        """Return the item of ``source`` that waits longest."""
        return next(iter(self._of.get(source, ())), None)
