"""How is the store laid out in one SQLite file? Synchronous, for threads.

Invariants:

* One table of items, one counter; every commit is one transaction, on disk before it
  is acknowledged (``synchronous=FULL``, write-ahead log).
* Removed keys leave a tombstone until they are older than any watcher can be, so that
  another process on the same file learns of removals too.
* Nothing here knows the reactor.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tele.durable_files import make_folder, sync_folder
from tele.errors import Conflict, TeleError, Unavailable
from tele.interfaces import Change, Delete, Item, Put
from tele.store.reserve import is_full

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB,
    revision INTEGER NOT NULL,
    expires REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_revision ON items (revision);
CREATE INDEX IF NOT EXISTS items_expires ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
);
INSERT OR IGNORE INTO counter VALUES (1, 0);
"""

#: Tombstones younger than this many revisions are kept.
TOMBSTONES = 10_000

_FORWARDS = """
SELECT key, value, revision, expires FROM items WHERE key >= ? AND key < ?
AND value IS NOT NULL AND (expires IS NULL OR expires > ?) ORDER BY key LIMIT ?
"""
_BACKWARDS = """
SELECT key, value, revision, expires FROM items WHERE key >= ? AND key < ?
AND value IS NOT NULL AND (expires IS NULL OR expires > ?) ORDER BY key DESC LIMIT ?
"""

_MANY = """
SELECT key, value, revision, expires FROM items WHERE key IN (%s)
AND value IS NOT NULL AND (expires IS NULL OR expires > ?)
"""
#: SQLite takes at least 999 values in one statement.
KEYS_AT_ONCE = 500

_Row = tuple[str, bytes | None, int, float | None]


def _item(row: _Row) -> Item:
    key, value, revision, expires = row
    ends = None if expires is None else datetime.fromtimestamp(expires, UTC)
    return Item(key, bytes(value or b""), revision, ends)


