"""How is the text of recordings laid out in one SQLite file? Synchronous, for threads.

Lines are in a table, in one piece for each recording, and in a full-text index of trigrams (FTS5).

Invariants:

* Everything in it is derived from recordings: a file that is damaged is replaced by an empty one.
* An isolated search reads the lines of its user alone; no index of others' text takes part.
* The mark of a page of an isolated search is a place in a recording of its user: how many lines
  others have is in no mark.
* A search ends at its deadline, whatever it has found.
* The file has at most a given size: then the oldest recordings of the user with most text go.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tele.durable_files import make_folder
from tele.errors import InvalidInput
from tele.interfaces import SearchedLine, SearchedRecording, SearchPage, SearchQuery
from tele.model.api.search import FoundIn

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS recordings (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    received INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS recordings_user ON recordings (user, n);
CREATE TABLE IF NOT EXISTS lines (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    recording INTEGER NOT NULL,
    at INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    text, content = 'lines', content_rowid = 'n', tokenize = 'trigram', detail = 'full'
);
"""
#: Numbers of kinds in the file.
_KINDS: Final = tuple(FoundIn)
_NUMBER: Final = {kind: number for number, kind in enumerate(_KINDS)}
#: Instructions of SQLite between two looks at the clock.
_INSTRUCTIONS: Final = 20_000
#: Recordings that are removed at once to make space.
_EVICTED: Final = 20
#: Pages of the full-text index that are written again in one step.
_SCRUBBED: Final = 500
#: Rows that a step changes at least, if it does anything (https://sqlite.org/fts5.html#the_merge_command).
_CHANGED: Final = 2
#: A part of the file that is full-text index and overhead, for each byte of text.
_OVERHEAD: Final = 64

_BY_WORDS: Final = """
SELECT lines.n, recordings.id, lines.at, lines.channel, lines.kind, lines.text, recordings.first
FROM words JOIN lines ON lines.n = words.rowid JOIN recordings ON recordings.n = lines.recording
WHERE words MATCH :words AND words.rowid < :before
AND (:user = '' OR recordings.user = :user)
AND recordings.received >= :since AND recordings.received < :until {kinds}
ORDER BY words.rowid DESC LIMIT :limit
"""
_OF_USER: Final = """
SELECT id, first, last FROM recordings WHERE user = :user AND first < :before
AND received >= :since AND received < :until ORDER BY n DESC
"""
_IN_RECORDING: Final = """
SELECT n, :id, at, channel, kind, text, :first FROM lines
WHERE n BETWEEN :first AND :last AND n < :before AND {match} {kinds} ORDER BY n DESC LIMIT :limit
"""
_Row = tuple[int, str, int, int, int, str, int]


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, mode 0600; a damaged one is replaced. May raise OSError or sqlite3.Error."""
    make_folder(path.parent)
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        for each in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + each).unlink()
        return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def add(
    connection: sqlite3.Connection,
    recording: SearchedRecording,
    lines: Sequence[SearchedLine],
    limit: int,
) -> None:
    """Store the lines of a recording; the file's text has at most ``limit`` bytes."""
    size = sum(len(line.text.encode("utf-8", "replace")) + _OVERHEAD for line in lines)
    with _transaction(connection):
        _remove(connection, recording.id)
        if not lines or size > limit:
            return
        _make_space(connection, limit - size)
        newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'lines'")
        last = (newest.fetchone() or (0,))[0]
        moment = int(recording.received.timestamp() * 1000)
        number = connection.execute(
            "INSERT INTO recordings (id, user, received, first, last, size) VALUES (?,?,?,?,?,?)",
            (recording.id, recording.user, moment, last + 1, last + len(lines), size),
        ).lastrowid
        connection.executemany(
            "INSERT INTO lines (recording, at, channel, kind, text) VALUES (?,?,?,?,?)",
            [
                (number, line.at, line.channel, _NUMBER[line.kind], _clean(line.text))
                for line in lines
            ],
        )
        connection.execute(
            "INSERT INTO words (rowid, text) SELECT n, text FROM lines WHERE n > ?", (last,)
        )


