"""How is a store in an SQLite file locked and read, or made, to copy it?

Invariant: the file is locked for this process alone. That fails while any other has it open, which
an auth has for as long as it runs.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from tele.durable_files import make_folder, name_new, sync_folder
from tele.errors import Conflict, NotFound, TeleError, Unavailable
from tele.store.copying import BATCH, Row
from tele.store.sqlite_file import newest, open_file

_ROWS = """
SELECT key, value, revision, expires FROM items
WHERE value IS NOT NULL AND (expires IS NULL OR expires > ?) ORDER BY key
"""


class _Opened:
    """A file that only this process has open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._moment = time.time()
        self.revision = newest(connection)

    def rows(self) -> Iterator[Row]:
        """See :class:`tele.store.copying.Source`."""
        cursor = self._connection.execute(_ROWS, (self._moment,))
        while some := cursor.fetchmany(BATCH):
            for key, value, revision, expires in some:
                yield Row(key, bytes(value), revision, _whole(expires))

    def write(self, rows: Iterable[Row]) -> None:
        """See :class:`tele.store.copying.Target`."""
        self._connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)


class _Written(_Opened):
    """A file beside ``path`` that gets this name when it is kept."""

    def __init__(self, connection: sqlite3.Connection, beside: Path, path: Path) -> None:
        super().__init__(connection)
        self._beside, self._path = beside, path

    def keep(self, revision: int) -> None:
        """See :class:`tele.store.copying.Target`."""
        connection = self._connection
        connection.execute("UPDATE counter SET revision = ?", (revision,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.close()  # removes the log
        descriptor = os.open(self._beside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        name_new(self._beside, self._path)
        sync_folder(self._path.parent)


@frozen
class SqlitePlace:
    """The file ``path``."""

    path: Path

    @contextmanager
    def source(self) -> Iterator[_Opened]:
        """See :class:`tele.store.copying.Place`."""
        if not self.path.is_file():
            raise NotFound(f"there is no store {self.path}")
        if self.path.stat().st_uid != os.geteuid():
            raise TeleError(f"{self.path} belongs to another account: run this as that account")
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("BEGIN EXCLUSIVE")
                yield _Opened(connection)
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _why(self.path, error) from None

    @contextmanager
    def target(self) -> Iterator[_Written]:
        """See :class:`tele.store.copying.Place`."""
        if self.path.exists():
            raise Conflict(f"{self.path} exists already: a copy replaces no store")
        beside = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
        try:
            make_folder(self.path.parent)
            with closing(open_file(beside)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield _Written(connection, beside, self.path)
        except FileExistsError:
            raise Conflict(f"{self.path} exists already: a copy replaces no store") from None
        except sqlite3.Error as error:
            raise _why(self.path, error) from None
        except OSError as error:
            raise Unavailable(f"cannot write {self.path}: {error.strerror or error}") from None
        finally:
            for end in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    beside.with_name(beside.name + end).unlink()


def _whole(expires: float | None) -> float | None:
    """Return a date in whole microseconds, which is what databases keep."""
    return None if expires is None else datetime.fromtimestamp(expires, UTC).timestamp()


def _why(path: Path, error: sqlite3.Error) -> TeleError:
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
        return Conflict(f"another process has {path} open: stop auth, and try again")
    return Unavailable(f"{path} cannot be copied: {error}")
