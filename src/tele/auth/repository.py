"""How are values of one type stored? As canonical JSON under one prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from attrs import frozen

from tele.errors import Conflict, InvalidInput, Unavailable
from tele.interfaces import Delete, IBackend, Item, Put
from tele.model.codec import decode, encode
from tele.store.batches import get_many

T = TypeVar("T")

ATTEMPTS = 20
#: Values of a page that are read with one call.
STEP = 200


@frozen
class Versioned(Generic[T]):
    """A stored value with the revision that guards a change of it."""

    name: str
    value: T
    revision: int


class Repository(Generic[T]):
    """Values of ``cls`` under ``prefix`` (``/users/``), by name."""

    def __init__(self, backend: IBackend, prefix: str, cls: type[T]) -> None:
        self.prefix = prefix
        self._backend = backend
        self._cls = cls

    async def get(self, name: str) -> Versioned[T] | None:
        """Return one, or None."""
        item = await self._backend.get(self.prefix + name)
        return None if item is None else self.read(item)

    async def get_many(self, names: Sequence[str]) -> Sequence[Versioned[T]]:
        """Return those of ``names`` that exist, in this order."""
        items = await get_many(self._backend, [self.prefix + name for name in names])
        return [self.read(item) for item in items if item is not None]

    def read(self, item: Item) -> Versioned[T]:
        """Return the value of an item of this prefix."""
        try:
            value = decode(self._cls, item.value)
        except InvalidInput as error:
            # Not the caller's fault.
            raise Unavailable(f"{item.key} in the store cannot be read: {error}") from None
        return Versioned(item.key.removeprefix(self.prefix), value, item.revision)

    async def list(
        self, limit: int = 0, after: str = "", reverse: bool = False
    ) -> Sequence[Versioned[T]]:
        """Return values after ``after`` in order of names (before it, when reversed).

        A page is read in steps, so that other calls run in between; with ``limit`` 0 all values are
        read with one call.
        """
        start, end = self.prefix, self.prefix[:-1] + "0"
        if after:
            if reverse:
                end = self.prefix + after
            else:
                start = self.prefix + after + "\0"
        found: list[Versioned[T]] = []
        while True:
            step = min(STEP, limit - len(found)) if limit else 0
            items = await self._backend.range(start, end, step, reverse)
            found += [self.read(item) for item in items]
            if len(items) < step or len(found) >= limit:
                return found
            start, end = (start, items[-1].key) if reverse else (items[-1].key + "\0", end)

    def put(
        self, name: str, value: T, if_revision: int | None = None, ttl: timedelta | None = None
    ) -> Put:
        """Return the change that stores ``value``."""
        return Put(self.prefix + name, encode(value), if_revision, ttl)

    def delete(self, name: str, if_revision: int | None = None) -> Delete:
        """Return the change that removes ``name``."""
        return Delete(self.prefix + name, if_revision)

    async def change(
        self, name: str, function: Callable[[T | None], T], ttl: timedelta | None = None
    ) -> T:
        """Store ``function(present value)``; it is called again after a conflict."""
        return (await self._change(name, await self.get(name), function, ttl)).value

    async def change_known(
        self, entry: Versioned[T], function: Callable[[T | None], T]
    ) -> Versioned[T]:
        """Store ``function(value)`` for an entry that was read; as :meth:`change` otherwise."""
        return await self._change(entry.name, entry, function, None)

    async def _change(
        self,
        name: str,
        entry: Versioned[T] | None,
        function: Callable[[T | None], T],
        ttl: timedelta | None,
    ) -> Versioned[T]:
        for _ in range(ATTEMPTS):
            value = function(None if entry is None else entry.value)
            try:
                revision = await self._backend.commit(
                    self.put(name, value, 0 if entry is None else entry.revision, ttl)
                )
            except Conflict:
                entry = await self.get(name)
                continue
            return Versioned(name, value, revision)
        raise Conflict(f"{self.prefix}{name} changes too often; try again")
