"""How is everything that one store has copied into an empty one of any kind? Synchronous.

Invariants:

* The source is locked: no auth writes to it meanwhile, and one that runs is refused.
* The target has all of it, or nothing: one transaction, or one file that gets its name at the end.
  So no auth can start on a part of a cluster.
* What was written is read again and compared, before it counts.
* Values, revisions and ends of leases stay the same. The source is not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from tele.errors import TeleError

#: Items that are read or written at once.
BATCH: Final = 500


class Row(NamedTuple):
    """An item; ``expires`` is in Unix time, in whole microseconds, None for no end."""

    key: str
    value: bytes
    revision: int
    expires: float | None


class Source(Protocol):
    """A store that is locked."""

    #: The newest revision.
    revision: int

    def rows(self) -> Iterator[Row]:
        """Yield all items that have not ended, by key in the order of bytes."""


class Target(Protocol):
    """An empty store that is locked; :meth:`keep` makes what was written there to stay."""

    def write(self, rows: Iterable[Row]) -> None:
        """Write items."""

    def rows(self) -> Iterator[Row]:
        """Yield what was written, as :meth:`Source.rows` does."""

    def keep(self, revision: int) -> None:
        """Make it durable, with this newest revision."""


class Place(Protocol):
    """Where a store is. Both methods raise :class:`tele.errors.TeleError`."""

    def source(self) -> AbstractContextManager[Source]:
        """Open the store that is there, while no auth runs on it."""

    def target(self) -> AbstractContextManager[Target]:
        """Make a store where there is none; it is gone at the end unless it was kept."""


class Copied(NamedTuple):
    """What was copied: how many items, and the SHA-256 of all of them."""

    items: int
    digest: str


class _Digest:
    """Counts and hashes items as they pass."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._items = 0

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield ``rows``."""
        for row in rows:
            ends = -1 if row.expires is None else round(row.expires * 1_000_000)
            head = f"{len(row.key.encode())} {len(row.value)} {row.revision} {ends}\n"
            self._hash.update(head.encode() + row.key.encode() + row.value)
            self._items += 1
            yield row

    @property
    def found(self) -> Copied:
        """What has passed."""
        return Copied(self._items, self._hash.hexdigest())


def copy_store(origin: Place, destination: Place) -> Copied:
    """Copy all items. Raises :class:`TeleError`; then the destination is as it was."""
    with origin.source() as source, destination.target() as target:
        read, written = _Digest(), _Digest()
        target.write(read.passing(source.rows()))
        for _ in written.passing(target.rows()):
            continue
        if written.found != read.found:
            raise TeleError(
                f"the copy differs: {read.found.items} items were read, and"
                f" {written.found.items} are there, or others; nothing was kept"
            )
        target.keep(source.revision)
        return read.found
