"""Which connection is closed when a new one exceeds the limit?

Connections are counted by source. A source has a share, and a larger one (``weight``) where
many clients are known to be behind one address. When all places are taken, the source that uses
most of its share gives one up: many connections from one address shut out no other address.

Invariants:

* Bookkeeping only: nothing is closed here.
* A step costs the same however many connections and sources there are: the fullest source is
  found among at most ``share`` levels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T", bound=Hashable)


@define
class _Source(Generic[T]):
    """The connections of one source, the oldest first."""

    weight: int
    items: dict[T, None] = field(factory=dict)
    #: The level under which it is filed.
    filed: int = 0

    def level(self, more: int = 0) -> int:
        """How much of a share of the usual size is used, the weight considered."""
        return -(-(len(self.items) + more) // self.weight)


@define(eq=False)
class Places(Generic[T]):
    """At most ``total`` connections, and ``share`` times its weight of one source.

    With ``newest_wins`` the oldest one is displaced, which suits clients that send a request at
    once. Without it a new one is refused, unless another source uses more of its share.
    """

    total: int
    share: int
    newest_wins: bool
    _sources: dict[str, _Source[T]] = field(factory=dict, init=False)
    _of: dict[T, str] = field(factory=dict, init=False)
    #: Sources by how much of their share they use.
    _levels: defaultdict[int, dict[str, None]] = field(
        factory=lambda: defaultdict(dict), init=False
    )

    def __len__(self) -> int:
        return len(self._of)

    def count(self, source: str) -> int:
        """Return how many connections of ``source`` are counted."""
        found = self._sources.get(source)
        return 0 if found is None else len(found.items)

    def enter(self, item: T, source: str, weight: int = 1) -> T | None:
        """Count ``item``; return the connection to close for it, or None.

        ``item`` itself is returned if it is refused; it is not counted then.
        """
        found = self._sources.get(source) or _Source(weight)
        found.weight = weight
        leaves: T | None = None
        if len(found.items) >= self.share * weight:
            leaves = self._oldest(source) if self.newest_wins else item
        elif len(self._of) >= self.total:
            leaves = self._from_the_fullest(item, source, found)
        if leaves is item:
            return item
        if leaves is not None:
            self.leave(leaves)
        self._take_off(source)
        self._sources[source] = found
        found.items[item] = None
        self._of[item] = source
        self._put_on(source)
        return leaves

    def leave(self, item: T) -> None:
        """Count ``item`` no longer, if it is counted."""
        source = self._of.pop(item, None)
        if source is None:
            return
        self._take_off(source)
        found = self._sources[source]
        del found.items[item]
        if found.items:
            self._put_on(source)
        else:
            del self._sources[source]

    def _from_the_fullest(self, item: T, source: str, found: _Source[T]) -> T:
        mine, top = found.level(1), max(self._levels, default=0)
        if mine < top or (self.newest_wins and not found.items):
            return self._oldest(next(iter(self._levels[top])))
        return self._oldest(source) if self.newest_wins else item

    def _oldest(self, source: str) -> T:
        return next(iter(self._sources[source].items))

    def _take_off(self, source: str) -> None:
        found = self._sources.get(source)
        if found is not None:
            level = self._levels[found.filed]
            del level[source]
            if not level:
                del self._levels[found.filed]

    def _put_on(self, source: str) -> None:
        found = self._sources[source]
        found.filed = found.level()
        self._levels[found.filed][source] = None
