"""How is the store laid out in PostgreSQL, and how is a connection used? Synchronous, for threads.

Invariants:

* One table of items, one row that counts. A transaction that writes locks that row first and keeps
  it until its end: revisions are in the order in which commits become visible, so that a reader who
  has seen a revision has seen all before it, and no transaction has to be tried again because of
  another one.
* Dates are by the clock of the database.
* A removed key leaves a row without a value for :data:`REMOVED_FOR`, from which other processes
  learn of it. A reader who comes later than that is refused, and so is one whose revision the
  database does not have any more: what it knows cannot be brought up to date.
* A commit whose outcome is unknown is an error, and is not tried again.
* Nothing here knows the reactor.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import psycopg
from attrs import frozen
from psycopg import errors

from tele.errors import Conflict, StorageFull, TeleError, Unavailable
from tele.interfaces import Change, Delete, Item, Put
from tele.log import make_logger
from tele.store.threaded import Batch, ChangesLost

log = make_logger(__name__)

T = TypeVar("T")

FORMAT: Final = 1
OLDEST_SERVER: Final = 130000
#: How long a removal can be read.
REMOVED_FOR: Final = timedelta(days=7)
#: The locks of making the tables and of sweeping ("tele" and a number).
_MAKE_LOCK: Final = 0x74656C65_0001
_SWEEP_LOCK: Final = 0x74656C65_0002
CHANNEL: Final = "tele_changes"
#: After a failure to connect, calls fail at once for so many seconds.
RETRY_SECONDS: Final = 1.0

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS tele_items (
    key text COLLATE "C" PRIMARY KEY,
    value bytea,
    revision bigint NOT NULL,
    expires timestamptz,
    removed timestamptz
);
CREATE INDEX IF NOT EXISTS tele_items_revision ON tele_items (revision);
CREATE INDEX IF NOT EXISTS tele_items_expires ON tele_items (expires) WHERE expires IS NOT NULL;
CREATE INDEX IF NOT EXISTS tele_items_removed ON tele_items (removed) WHERE removed IS NOT NULL;
CREATE TABLE IF NOT EXISTS tele_counter (
    one integer PRIMARY KEY CHECK (one = 1),
    format integer NOT NULL,
    revision bigint NOT NULL,
    forgotten bigint NOT NULL
);
INSERT INTO tele_counter VALUES (1, 1, 0, 0) ON CONFLICT DO NOTHING;
CREATE OR REPLACE VIEW tele_live AS SELECT key, value, revision, expires FROM tele_items
    WHERE value IS NOT NULL AND (expires IS NULL OR expires > clock_timestamp());
"""
_GET: Final = "SELECT * FROM tele_live WHERE key = %s"
_MANY: Final = "SELECT * FROM tele_live WHERE key = ANY(%s)"
_FORWARDS: Final = "SELECT * FROM tele_live WHERE key >= %s AND key < %s ORDER BY key LIMIT %s"
_BACKWARDS: Final = (
    "SELECT * FROM tele_live WHERE key >= %s AND key < %s ORDER BY key DESC LIMIT %s"
)
_REVISIONS: Final = "SELECT key, revision FROM tele_live WHERE key = ANY(%s)"
_CHANGES: Final = (
    "SELECT key, value, revision, expires FROM tele_items WHERE revision > %s"
    " ORDER BY revision, key"
)
_LOCK: Final = "SELECT revision FROM tele_counter FOR UPDATE"
_PUT: Final = """
INSERT INTO tele_items (key, value, revision, expires)
SELECT key, value, revision, clock_timestamp() + ttl
FROM unnest(%s::text[], %s::bytea[], %s::bigint[], %s::interval[])
    AS put (key, value, revision, ttl)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision,
    expires = excluded.expires, removed = NULL
"""
_REMOVE: Final = """
UPDATE tele_items SET value = NULL, expires = NULL, removed = clock_timestamp(),
    revision = gone.revision
FROM unnest(%s::text[], %s::bigint[]) AS gone (key, revision)
WHERE tele_items.key = gone.key AND value IS NOT NULL
"""
_EXPIRE: Final = """
UPDATE tele_items SET value = NULL, expires = NULL, removed = clock_timestamp(), revision = %s
WHERE expires <= clock_timestamp() AND value IS NOT NULL
"""
_FORGET: Final = """
WITH old AS (
    DELETE FROM tele_items WHERE removed < clock_timestamp() - %s RETURNING revision
)
SELECT max(revision) FROM old
"""


