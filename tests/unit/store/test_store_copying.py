"""A store is copied whole or not at all, from and to each kind that can be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from postgres_server import PostgresServer
from tele.errors import Conflict, InvalidInput, NotFound, TeleError, Unavailable
from tele.interfaces import Delete, Put
from tele.model.codec import parse_duration
from tele.store import sqlite_file
from tele.store.copying import Row, copy_store
from tele.store.postgres_copying import PostgresPlace
from tele.store.postgres_session import PostgresSession
from tele.store.sqlite_copying import SqlitePlace

ITEMS = 1200


def fill(path: Path) -> None:
    """Make a store with items of all kinds."""
    now = time.time()
    with closing(sqlite_file.open_file(path)) as store:
        for number in range(0, ITEMS, 100):
            puts = [Put(f"/n/{each}", b"\0\xff" * each) for each in range(number, number + 100)]
            sqlite_file.commit(store, [tuple(puts)], now)
        for part in range(10):  # dates at every part of a microsecond
            leases = tuple(
                Put(f"/l/{part}/{each}", b"", ttl=timedelta(hours=1, microseconds=617 * each))
                for each in range(ITEMS // 10)
            )
            sqlite_file.commit(store, [leases], now + part * 0.0001000137)
        more = (
            Put("/empty", b""), Put("/naïve/ключ", "x€".encode()), Put("/gone", b"1"),
            Put("/lease", b"2", ttl=parse_duration("1h")),
        )  # fmt: skip
        sqlite_file.commit(store, [more, (Delete("/gone"),)], now)
        sqlite_file.commit(store, [(Put("/over", b"3", ttl=parse_duration("1s")),)], now - 10)


def rows(place: SqlitePlace | PostgresPlace) -> tuple[int, list[Row]]:
    """Return the newest revision and all items."""
    with place.source() as source:
        return source.revision, list(source.rows())


@pytest.fixture
def full(tmp_path: Path) -> SqlitePlace:
    """A store with items."""
    fill(tmp_path / "auth.sqlite")
    return SqlitePlace(tmp_path / "auth.sqlite")


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    """An empty database."""
    name = f"copy{time.monotonic_ns()}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield PostgresPlace(postgres.url(name))
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_to_a_file(full: SqlitePlace, tmp_path: Path) -> None:
    """Keys, values, revisions and leases are the same; what was removed or ended is left out."""
    copy = SqlitePlace(tmp_path / "new" / "copy.sqlite")
    copied = copy_store(full, copy)
    assert copied.items == 2 * ITEMS + 3
    assert rows(copy) == rows(full)
    assert copy.path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in copy.path.parent.iterdir()] == ["copy.sqlite"]
    with closing(sqlite_file.open_file(copy.path)) as store:
        assert sqlite_file.newest(store) == rows_revision(full)
        assert sqlite_file.commit(store, [(Put("/n/0", b"new"),)], 0.0) == [rows_revision(full) + 1]


def rows_revision(place: SqlitePlace) -> int:
    """Return the newest revision."""
    with place.source() as source:
        return source.revision


def test_to_a_database_and_back(full: SqlitePlace, database: PostgresPlace, tmp_path: Path) -> None:
    """All of it survives both ways, and the database goes on after the last revision."""
    there = copy_store(full, database)
    assert rows(database) == rows(full)
    back = SqlitePlace(tmp_path / "back.sqlite")
    assert copy_store(database, back) == there
    assert rows(back) == rows(full)
    session = PostgresSession(database._database)
    with closing(session):
        newest = session.prepare()
        assert newest == rows_revision(full)
        assert session.commit([(Put("/n/0", b"new"),)], 0.0) == [newest + 1]
        assert session.changes_since(newest)[0] == newest + 1


def test_nothing_is_replaced(full: SqlitePlace, database: PostgresPlace, tmp_path: Path) -> None:
    """A store that is there, even an empty file, is refused before anything is written."""
    other = tmp_path / "other.sqlite"
    other.touch()
    with pytest.raises(Conflict, match="exists already"):
        copy_store(full, SqlitePlace(other))
    assert other.stat().st_size == 0
    copy_store(full, database)
    with pytest.raises(Conflict, match="has a store"):
        copy_store(full, database)


def test_a_store_in_use_is_refused(
    full: SqlitePlace, database: PostgresPlace, tmp_path: Path
) -> None:
    """An auth that runs has it open: what it would write later would be lost."""
    copy = SqlitePlace(tmp_path / "copy.sqlite")
    with closing(sqlite_file.open_file(full.path)), pytest.raises(Conflict, match="stop auth"):
        copy_store(full, copy)
    assert not copy.path.exists()
    copy_store(full, database)
    words = database._database.words.replace("tele-store-copy", "tele-auth")
    with psycopg.connect(words), pytest.raises(Conflict, match="stop all"):
        copy_store(database, copy)
    assert not copy.path.exists()


def test_a_copy_that_fails_leaves_nothing(
    full: SqlitePlace, database: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a part of a file, nor a part in a database: an auth would start a new cluster."""

    class Torn(Exception):
        """The process is ended here."""

    def torn(*_: object) -> None:
        raise Torn

    with monkeypatch.context() as patch:
        patch.setattr("tele.store.copying._Digest.found", property(torn))
        for place in (SqlitePlace(tmp_path / "copy.sqlite"), database):
            with pytest.raises(Torn):
                copy_store(full, place)
    assert [each.name for each in tmp_path.iterdir()] == ["auth.sqlite"]
    assert rows(database) == (0, [])
    assert copy_store(full, database).items == 2 * ITEMS + 3


def test_what_is_no_store(full: SqlitePlace, database: PostgresPlace, tmp_path: Path) -> None:
    """Each is an error that says what is wrong, and shows no password."""
    copy = SqlitePlace(tmp_path / "copy.sqlite")
    with pytest.raises(NotFound):
        copy_store(SqlitePlace(tmp_path / "nothing"), copy)
    with pytest.raises(NotFound, match="no store"):
        copy_store(database, copy)
    (tmp_path / "text").write_text("not a database" * 1000)
    with pytest.raises(Unavailable):
        copy_store(SqlitePlace(tmp_path / "text"), copy)
    with pytest.raises(InvalidInput) as refused:
        copy_store(full, PostgresPlace("postgresql://tele:hunter2@127.0.0.1/tele"))
    assert "hunter2" not in str(refused.value)
    with pytest.raises(TeleError, match=r"cannot be|failed|reach"):
        copy_store(full, PostgresPlace("postgresql://tele@127.0.0.1:1/tele"))
    assert not copy.path.exists()
