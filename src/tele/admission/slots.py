"""Which callers hold a limited resource, and which wait for it?

Invariants:

* One key holds no more than its limit, which is asked for each time; a bounded number of others
  waits, in order of arrival.
* A waiting caller is called once, from :meth:`Slots.enter` or when another one leaves, unless it
  has left; leaving twice is leaving once.
* Each call costs the same, however many hold and wait. A key that does neither is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from attrs import define, field


@define(eq=False)
class Slot:
    """A place that is held or waited for; ``ready`` is called when it is held."""

    key: str
    ready: Callable[[], object]
    held: bool = False


@define
class Slots:
    """``waiting`` is how many of one key may wait."""

    waiting: int
    _held: Counter[str] = field(factory=Counter, init=False)
    #: Waiting slots by key, the first one first.
    _queues: dict[str, dict[Slot, Callable[[], int]]] = field(factory=dict, init=False)

    def __len__(self) -> int:
        """How many keys hold something, or wait."""
        return len(self._held.keys() | self._queues.keys())

    def held(self, key: str) -> int:
        """Return how many ``key`` holds."""
        return self._held.get(key, 0)

    def waits(self, key: str) -> int:
        """Return how many of ``key`` wait."""
        return len(self._queues.get(key, ()))

    def enter(self, key: str, most: Callable[[], int], ready: Callable[[], object]) -> Slot | None:
        """Take a place of ``key``, which may hold ``most()``, or wait for one.

        None: too many wait already.
        """
        if self.waits(key) >= self.waiting and self.held(key) >= most():
            return None
        slot = Slot(key, ready)
        self._queues.setdefault(key, {})[slot] = most
        self._serve(key)
        return slot

    def leave(self, slot: Slot) -> None:
        """Free ``slot``, or wait for it no longer. May be called twice."""
        if slot.held:
            slot.held = False
            self._held[slot.key] -= 1
        else:
            self._queues.get(slot.key, {}).pop(slot, None)
        self._serve(slot.key)

    def check(self, key: str) -> None:
        """The limit of ``key`` may have changed: serve those that wait."""
        self._serve(key)

    def _serve(self, key: str) -> None:
        while (queue := self._queues.get(key)) and self._held[key] < next(iter(queue.values()))():
            slot = next(iter(queue))
            del queue[slot]
            slot.held = True
            self._held[key] += 1
            slot.ready()
        if not self._queues.get(key, True):
            del self._queues[key]
        if not self._held[key]:
            del self._held[key]
