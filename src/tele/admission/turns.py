"""Whose turn is it, when many wait for one scarce thing?

Sources take turns, and so do the people of one source: one source that sends a thousand
requests, or one person's thousand requests, make nobody else wait longer than one of them.

Invariants:

* Taking the next one costs the same however many wait; adding one costs at most a look at each
  source that waits, and only when the queue is full.
* When it is full, a source that holds more than another makes room for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")


@define
class Turns(Generic[T]):
    """Items that wait: ``total`` at most, ``per_source``, and ``each`` of one of its people."""

    total: int
    per_source: int
    each: int
    _sources: dict[str, dict[str, deque[T]]] = field(factory=dict, init=False)
    _held: dict[str, int] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def add(self, source: str, person: str, item: T) -> list[T] | None:
        """Let ``item`` wait; returns those that had to go for it, which is at most one.

        None: there is no room for it.
        """
        people = self._sources.get(source, {})
        mine = self._held.get(source, 0)
        if mine >= self.per_source or len(people.get(person, ())) >= self.each:
            return None
        displaced = []
        if self._count >= self.total:
            heaviest = max(self._held, key=self._held.__getitem__)
            if self._held[heaviest] <= mine + 1:
                return None
            displaced = [self._take_last(heaviest)]
        waiting = self._sources.setdefault(source, {}).setdefault(person, deque())
        waiting.append(item)
        self._held[source] = mine + 1
        self._count += 1
        return displaced

    def next(self) -> T | None:
        """Take the item whose turn it is; None if there is none."""
        if not self._sources:
            return None
        source = next(iter(self._sources))
        people = self._sources.pop(source)
        person = next(iter(people))
        waiting = people.pop(person)
        item = waiting.popleft()
        if waiting:
            people[person] = waiting  # at the end: the others of this source come first
        if people:
            self._sources[source] = people  # at the end, likewise
        self._left(source)
        return item

    def drop(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out all items that are ``unwanted``, and return them."""
        dropped: list[T] = []
        for source, people in list(self._sources.items()):
            for person, waiting in list(people.items()):
                gone = [item for item in waiting if unwanted(item)]
                if not gone:
                    continue
                dropped += gone
                people[person] = deque(item for item in waiting if item not in gone)
                if not people[person]:
                    del people[person]
                for _ in gone:
                    self._left(source)
            if not people:
                del self._sources[source]
        return dropped

    def _take_last(self, source: str) -> T:
        """Take the item of ``source`` that came last, of the person who has the most."""
        people = self._sources[source]
        person = max(people, key=lambda name: len(people[name]))
        item = people[person].pop()
        if not people[person]:
            del people[person]
        if not people:
            del self._sources[source]
        self._left(source)
        return item

    def _left(self, source: str) -> None:
        self._count -= 1
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
