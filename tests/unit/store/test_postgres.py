"""What the store in PostgreSQL promises beyond the contract: faults of a real server."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from twisted.internet.defer import Deferred

from postgres_server import PostgresServer, programs, running_server
from store_turns import Turns, database_clock
from tele.errors import Conflict, InvalidInput, Unavailable
from tele.interfaces import Change, Put
from tele.store.polled import POLL_SECONDS
from tele.store.postgres import ANNOUNCE_SECONDS, PostgresBackend, read_url
from tele.store.postgres_session import REMOVED_FOR, PostgresSession

#: Seconds that a call may take in tests of a server that does not answer.
SHORT = 0.5
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"


@pytest.fixture
def turns() -> Turns:
    """The fake reactor."""
    return Turns()


@pytest.fixture
def url(postgres: PostgresServer, turns: Turns) -> Iterator[str]:
    """An empty store."""
    with database_clock(postgres, turns) as found:
        yield found


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_server() as server:
        yield server


def committed(turns: Turns, store: PostgresBackend, key: str) -> None:
    """Put a key, as soon as the store works again: a failure to connect is remembered a while."""
    deadline = time.monotonic() + 20
    while True:
        try:
            turns.wait(store.commit(Put(key, b"1")))
            return
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_two_processes_lose_no_update(url: str, turns: Turns) -> None:
    """A process that compares and puts beside others counts right, and a watch of another
    process gets each change once, in order, from any of them.
    """
    watching = PostgresBackend(url, turns)
    seen: list[Change] = []
    turns.wait(watching.watch("/n", seen.append))

    def count(session: PostgresSession, times: int) -> None:
        while times:
            item = session.get("/n", 0)
            put = (
                Put("/n", b"1", if_revision=0)
                if item is None
                else Put("/n", b"%d" % (int(item.value) + 1), if_revision=item.revision)
            )
            (answer,) = session.commit([(put,)], 0)
            times -= not isinstance(answer, Conflict)
        session.close()

    sessions = [PostgresSession(read_url(url)) for _ in range(4)]
    threads = [threading.Thread(target=count, args=(each, 25)) for each in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    item = turns.wait(watching.get("/n"))
    assert item is not None
    assert item.value == b"100"
    turns.advance(POLL_SECONDS)
    turns.settle(lambda: bool(seen) and seen[-1].revision == item.revision)
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions))
    turns.wait(watching.close())


def test_a_commit_of_another_process_is_announced(url: str, turns: Turns) -> None:
    """A watcher learns of it without waiting for its own next look."""
    one, other = PostgresBackend(url, turns), PostgresBackend(url, turns)
    seen: list[Change] = []
    turns.wait(other.watch("/", seen.append))
    with psycopg.connect(url, autocommit=True) as admin:
        deadline = time.monotonic() + 20
        while admin.execute(LISTENERS).fetchone() != (2,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    turns.wait(one.commit(Put("/a", b"")))
    turns.advance(ANNOUNCE_SECONDS)
    turns.settle(lambda: bool(seen))
    assert seen[0].key == "/a"
    for store in (one, other):
        turns.wait(store.close())


def test_a_server_that_was_killed_is_used_again(own_server: PostgresServer, turns: Turns) -> None:
    """What was acknowledged is there after a crash of the server, calls fail meanwhile, and the
    store works again without being made anew; its watches have missed nothing.
    """
    store = PostgresBackend(own_server.url(), turns)
    seen: list[str] = []
    turns.wait(store.watch("/k/", lambda change: seen.append(change.key)))
    for number in range(20):
        turns.wait(store.commit(Put(f"/k/{number:02}", b"")))
    own_server.end(signal.SIGQUIT)
    with pytest.raises(Unavailable, match="the database postgres at"):
        turns.wait(store.commit(Put("/k/lost", b"")))
    with pytest.raises(Unavailable):
        turns.wait(store.get("/k/00"))
    own_server.start()
    with psycopg.connect(own_server.url(), autocommit=True) as other:
        rows = other.execute("SELECT count(*) FROM tele_live").fetchone()
    assert rows == (20,)
    session = PostgresSession(read_url(own_server.url()))
    session.commit([(Put("/k/by-another", b""),)], 0)
    session.close()
    deadline = time.monotonic() + 20
    while "/k/by-another" not in seen:  # a call fails at once for a second after a failure
        assert time.monotonic() < deadline
        turns.advance(POLL_SECONDS)
        time.sleep(0.1)
        turns.deliver()
    committed(turns, store, "/k/after")
    assert seen.count("/k/19") == 1
    turns.wait(store.close())


def test_a_server_that_does_not_answer(own_server: PostgresServer, turns: Turns) -> None:
    """A call ends after a time although the server keeps the connection, and the next one works
    when the server goes on.
    """
    store = PostgresBackend(own_server.url(), turns, SHORT)
    turns.wait(store.commit(Put("/a", b"1")))
    own_server.signal(signal.SIGSTOP)
    answers: list[Deferred[Any]] = [store.get("/a"), store.commit(Put("/b", b"1"))]
    time.sleep(SHORT)  # as long as the threads have waited, in their time
    turns.advance(SHORT)
    for answer in answers:
        with pytest.raises(Unavailable, match="has not answered within"):
            turns.wait(answer)
    own_server.signal(signal.SIGCONT)
    committed(turns, store, "/c")
    item = turns.wait(store.get("/a"))
    assert item is not None
    turns.wait(store.close())


def test_a_process_that_was_stopped_in_a_commit_blocks_nobody(url: str, turns: Turns) -> None:
    """The database ends its transaction; when it goes on, it changes nothing."""
    _made(url)
    zombie = psycopg.connect(read_url(url, SHORT).words)
    zombie.execute("SELECT revision FROM tele_counter FOR UPDATE")
    store = PostgresBackend(url, turns)
    turns.wait(store.commit(Put("/a", b"1")))
    with pytest.raises(psycopg.Error):
        zombie.execute("UPDATE tele_counter SET revision = 0")
    zombie.close()
    turns.wait(store.close())


def _made(url: str) -> None:
    """Make the tables."""
    session = PostgresSession(read_url(url))
    session.prepare()
    session.close()


def test_who_missed_a_removal_does_not_go_on(url: str, turns: Turns) -> None:
    """Once removals that a process has not read are forgotten, all its calls fail: it may know
    users that do not exist any more.
    """
    store = PostgresBackend(url, turns)
    turns.wait(store.watch("/", lambda change: None))
    session = PostgresSession(read_url(url))
    session.commit([(Put("/a", b"", ttl=timedelta(seconds=1)),)], 0)
    store._polling = True  # it reads nothing, as if it were cut off
    for later in (2, REMOVED_FOR.total_seconds() + 60):
        for move in turns.before_move:
            move(turns.wall_seconds() + later)
        session.sweep(0)
    session.close()
    store._polling = False
    turns.advance(POLL_SECONDS)
    turns.settle(lambda: store._lost is not None)
    with pytest.raises(Unavailable, match="restart it"):
        turns.wait(store.get("/a"))
    turns.wait(store.close())


def test_a_database_that_went_back_is_noticed(url: str, turns: Turns) -> None:
    """After a restored backup, or a replica that had not got all, all calls fail: what this process
    knows may never have been.
    """
    store = PostgresBackend(url, turns)
    turns.wait(store.watch("/", lambda change: None))
    turns.wait(store.commit(Put("/a", b"")))
    turns.wait(store.commit(Put("/b", b"")))
    turns.settle(lambda: store._seen == 2)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("UPDATE tele_counter SET revision = 1")
    turns.advance(POLL_SECONDS)
    turns.settle(lambda: store._lost is not None)
    with pytest.raises(Unavailable, match="has lost what it had acknowledged"):
        turns.wait(store.commit(Put("/c", b"")))
    turns.wait(store.close())


def test_a_commit_is_on_disk_whatever_the_database_says(url: str, postgres: PostgresServer) -> None:
    """A database that acknowledges before it has written is told to write first."""
    session = PostgresSession(read_url(f"{url}%20-csynchronous_commit%3Doff"))
    session.prepare()
    shown = session.listen().execute("SHOW synchronous_commit").fetchone()
    assert shown == ("on",)
    session.close()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("postgresql://u:secret@localhost/db", "a password does not belong into the URL"),
        ("postgresql://u:secret@[::1/db", "not the URL of a database"),
        ("postgresql://localhost/db?sslmod=x", "not the URL of a database"),
        ("postgresql://db.example/x?sslmode=require", "does not check who the server is"),
        ("postgresql://localhost/x?hostaddr=192.0.2.1&sslmode=prefer", "does not check who"),
        ("postgresql://127.db.example/x?sslmode=prefer", "does not check who the server is"),
        ("postgresql:///x?service=other", "services of libpq are not used"),
    ],
)
def test_what_is_not_acceptable_in_a_url(given: str, why: str) -> None:
    """It is refused with what to do instead, and without the password."""
    with pytest.raises(InvalidInput, match=why) as refused:
        read_url(given)
    assert "secret" not in str(refused.value)


def test_a_server_elsewhere_is_checked() -> None:
    """Its certificate and its name are, unless it is on this machine."""
    assert "sslmode=verify-full" in read_url("postgresql://db.example/x").words
    assert "sslmode" not in read_url("postgresql://localhost/x").words
    words = read_url("postgresql://db.example/x?sslrootcert=/etc/ca.pem").words
    assert "sslrootcert=/etc/ca.pem" in words


def test_a_database_that_cannot_be_used_is_said(
    postgres: PostgresServer, turns: Turns, tmp_path: Path
) -> None:
    """One that is not there, one of another encoding, and one of a newer version of tele."""
    with pytest.raises(Unavailable, match=r'cannot reach the database none at .* "none" does not'):
        PostgresBackend(postgres.url("none"), turns)
    with pytest.raises(Unavailable, match="cannot reach"):
        PostgresBackend(f"postgresql:///x?host={tmp_path}", turns)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")
        try:
            with pytest.raises(Unavailable, match="its encoding is not UTF8"):
                PostgresBackend(postgres.url("latin"), turns)
        finally:
            admin.execute("DROP DATABASE latin")


def test_a_store_of_a_newer_version_is_refused(url: str, turns: Turns) -> None:
    """An auth that does not know how the tables are used does not use them."""
    _made(url)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("UPDATE tele_counter SET format = 2")
    with pytest.raises(Unavailable, match="another version of tele: upgrade this auth"):
        PostgresBackend(url, turns)
