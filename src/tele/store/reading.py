"""How is a store read without auth? As a SQLite file that is opened read-only.

Invariant: nothing is written, not even what SQLite recovers by itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tele.errors import Unavailable
from tele.interfaces import Change, Delete, IBackend, Item, IWatch, Put
from tele.store import sqlite_file

T = TypeVar("T")


@implementer(IBackend)
class StoreFile:
    """The store in ``path`` as it was when first read; a backend that takes no change."""

    def __init__(self, path: Path) -> None:
        self._moment = time.time()
        self._path = path
        self._connection = self._guarded(
            lambda: sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        )
        # One transaction: auth may append meanwhile.
        self._guarded(lambda: self._connection.execute("BEGIN"))

    def __enter__(self) -> StoreFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def _guarded(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path} cannot be read as a store: {error}") from None

    def get(self, key: str) -> Deferred[Item | None]:
        """See :class:`IBackend`."""
        return succeed(self._guarded(lambda: sqlite_file.get(self._connection, key, self._moment)))

    def range(
        self, start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        """See :class:`IBackend`."""
        return succeed(
            self._guarded(
                lambda: sqlite_file.select(
                    self._connection, start, end, limit, reverse, self._moment
                )
            )
        )

    def commit(self, *changes: Put | Delete) -> NoReturn:
        """Refuse."""
        raise Unavailable(f"{self._path} is open for reading only")

    def watch(self, prefix: str, receiver: Callable[[Change], None]) -> Deferred[IWatch]:
        """Refuse: a snapshot does not change."""
        raise Unavailable(f"{self._path} is open for reading only")

    def close(self) -> Deferred[None]:
        """See :class:`IBackend`."""
        self._connection.close()
        return succeed(None)
