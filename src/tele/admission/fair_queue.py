"""Which request is served next, when many wait for one resource?

Sources take turns, and so do the users of one source: a thousand requests of one source, or of
one user, delay another one by no more than one request.

Invariants:

* Taking the next item costs the same however many wait. Adding one to a full queue costs a pass
  over the sources that wait.
* When it is full, the source that holds most gives up an item for one that holds fewer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")


@define
class FairQueue(Generic[T]):
    """At most ``total`` items wait, ``per_source`` of one source, ``each`` of one of its users."""

    total: int
    per_source: int
    each: int
    _sources: dict[str, dict[str, deque[T]]] = field(factory=dict, init=False)
    _held: dict[str, int] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def add(self, source: str, user: str, item: T) -> list[T] | None:
        """Add ``item``; return the items that were displaced for it, at most one.

        None: a limit is reached, and it was not added.
        """
        users = self._sources.get(source, {})
        mine = self._held.get(source, 0)
        if mine >= self.per_source or len(users.get(user, ())) >= self.each:
            return None
        displaced = []
        if self._count >= self.total:
            heaviest = max(self._held, key=self._held.__getitem__)
            if self._held[heaviest] <= mine + 1:
                return None
            displaced = [self._take_last(heaviest)]
        waiting = self._sources.setdefault(source, {}).setdefault(user, deque())
        waiting.append(item)
        self._held[source] = mine + 1
        self._count += 1
        return displaced

    def next(self) -> T | None:
        """Take the next item; None if there is none."""
        if not self._sources:
            return None
        source = next(iter(self._sources))
        users = self._sources.pop(source)
        user = next(iter(users))
        waiting = users.pop(user)
        item = waiting.popleft()
        if waiting:
            users[user] = waiting  # at the end: the others of this source come first
        if users:
            self._sources[source] = users  # at the end, likewise
        self._left(source)
        return item

    def drop(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out all items that are ``unwanted``, and return them."""
        dropped: list[T] = []
        for source, users in list(self._sources.items()):
            for user, waiting in list(users.items()):
                removed = [item for item in waiting if unwanted(item)]
                if not removed:
                    continue
                dropped += removed
                users[user] = deque(item for item in waiting if item not in removed)
                if not users[user]:
                    del users[user]
                for _ in removed:
                    self._left(source)
            if not users:
                del self._sources[source]
        return dropped

    def _take_last(self, source: str) -> T:
        """Take the last item of the user of ``source`` who has the most."""
        users = self._sources[source]
        user = max(users, key=lambda name: len(users[name]))
        item = users[user].pop()
        if not users[user]:
            del users[user]
        if not users:
            del self._sources[source]
        self._left(source)
        return item

    def _left(self, source: str) -> None:
        self._count -= 1
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