@frozen
class Database:
    """Where the database is: words for libpq, and how errors call it."""

    words: str
    shown: str


class PostgresSession:
    """One connection, made when it is needed; see :class:`tele.store.threaded.Session`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        #: Held while the connection is made known or closed; see :meth:`interrupt`.
        self._guard = threading.Lock()
        self._failed_at = -RETRY_SECONDS
        self._failure = ""

    # -- connection -------------------------------------------------------------------
    def _connected(self) -> psycopg.Connection[Any]:
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection
        if time.monotonic() - self._failed_at < RETRY_SECONDS:
            raise Unavailable(self._failure)
        self._drop()
        try:
            made = psycopg.connect(self._database.words, autocommit=True)
        except psycopg.Error as error:
            self._failed_at = time.monotonic()
            self._failure = f"cannot reach {self._database.shown}: {_reason(error)}"
            raise Unavailable(self._failure) from None
        with self._guard:
            self._connection = made
        with self._translated(made):
            # "off" would acknowledge what is not on disk.
            made.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        return made

    @contextmanager
    def _translated(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Turn errors that are no fault of the caller's values into :class:`Unavailable`."""
        try:
            yield
        except errors.DiskFull:
            raise StorageFull(
                f"the disk of {self._database.shown} is full: free space on its machine"
            ) from None
        except (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege) as error:
            # After a fail-over it may be the other server that can be written.
            self._drop()
            raise Unavailable(f"{self._database.shown} refuses: {_reason(error)}") from None
        except psycopg.Error as error:
            if connection.closed:
                self._drop()
            elif not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise
            raise Unavailable(f"{self._database.shown} failed: {_reason(error)}") from None

    def _read(self, function: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Return what ``function`` returns; a connection that was lost is replaced once."""
        for last in (False, True):
            connection = self._connected()
            try:
                with self._translated(connection):
                    return function(connection)
            except Unavailable:
                if last or not connection.closed:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _drop(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(psycopg.Error):
                    connection.close()

    def interrupt(self) -> None:
        """End what waits for the server, which may not answer at all. Called in another thread."""
        with self._guard:
            if self._connection is None or self._connection.closed:
                return
            # libpq may close the descriptor meanwhile, and it may be another's already: one that
            # is no socket to this server is left alone.
            with suppress(OSError, psycopg.Error):
                descriptor = os.dup(self._connection.fileno())
                with socket.socket(fileno=descriptor) as copy:
                    if _is_of(copy, self._connection):
                        copy.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connection."""
        self._drop()

    @property
    def backend_pid(self) -> int:
        """The process of the server; 0 without a connection."""
        connection = self._connection
        return 0 if connection is None or connection.closed else connection.info.backend_pid

    def prepare(self) -> int:
        """Make the tables, if need be, and return the newest revision."""
        connection = self._connected()
        if connection.info.server_version < OLDEST_SERVER:
            raise Unavailable(f"{self._database.shown} is too old: it has to be PostgreSQL 13+")
        if connection.info.parameter_status("server_encoding") != "UTF8":
            raise Unavailable(
                f"{self._database.shown}: its encoding is not UTF8: createdb -E UTF8 -T template0"
            )
        with self._translated(connection), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKE_LOCK,))
            # An account that may only use the tables needs no right to make them.
            found = connection.execute("SELECT to_regclass('tele_counter')").fetchone()
            if found is None or found[0] is None:
                connection.execute(_TABLES)
            row = connection.execute("SELECT format FROM tele_counter").fetchone()
        if row is None or row[0] != FORMAT:
            raise Unavailable(
                f"{self._database.shown} is the store of another version of tele: upgrade this auth"
            )
        for name in ("fsync", "full_page_writes"):
            setting = connection.execute(f"SHOW {name}").fetchone()
            if setting is not None and setting[0] != "on":
                log.warn("a power cut can destroy the store", setting=f"{name} = {setting[0]}")
        return self.newest()

    def listen(self) -> psycopg.Connection[Any]:
        """Return the connection, on which changes are announced from now on."""
        connection = self._connected()
        with self._translated(connection):
            connection.execute(f"LISTEN {CHANNEL}")
        return connection

    def announce(self) -> None:
        """Tell other processes that there are changes.

        Not in the transactions that write: the lock of the queue would be held until their sync.
        """
        self._read(lambda connection: connection.execute(f"NOTIFY {CHANNEL}"))

    # -- Session: reading -------------------------------------------------------------
    def get(self, key: str, moment: float) -> Item | None:
        """See :class:`tele.store.threaded.Session`."""
        row = self._read(lambda connection: connection.execute(_GET, (key,)).fetchone())
        return None if row is None else _item(row)

    def get_many(self, keys: Sequence[str], moment: float) -> list[Item | None]:
        """See :class:`tele.store.threaded.Session`."""
        rows = self._read(lambda connection: connection.execute(_MANY, (list(keys),)).fetchall())
        found = {row[0]: _item(row) for row in rows}
        return [found.get(key) for key in keys]

    def select(
        self, start: str, end: str, limit: int, reverse: bool, moment: float
    ) -> Sequence[Item]:
        """See :class:`tele.store.threaded.Session`."""
        query = _BACKWARDS if reverse else _FORWARDS
        values = (_bound(start), _bound(end), limit or None)
        rows = self._read(lambda connection: connection.execute(query, values).fetchall())
        return [_item(row) for row in rows]

    def newest(self) -> int:
        """See :class:`tele.store.threaded.Session`."""
        return self._read(lambda connection: _counter(connection)[0])

    def changes_since(self, revision: int) -> tuple[int, list[Change]]:
        """See :class:`tele.store.threaded.Session`."""

        def read(connection: psycopg.Connection[Any]) -> tuple[int, int, list[Any]]:
            if _counter(connection)[0] == revision:  # as mostly: one statement
                return revision, revision, []
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                newest, forgotten = _counter(connection)
                if newest < revision:
                    return newest, forgotten, []
                return newest, forgotten, connection.execute(_CHANGES, (revision,)).fetchall()

        newest, forgotten, rows = self._read(read)
        if newest < revision:
            raise ChangesLost(
                f"{self._database.shown} has lost what it had acknowledged (a backup was restored,"
                " or a replica took over that was not synchronous): restart this auth"
            )
        if revision < forgotten:
            raise ChangesLost(
                f"this auth could not read {self._database.shown} for more than"
                f" {REMOVED_FOR.days} days: restart it"
            )
        return newest, [Change(r[0], r[2], None if r[1] is None else _item(r)) for r in rows]

    # -- Session: writing -------------------------------------------------------------
    def commit(self, batch: Batch, moment: float) -> list[int | TeleError]:
        """See :class:`tele.store.threaded.Session`."""
        for last in (False, True):
            connection = self._connected()
            attempt = _Attempt(connection)
            try:
                with self._translated(connection):
                    return attempt.commit(batch)
            except Unavailable as error:
                if attempt.ends:
                    raise Unavailable(f"{error}; whether the change was made is unknown") from None
                if last or not connection.closed:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def sweep(self, moment: float) -> None:
        """See :class:`tele.store.threaded.Session`. One process at a time does it."""

        def sweep(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction():
                locked = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_SWEEP_LOCK,))
                row = locked.fetchone()
                if row is None or not row[0] or not _is_due(connection):
                    return
                revision = _lock(connection) + 1
                connection.execute(_EXPIRE, (revision,))
                gone = connection.execute(_FORGET, (REMOVED_FOR,)).fetchone()
                connection.execute(
                    "UPDATE tele_counter SET revision = %s, forgotten = greatest(forgotten, %s)",
                    (revision, 0 if gone is None or gone[0] is None else gone[0]),
                )

        self._read(sweep)