def _clean(text: str) -> str:
    """Return text that SQLite stores: no surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _make_space(connection: sqlite3.Connection, limit: int) -> None:
    """Remove recordings until the text that is left has at most ``limit`` bytes."""
    while True:
        used = connection.execute("SELECT coalesce(sum(size), 0) FROM recordings").fetchone()[0]
        if used <= limit:
            return
        (user,) = connection.execute(
            "SELECT user FROM recordings GROUP BY user ORDER BY sum(size) DESC LIMIT 1"
        ).fetchone()
        oldest = connection.execute(
            "SELECT id FROM recordings WHERE user = ? ORDER BY n LIMIT ?", (user, _EVICTED)
        ).fetchall()
        for (each,) in oldest:
            _remove(connection, each)


def remove(connection: sqlite3.Connection, recording_id: str) -> None:
    """Remove a recording."""
    with _transaction(connection):
        _remove(connection, recording_id)


def scrub(connection: sqlite3.Connection, begin: bool) -> bool:
    """Write a part of the full-text index again, without what was removed; returns whether more is.

    Text is overwritten when it is removed, but its trigrams stay where they were. ``begin`` is true
    in the first call.
    """
    if not connection.execute("SELECT 1 FROM recordings LIMIT 1").fetchone():
        connection.execute("INSERT INTO words (words) VALUES ('delete-all')")
    else:
        pages = -_SCRUBBED if begin else _SCRUBBED
        before = connection.total_changes
        connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
        if connection.total_changes - before >= _CHANGED:
            return True
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return False


def _remove(connection: sqlite3.Connection, recording_id: str) -> None:
    row = connection.execute(
        "SELECT first, last FROM recordings WHERE id = ?", (recording_id,)
    ).fetchone()
    if row is None:
        return
    connection.execute(
        "INSERT INTO words (words, rowid, text)"
        " SELECT 'delete', n, text FROM lines WHERE n BETWEEN ? AND ?",
        row,
    )
    connection.execute("DELETE FROM lines WHERE n BETWEEN ? AND ?", row)
    connection.execute("DELETE FROM recordings WHERE id = ?", (recording_id,))


# -- searching ------------------------------------------------------------------------
def search(path: Path, query: SearchQuery, seconds: float) -> SearchPage:
    """Search for at most ``seconds``, on a connection of its own. May raise sqlite3.Error."""
    connection = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA busy_timeout = 2000")
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
        return _Search(connection, query).run()
    finally:
        connection.close()


class _Search:
    """One search."""

    def __init__(self, connection: sqlite3.Connection, query: SearchQuery) -> None:
        self._connection = connection
        self._query = query
        self._found: list[_Row] = []
        numbers = ",".join(str(_NUMBER[kind]) for kind in query.kinds)
        self._kinds = f"AND kind IN ({numbers})" if numbers else ""
        self._before = self._place(query.after) if query.after else 1 << 62
        #: Where an interrupted search goes on: a mark.
        self._reached = ""

    def run(self) -> SearchPage:
        find = self._of_user if self._query.isolated else self._by_words
        cut = False
        try:
            find()
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            cut = True
        more = self._mark(self._found[-1]) if len(self._found) >= self._query.limit else ""
        if cut and not more and (self._reached or self._found):
            more = self._reached or self._mark(self._found[-1])
        lines = (
            (id_, SearchedLine(at, channel, _KINDS[kind], text))
            for _, id_, at, channel, kind, text, _ in self._found
        )
        return SearchPage(tuple(lines), more, cut)

    def _place(self, mark: str) -> int:
        """Return the line before which a page begins. Raises :class:`InvalidInput`."""
        recording, dot, line = mark.rpartition(".")
        if not line.isdecimal() or bool(dot) != self._query.isolated:
            raise InvalidInput("after: not the mark of an earlier page")
        if not dot:
            return int(line)
        row = self._connection.execute(
            "SELECT first FROM recordings WHERE id = ? AND user = ?", (recording, self._query.user)
        ).fetchone()
        if row is None:
            raise InvalidInput("after: the recording of this mark is gone; search again")
        return int(row[0]) + int(line)

    def _mark(self, row: _Row) -> str:
        """Return the mark of the page that begins after a line, or after its recording."""
        number, recording, *_, first = row
        after = first if self._query.distinct else number
        return f"{recording}.{after - first}" if self._query.isolated else str(after)

    @property
    def _left(self) -> int:
        return self._query.limit - len(self._found)

    def _values(self, **more: Any) -> dict[str, Any]:
        query = self._query
        return {
            "user": query.user,
            "before": self._before,
            "since": 0 if query.since is None else int(query.since.timestamp() * 1000),
            "until": 1 << 62 if query.until is None else int(query.until.timestamp() * 1000),
            "limit": 1 if query.distinct else self._left,
        } | more

    def _by_words(self) -> None:
        words = '"' + _clean(self._query.text).replace('"', '""') + '"'
        sql = _BY_WORDS.format(kinds=self._kinds)
        while self._left > 0:
            rows = self._connection.execute(sql, self._values(words=words))
            count = 0
            for row in rows:
                self._found.append(row)
                count += 1
            if not self._query.distinct or not count:
                return
            self._before = self._found[-1][6]

    def _of_user(self) -> None:
        match, needle = "text LIKE :needle ESCAPE '\\'", _pattern(_clean(self._query.text))
        if not self._query.text.isascii():
            folded = self._query.text.casefold()
            match, needle = "folded(text, :needle)", folded
            self._connection.create_function(
                "folded", 2, lambda text, wanted: wanted in text.casefold(), deterministic=True
            )
        sql = _IN_RECORDING.format(kinds=self._kinds, match=match)
        own = self._connection.execute(_OF_USER, self._values()).fetchall()
        for id_, first, last in own:
            values = self._values(id=id_, first=first, last=last, needle=needle)
            self._found += self._connection.execute(sql, values).fetchall()
            self._reached = f"{id_}.0"
            if self._left <= 0:
                return


def _pattern(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text}%"
