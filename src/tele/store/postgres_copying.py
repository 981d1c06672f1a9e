"""How is a store in PostgreSQL locked and read, or made, to copy it?

Invariants:

* One transaction, which has the lock that every writer takes first: what is read does not change.
* A copy is refused while an auth is connected to the database. One that connects later waits for
  the lock, and has changed nothing when it gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from attrs import frozen
from psycopg import errors
from psycopg.conninfo import make_conninfo

from tele.errors import Conflict, NotFound, StorageFull, Unavailable
from tele.store.copying import BATCH, Row
from tele.store.postgres import read_url
from tele.store.postgres_session import Database, PostgresSession

#: As which program the copy is connected; an auth is connected as another one.
NAME = "tele-store-copy"
#: Seconds that one statement may take.
PATIENCE = 600.0
_AUTHS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %s
    AND (query LIKE '%%tele_%%' OR application_name = 'tele-auth')
"""
_ROWS = 'SELECT key, value, revision, expires FROM tele_live ORDER BY key COLLATE "C"'
_INSERT = "INSERT INTO tele_items (key, value, revision, expires) VALUES (%s, %s, %s, %s)"


class _Opened:
    """A store that is locked."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        row = connection.execute("SELECT revision FROM tele_counter FOR UPDATE").fetchone()
        if row is None:
            raise Unavailable("the table tele_counter is empty: restore the store from a backup")
        self.revision: int = row[0]

    def rows(self) -> Iterator[Row]:
        """See :class:`tele.store.copying.Source`."""
        with self._connection.cursor(name="tele_copy") as cursor:
            cursor.execute(_ROWS)
            while some := cursor.fetchmany(BATCH):
                for key, value, revision, expires in some:
                    ends = None if expires is None else expires.timestamp()
                    yield Row(key, bytes(value), revision, ends)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever kept here."""
        row = self._connection.execute("SELECT EXISTS (SELECT FROM tele_items)").fetchone()
        return row is not None and not row[0]

    def write(self, rows: Iterable[Row]) -> None:
        """See :class:`tele.store.copying.Target`."""
        batch: list[Any] = []
        with self._connection.cursor() as cursor:
            for key, value, revision, expires in rows:
                ends = None if expires is None else datetime.fromtimestamp(expires, UTC)
                batch.append((key, value, revision, ends))
                if len(batch) == BATCH:
                    cursor.executemany(_INSERT, batch)
                    batch.clear()
            cursor.executemany(_INSERT, batch)

    def keep(self, revision: int) -> None:
        """See :class:`tele.store.copying.Target`. Removals before it are known to no reader."""
        self._connection.execute(
            "UPDATE tele_counter SET revision = %s, forgotten = %s", (revision, revision)
        )
        self._connection.commit()


@frozen
class PostgresPlace:
    """The database at ``url``, ``postgresql://...``."""

    url: str

    @contextmanager
    def source(self) -> Iterator[_Opened]:
        """See :class:`tele.store.copying.Place`."""
        with self._locked(make=False) as opened:
            yield opened

    @contextmanager
    def target(self) -> Iterator[_Opened]:
        """See :class:`tele.store.copying.Place`."""
        with self._locked(make=True) as opened:
            if not opened.is_empty:
                raise Conflict(f"{self._database.shown} has a store: a copy replaces none")
            yield opened

    @property
    def _database(self) -> Database:
        found = read_url(self.url, PATIENCE)
        return Database(make_conninfo(found.words, application_name=NAME), found.shown)

    @contextmanager
    def _locked(self, *, make: bool) -> Iterator[_Opened]:
        database = self._database
        if make:
            session = PostgresSession(database)
            try:
                session.prepare()
            finally:
                session.close()
        try:
            with psycopg.connect(database.words, autocommit=False) as connection:
                found = connection.execute("SELECT to_regclass('tele_counter')").fetchone()
                if found is None or found[0] is None:
                    raise NotFound(f"there is no store in {database.shown}")
                connection.execute("SET LOCAL synchronous_commit = on")
                opened = _Opened(connection)
                row = connection.execute(_AUTHS, (NAME,)).fetchone()
                if row is not None and row[0]:
                    raise Conflict(
                        f"an auth is connected to {database.shown}: stop all of them, and try again"
                    )
                yield opened
                connection.rollback()
        except errors.DiskFull:
            raise StorageFull(f"the disk of {database.shown} is full") from None
        except psycopg.Error as error:
            text = " ".join(str(error).split())
            raise Unavailable(f"{database.shown} failed: {text}") from None