class _Attempt:
    """One attempt to do a batch of commits. ``ends``: the database may have done them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.ends = False
        #: What the batch does to each key: value, or None, revision, and time to live.
        self._puts: dict[str, tuple[bytes | None, int, timedelta | None]] = {}
        #: Revisions of keys that are compared, 0 for none.
        self._revisions: dict[str, int] = {}

    def commit(self, batch: Batch) -> list[int | TeleError]:
        """Return the revision of each, or its Conflict."""
        self._connection.execute("BEGIN")
        try:
            revision = _lock(self._connection)
            compared = {c.key for changes in batch for c in changes if c.if_revision is not None}
            if compared:
                rows = self._connection.execute(_REVISIONS, (list(compared),)).fetchall()
                self._revisions = dict(rows)
            answers: list[int | TeleError] = []
            for changes in batch:
                conflict = self._conflict(changes)
                if conflict is None:
                    revision += 1
                    self._note(changes, revision)
                answers.append(revision if conflict is None else conflict)
            self._write(revision)
        except BaseException:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise
        self.ends = True
        self._connection.execute("COMMIT")
        return answers

    def _conflict(self, changes: Sequence[Put | Delete]) -> Conflict | None:
        for change in changes:
            present = self._revisions.get(change.key, 0)
            if change.if_revision is not None and change.if_revision != present:
                return Conflict(f"{change.key} has changed since it was read")
        return None

    def _note(self, changes: Sequence[Put | Delete], revision: int) -> None:
        for change in changes:
            if isinstance(change, Put):
                self._puts[change.key] = (change.value, revision, change.ttl)
                self._revisions[change.key] = revision
            else:
                self._puts[change.key] = (None, revision, None)
                self._revisions[change.key] = 0

    def _write(self, revision: int) -> None:
        put = [(key, *rest) for key, rest in self._puts.items() if rest[0] is not None]
        gone = [(key, rest[1]) for key, rest in self._puts.items() if rest[0] is None]
        if put:
            self._connection.execute(_PUT, [list(column) for column in zip(*put, strict=True)])
        if gone:
            self._connection.execute(_REMOVE, [list(column) for column in zip(*gone, strict=True)])
        if put or gone:
            self._connection.execute("UPDATE tele_counter SET revision = %s", (revision,))


def _counter(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    row = connection.execute("SELECT revision, forgotten FROM tele_counter").fetchone()
    if row is None:
        raise Unavailable("the table tele_counter is empty: restore the store from a backup")
    return row[0], row[1]


def _lock(connection: psycopg.Connection[Any]) -> int:
    """Return the newest revision; no other process writes until the end of the transaction."""
    row = connection.execute(_LOCK).fetchone()
    if row is None:
        raise Unavailable("the table tele_counter is empty: restore the store from a backup")
    revision: int = row[0]
    return revision


def _is_due(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is something to sweep: a look costs others nothing."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM tele_items WHERE expires <= clock_timestamp())"
        " OR EXISTS (SELECT FROM tele_items WHERE removed < clock_timestamp() - %s)",
        (REMOVED_FOR,),
    ).fetchone()
    return row is not None and bool(row[0])


def _bound(text: str) -> str:
    """Return the bound of a range of keys, of which none has NUL: PostgreSQL takes none.

    ``key + NUL`` is what follows a key; of keys without NUL, that is what follows it with U+0001.
    """
    before, nul, _ = text.partition("\0")
    return f"{before}\x01" if nul else text


def _item(row: Any) -> Item:
    return Item(row[0], bytes(row[1]), row[2], row[3])


def _is_of(copy: socket.socket, connection: psycopg.Connection[Any]) -> bool:
    """Whether a descriptor is the socket of a connection to the server."""
    if copy.family == socket.AF_UNIX:
        return connection.info.host.startswith(("/", "@"))
    return copy.family in (socket.AF_INET, socket.AF_INET6) and (
        copy.getpeername()[:2] == (connection.info.hostaddr, connection.info.port)
    )


def _reason(error: Exception) -> str:
    """Return what the database says, on one line."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return " ".join((primary or str(error) or type(error).__name__).split())
