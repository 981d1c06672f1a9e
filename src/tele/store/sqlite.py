"""A durable store in one file, for clusters with one auth (or several on one machine).

Invariants:

* A commit is acknowledged after it is on disk.
* On a full disk commits use reserved space (:mod:`tele.store.reserve`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.errors import TeleError
from tele.interfaces import Change, IOnDisk, Item
from tele.model.disk import DiskSpace
from tele.store import sqlite_file
from tele.store.polled import PolledBackend, PolledSession
from tele.store.reserve import StoreReserve
from tele.store.threaded import Batch

READERS: Final = 2


class _SqliteSession:
    """See :class:`PolledSession`; the one that writes has the reserve."""

    def __init__(self, connection: sqlite3.Connection, reserve: StoreReserve, writes: bool) -> None:
        self._connection = connection
        self._reserve = reserve
        self._writes = writes

    def get(self, key: str, moment: float) -> Item | None:
        return sqlite_file.get(self._connection, key, moment)

    def get_many(self, keys: Sequence[str], moment: float) -> list[Item | None]:
        return sqlite_file.get_many(self._connection, keys, moment)

    def select(
        self, start: str, end: str, limit: int, reverse: bool, moment: float
    ) -> Sequence[Item]:
        return sqlite_file.select(self._connection, start, end, limit, reverse, moment)

    def newest(self) -> int:
        return sqlite_file.newest(self._connection)

    def changes_since(self, revision: int) -> tuple[int, list[Change]]:
        return sqlite_file.changes_since(self._connection, revision)

    def commit(self, batch: Batch, moment: float) -> list[int | TeleError]:
        return self._reserve.spend(lambda: sqlite_file.commit(self._connection, batch, moment))

    def sweep(self, moment: float) -> None:
        self._reserve.check()
        sqlite_file.sweep(self._connection, moment)

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()
        if self._writes:
            self._reserve.close()


@implementer(IOnDisk)
class SqliteBackend(PolledBackend):
    """Keeps everything in the SQLite file ``path``. ``reactor`` gives time and threads' answers.

    Raises :class:`tele.errors.Unavailable` when the file cannot be used.
    """

    def __init__(self, path: Path | str, reactor: IReactorTime) -> None:
        path = Path(path)
        self._reserve = StoreReserve(path)
        connections = [
            self._reserve.spend(lambda: sqlite_file.open_file(path)) for _ in range(READERS + 1)
        ]
        seen = sqlite_file.newest(connections[0])
        self._reserve.check()  # the folder may be new
        sessions: list[PolledSession] = [
            _SqliteSession(connection, self._reserve, writes=number == 0)
            for number, connection in enumerate(connections)
        ]
        super().__init__(reactor, sessions, seen)

    def space(self) -> DiskSpace:
        """See :class:`IOnDisk`."""
        return self._reserve.space()
