"""Who is next, of those that wait for a place of their source?

A crowd from one address, such as an office that comes to work or a tool with three hundred log-ins,
has so many places and no more. Who finds none waits, in the order of coming.

Invariants:

* How many wait is bounded, of one source and in all. When all may not be more, the last one of the
  source that has most makes room for one that has fewer: a crowd keeps no other crowd out.
* Bookkeeping only: what waits is not looked at here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class WaitingList(Generic[T]):
    """At most ``total`` wait, and ``share`` of one source."""

    total: int
    share: int
    _of: dict[str, dict[T, None]] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __len__(self) -> int:
        return self._count

    def has_room(self, source: str) -> bool:
        """Whether one more of ``source`` may wait."""
        mine = len(self._of.get(source, ()))
        return mine < self.share and (self._count < self.total or mine + 1 < self._most())

    def _most(self) -> int:
        """How many wait of the source that has most."""
        return max(map(len, self._of.values()), default=0)

    def add(self, source: str, item: T) -> list[T] | None:
        """Have ``item`` wait; return those that had to go for it, which is at most one.

        None: too many wait already.
        """
        if not self.has_room(source):
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
        """``item`` does not wait any more. It may have left before."""
        waiting = self._of.get(source)
        if waiting is not None and item in waiting:
            del waiting[item]
            self._count -= 1
            if not waiting:
                del self._of[source]

    def first(self, source: str) -> T | None:
        """Return who of ``source`` waits longest."""
        return next(iter(self._of.get(source, ())), None)
