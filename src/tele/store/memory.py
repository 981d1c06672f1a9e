"""A store in memory, for tests and for clusters that end with their process."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heappop, heappush

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.errors import Conflict, Unavailable
from tele.interfaces import Change, Delete, IBatchBackend, Item, IWatch, Put
from tele.loop import DateTimer, now
from tele.store.watchers import Watchers


@implementer(IBatchBackend)
class MemoryBackend:
    """Keeps everything in this process. Leases end by ``clock``."""

    commit_limit: tuple[int, int] | None = None

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._items: dict[str, Item] = {}
        self._keys: list[str] = []
        self._leases: list[tuple[datetime, str]] = []
        self._alarm: DateTimer | None = None
        self._revision = 0
        self._watchers = Watchers()
        self._closed = False

    def _drop(self, key: str) -> None:
        del self._items[key]
        del self._keys[bisect_left(self._keys, key)]

    def _expire(self) -> None:
        """Remove expired items; called before each read, so that none is returned."""
        moment = now(self._clock)
        over = []
        while self._leases and self._leases[0][0] <= moment:
            ends, key = heappop(self._leases)
            item = self._items.get(key)
            if item is not None and item.expires == ends:  # it was not renewed since
                self._revision += 1
                self._drop(key)
                over.append(Change(key, self._revision, None))
        self._watchers.notify(over)

    def _set_alarm(self) -> None:
        """Notify watchers of the end of the next lease when it comes."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._leases and not self._closed:
            self._alarm = DateTimer(self._clock, self._leases[0][0], self._rang)

    def _rang(self) -> None:
        self._alarm = None
        self._expire()
        self._set_alarm()

    def get(self, key: str) -> Deferred[Item | None]:
        """See :class:`IBackend`."""
        self._expire()
        return succeed(self._items.get(key))

    def get_many(self, keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        """See :class:`IBatchBackend`."""
        self._expire()
        return succeed([self._items.get(key) for key in keys])

    def range(
        self, start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        """See :class:`IBackend`."""
        self._expire()
        first, last = bisect_left(self._keys, start), bisect_left(self._keys, end)
        if limit and reverse:
            first = max(first, last - limit)
        elif limit:
            last = min(last, first + limit)
        keys = self._keys[first:last]
        if reverse:
            keys.reverse()
        return succeed([self._items[key] for key in keys])

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        """See :class:`IBackend`."""
        if self._closed:
            return fail(Unavailable("the store is closed"))
        self._expire()
        for change in changes:
            item = self._items.get(change.key)
            wanted = change.if_revision
            if wanted is not None and wanted != (0 if item is None else item.revision):
                return fail(Conflict(f"{change.key} has changed since it was read"))
        self._revision += 1
        made = []
        for change in changes:
            if isinstance(change, Put):
                expires = None if change.ttl is None else now(self._clock) + change.ttl
                if change.key not in self._items:
                    insort(self._keys, change.key)
                item = Item(change.key, change.value, self._revision, expires)
                self._items[change.key] = item
                if expires is not None:
                    heappush(self._leases, (expires, change.key))
                made.append(Change(change.key, self._revision, item))
            elif change.key in self._items:
                self._drop(change.key)
                made.append(Change(change.key, self._revision, None))
        revision = self._revision
        if self._leases:
            self._set_alarm()
        self._watchers.notify(made)
        return succeed(revision)

    def watch(self, prefix: str, receiver: Callable[[Change], None]) -> Deferred[IWatch]:
        """See :class:`IBackend`."""
        return succeed(self._watchers.add(prefix, receiver))

    def close(self) -> Deferred[None]:
        """See :class:`IBackend`."""
        self._closed = True
        self._watchers.clear()
        self._set_alarm()
        return succeed(None)