def open_file(path: Path) -> sqlite3.Connection:
    """Open, or create with mode 0600, the store at ``path``. Raises :class:`Unavailable`.

    On a full disk it raises SQLite's own error (:func:`tele.store.reserve.is_full`).
    """
    try:
        make_folder(path.parent)
        _keep_private(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Unavailable(f"cannot open the store {path}: {why}") from None
    try:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("PRAGMA synchronous = FULL")
        # What was replaced does not stay readable: neither in the file, nor in its log after the
        # next start. It may be a key that is sealed now.
        connection.execute("PRAGMA secure_delete = ON")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(
                f"its journal is {mode}: the file system has no shared memory, use a local disk"
            )
        connection.executescript(SCHEMA)
        connection.execute("PRAGMA busy_timeout = 0")  # another process may be reading
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute("PRAGMA busy_timeout = 10000")
    except sqlite3.Error as error:
        connection.close()
        if is_full(error):
            raise
        raise Unavailable(f"{path} is not a usable store: {error}") from None
    return connection


def _keep_private(path: Path) -> None:
    """Create the file, or make it private. May raise OSError.

    Raises :class:`Unavailable` if others could change it: it decides who is an administrator.

    Closing any descriptor of a file drops the locks that this process has on it (fcntl(2)), and
    with them those of SQLite's connections: another process that reads the store would take itself
    for the last one and remove the log. So an existing file is not opened.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
    except FileExistsError:
        # A file from a backup may be readable by all; SQLite gives its log and shared memory the
        # same mode.
        found = os.stat(path)
        if found.st_uid not in (0, os.geteuid()):
            problem = f"it belongs to another user (uid {found.st_uid})"
            raise Unavailable(f"the store {path}: {problem}: run auth as that user") from None
        if stat.S_IMODE(found.st_mode) & 0o022:
            problem = f"others can change it (mode {stat.S_IMODE(found.st_mode):04o})"
            raise Unavailable(
                f"the store {path}: {problem}: restore a backup unless you know that it was not"
                f" changed, then run: chmod 600 {path}"
            ) from None
        os.chmod(path, 0o600)


def get(connection: sqlite3.Connection, key: str, moment: float) -> Item | None:
    """Return one live item."""
    row = connection.execute(
        "SELECT key, value, revision, expires FROM items"
        " WHERE key = ? AND value IS NOT NULL AND (expires IS NULL OR expires > ?)",
        (key, moment),
    ).fetchone()
    return None if row is None else _item(row)


def get_many(
    connection: sqlite3.Connection, keys: Sequence[str], moment: float
) -> list[Item | None]:
    """Return for each key its live item, or None."""
    found: dict[str, Item] = {}
    connection.execute("BEGIN")
    try:
        for begin in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[begin : begin + KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = connection.execute(_MANY % marks, (*some, moment)).fetchall()
            found |= {row[0]: _item(row) for row in rows}
    finally:
        connection.execute("COMMIT")
    return [found.get(key) for key in keys]


def select(
    connection: sqlite3.Connection,
    start: str,
    end: str,
    limit: int,
    reverse: bool,
    moment: float,
) -> Sequence[Item]:
    """Return live items of a range."""
    query = _BACKWARDS if reverse else _FORWARDS
    rows = connection.execute(query, (start, end, moment, limit or -1)).fetchall()
    return [_item(row) for row in rows]


def newest(connection: sqlite3.Connection) -> int:
    """Return the newest revision."""
    found: int = connection.execute("SELECT revision FROM counter").fetchone()[0]
    return found


def changes_since(connection: sqlite3.Connection, revision: int) -> tuple[int, list[Change]]:
    """Return the newest revision, and what changed after ``revision``, oldest first."""
    connection.execute("BEGIN")
    try:
        revision_now = newest(connection)
        rows = connection.execute(
            "SELECT key, value, revision, expires FROM items WHERE revision > ?"
            " ORDER BY revision, key",
            (revision,),
        ).fetchall()
    finally:
        connection.execute("COMMIT")
    return revision_now, [Change(r[0], r[2], None if r[1] is None else _item(r)) for r in rows]


def commit(
    connection: sqlite3.Connection, batch: Sequence[tuple[Put | Delete, ...]], moment: float
) -> list[int | TeleError]:
    """Do several commits in one transaction: one sync to disk for all of them.

    Returns for each its revision, or its :class:`Conflict`.
    """
    answers: list[int | TeleError] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        revision = newest(connection)
        for changes in batch:
            conflict = _conflict(connection, changes, moment)
            if conflict is not None:
                answers.append(conflict)
                continue
            revision += 1
            _apply(connection, changes, revision, moment)
            answers.append(revision)
        connection.execute("UPDATE counter SET revision = ?", (revision,))
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise
    return answers


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite ends a transaction by itself on some errors (a full disk), not on others.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _conflict(
    connection: sqlite3.Connection, changes: Iterable[Put | Delete], moment: float
) -> Conflict | None:
    for change in changes:
        if change.if_revision is None:
            continue
        item = get(connection, change.key, moment)
        if change.if_revision != (0 if item is None else item.revision):
            return Conflict(f"{change.key} has changed since it was read")
    return None


def _apply(
    connection: sqlite3.Connection,
    changes: Iterable[Put | Delete],
    revision: int,
    moment: float,
) -> None:
    for change in changes:
        if isinstance(change, Put):
            expires = None if change.ttl is None else moment + change.ttl.total_seconds()
            connection.execute(
                "INSERT INTO items VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " value = excluded.value, revision = excluded.revision,"
                " expires = excluded.expires",
                (change.key, change.value, revision, expires),
            )
        else:
            connection.execute(
                "UPDATE items SET value = NULL, revision = ?, expires = NULL"
                " WHERE key = ? AND value IS NOT NULL",
                (revision, change.key),
            )


def sweep(connection: sqlite3.Connection, moment: float) -> None:
    """Turn leases that ran out into tombstones, and forget old tombstones."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        over = connection.execute(
            "SELECT key FROM items WHERE expires <= ? AND value IS NOT NULL", (moment,)
        ).fetchall()
        revision = newest(connection)
        if over:
            revision += 1
            _apply(connection, [Delete(key) for (key,) in over], revision, moment)
            connection.execute("UPDATE counter SET revision = ?", (revision,))
        connection.execute(
            "DELETE FROM items WHERE value IS NULL AND revision < ?", (revision - TOMBSTONES,)
        )
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise
