"""What every store promises: run against memory, SQLite, PostgreSQL and etcd."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from etcd_server import EtcdCluster, etcd_clock
from postgres_server import PostgresServer
from store_turns import Turns, database_clock
from tele.config.values import Chosen
from tele.embed.plugins import choose
from tele.errors import Conflict, Unavailable
from tele.interfaces import Change, Delete, IBackend, IBackendFactory, Item, Put, Surroundings
from tele.store.batches import get_many
from tele.store.etcd import EtcdBackend
from tele.store.memory import MemoryBackend
from tele.store.polled import POLL_SECONDS
from tele.store.postgres import PostgresBackend
from tele.store.sqlite import SqliteBackend
from tele.store.threaded import LONG, SWEEP_SECONDS
from tele.testing import SettableClock

T = TypeVar("T")


@implementer(IBackend)
class PlainBackend:
    """A store that can do what is required and no more."""

    def __init__(self, store: IBackend) -> None:
        self.get = store.get
        self.range = store.range
        self.commit = store.commit
        self.watch = store.watch
        self.close = store.close


@pytest.fixture
def turns() -> Turns:
    """The fake reactor."""
    return Turns()


@pytest.fixture(params=["memory", "sqlite", "postgresql", "etcd"])
def store(
    request: pytest.FixtureRequest,
    turns: Turns,
    tmp_path: Path,
    postgres: PostgresServer,
    etcd: EtcdCluster,
) -> Iterator[IBackend]:
    """One of each kind."""
    with ExitStack() as stack:
        made: Any
        if request.param == "memory":
            made = MemoryBackend(turns)
        elif request.param == "sqlite":
            made = SqliteBackend(tmp_path / "s", turns)
        elif request.param == "postgresql":
            made = PostgresBackend(stack.enter_context(database_clock(postgres, turns)), turns)
        else:
            made = EtcdBackend(stack.enter_context(etcd_clock(etcd, turns)), turns)
        yield made
        turns.wait(made.close())


def keys(
    turns: Turns, store: IBackend, start: str = "/", end: str = "0", **words: Any
) -> list[str]:
    return [item.key for item in turns.wait(store.range(start, end, **words))]


def test_what_is_put_is_there(store: IBackend, turns: Turns) -> None:
    """A value is returned with the revision of its commit."""
    revision = turns.wait(store.commit(Put("/a", b"1")))
    item = turns.wait(store.get("/a"))
    assert item is not None
    assert (item.key, item.value, item.revision, item.expires) == ("/a", b"1", revision, None)
    assert turns.wait(store.get("/b")) is None


def test_revisions_grow(store: IBackend, turns: Turns) -> None:
    """Each commit has a larger revision than all before."""
    revisions = [turns.wait(store.commit(Put("/a", b"%d" % n))) for n in range(5)]
    assert revisions == sorted(set(revisions))


def test_ranges_are_ordered_and_half_open(store: IBackend, turns: Turns) -> None:
    """Keys come in order, from start to before end, forwards or backwards, so many."""
    turns.wait(store.commit(*(Put(f"/k/{n}", b"") for n in (3, 1, 2, 5, 4))))
    assert keys(turns, store, "/k/2", "/k/5") == ["/k/2", "/k/3", "/k/4"]
    assert keys(turns, store, "/k/", "/k0", limit=2) == ["/k/1", "/k/2"]
    assert keys(turns, store, "/k/", "/k0", limit=2, reverse=True) == ["/k/5", "/k/4"]


def test_a_page_begins_after_the_last_key_of_the_one_before(store: IBackend, turns: Turns) -> None:
    """That key and NUL is what follows it, whatever else begins with it."""
    some = ["/k/a", "/k/a\x01", "/k/ab", "/k/a\x7f", "/k/aé", "/k/b"]
    turns.wait(store.commit(*(Put(key, b"") for key in some)))
    assert keys(turns, store, "/k/a\0", "/k0") == some[1:]
    assert keys(turns, store, "/k/", "/k/a\0") == some[:1]
    assert keys(turns, store, "/k/a\x01\0", "/k/a\x7f\0") == some[2:4]


def test_many_keys_are_read_at_once(store: IBackend, turns: Turns) -> None:
    """Each key's item comes in the order of the keys, None where there is none, however many."""
    turns.wait(store.commit(*(Put(f"/k/{n}", b"%d" % n) for n in range(1200))))
    turns.wait(store.commit(Delete("/k/7")))
    wanted = [f"/k/{n}" for n in (1199, 7, 3, 3, 5000, *range(600))]
    items = turns.wait(Deferred.fromCoroutine(get_many(store, wanted)))
    found = [None if item is None else item.value for item in items]
    assert found[:5] == [b"1199", None, b"3", b"3", None]
    assert found[5:] == [None if n == 7 else b"%d" % n for n in range(600)]


def test_a_store_without_batches_gets_one_call_for_each_key(store: IBackend, turns: Turns) -> None:
    """A third-party store with the required methods only is read all the same."""
    plain = PlainBackend(store)
    turns.wait(store.commit(Put("/a", b"1")))
    items = turns.wait(Deferred.fromCoroutine(get_many(plain, ["/b", "/a"])))
    assert [item and item.key for item in items] == [None, "/a"]


def test_long_answers_are_delivered_one_at_a_time(tmp_path: Path, turns: Turns) -> None:
    """Long answers that are ready together leave the reactor a turn for others in between."""
    store = SqliteBackend(tmp_path / "s", turns)
    turns.wait(store.commit(*(Put(f"/k/{n}", b"") for n in range(LONG + 1))))
    order: list[str] = []

    def came(_: object, name: str) -> None:
        order.append(name)

    for number in range(3):
        store.range("/k/", "/k0").addCallback(came, f"{number}")
    turns.settle(lambda: len(turns.calls) > 2)  # the first is to come; two timers are the store's
    turns.callLater(0, order.append, "other")
    turns.settle(lambda: len(store._long._waiting) == 3)
    assert order == []
    while len(order) < 4:
        turns.advance(0)
    assert order.index("other") <= 1
    assert sorted(order) == ["0", "1", "2", "other"]
    turns.wait(store.close())


def test_a_change_is_delivered_after_earlier_reads(tmp_path: Path, turns: Turns) -> None:
    """A long answer that waits is not older than a change that was delivered already."""
    store = SqliteBackend(tmp_path / "s", turns)
    turns.wait(store.commit(*(Put(f"/k/{n}", b"old") for n in range(LONG + 1))))
    seen: list[bytes] = []

    def received(change: Change) -> None:
        assert change.item is not None
        seen.append(change.item.value)

    def read(items: Sequence[Item]) -> None:
        seen.append(items[0].value)

    turns.wait(store.watch("/k/", received))
    store.range("/k/", "/k0").addCallback(read)
    turns.settle(lambda: len(store._long) == 1)
    committed: list[int] = []
    store.commit(Put("/k/0", b"new")).addCallback(committed.append)
    turns.settle(lambda: len(store._long) == 2)
    while len(seen) < 2:
        turns.advance(0)
    assert seen == [b"old", b"new"]
    turns.wait(store.close())


def test_compare_and_put(store: IBackend, turns: Turns) -> None:
    """A change that was made on an old reading is refused, and nothing of it happens."""
    first = turns.wait(store.commit(Put("/a", b"1", if_revision=0)))
    with pytest.raises(Conflict):
        turns.wait(store.commit(Put("/a", b"2", if_revision=0)))
    second = turns.wait(store.commit(Put("/a", b"2", if_revision=first)))
    with pytest.raises(Conflict):
        turns.wait(store.commit(Put("/other", b"x"), Put("/a", b"3", if_revision=first)))
    assert turns.wait(store.get("/other")) is None
    with pytest.raises(Conflict):
        turns.wait(store.commit(Delete("/a", if_revision=first)))
    turns.wait(store.commit(Delete("/a", if_revision=second)))
    assert turns.wait(store.get("/a")) is None
    turns.wait(store.commit(Put("/a", b"4", if_revision=0)))


def test_one_commit_is_all_or_nothing(store: IBackend, turns: Turns) -> None:
    """All changes of a commit have its revision."""
    revision = turns.wait(store.commit(Put("/a", b""), Put("/b", b""), Delete("/c")))
    found = turns.wait(store.range("/", "0"))
    assert [(item.key, item.revision) for item in found] == [("/a", revision), ("/b", revision)]


def test_leases_run_out(store: IBackend, turns: Turns) -> None:
    """A lease is gone at its end, at once and everywhere, unless it was renewed."""
    turns.wait(store.commit(Put("/a", b"", ttl=timedelta(seconds=10)), Put("/b", b"")))
    turns.advance(9)
    item = turns.wait(store.get("/a"))
    assert item is not None
    assert item.expires is not None
    turns.wait(store.commit(Put("/a", b"", ttl=timedelta(seconds=10))))
    turns.advance(9)
    assert keys(turns, store) == ["/a", "/b"]
    turns.advance(1)
    assert turns.wait(store.get("/a")) is None
    assert keys(turns, store) == ["/b"]
    turns.wait(store.commit(Put("/a", b"", if_revision=0)))


def test_watches_deliver_changes_in_order(store: IBackend, turns: Turns) -> None:
    """A watch gets changes of its prefix only, removals too, and nothing after its end."""
    turns.wait(store.commit(Put("/w/old", b"")))
    received: list[Change] = []
    watch = turns.wait(store.watch("/w/", received.append))
    turns.wait(store.commit(Put("/w/a", b"1")))
    turns.settle(lambda: len(received) == 1)
    turns.wait(store.commit(Put("/other", b"")))
    turns.wait(store.commit(Delete("/w/a")))
    turns.settle(lambda: len(received) == 2)
    assert [(c.key, c.item is None) for c in received] == [("/w/a", False), ("/w/a", True)]
    assert received[0].revision < received[1].revision
    watch.stop()
    watch.stop()
    turns.wait(store.commit(Put("/w/b", b"")))
    turns.wait(store.get("/w/b"))
    assert len(received) == 2


def test_the_end_of_a_lease_is_delivered(store: IBackend, turns: Turns) -> None:
    """A watcher learns that a lease is not renewed."""
    received: list[Change] = []
    turns.wait(store.watch("/w/", received.append))
    turns.wait(store.commit(Put("/w/a", b"", ttl=timedelta(seconds=1))))
    turns.settle(lambda: len(received) == 1)
    turns.advance(SWEEP_SECONDS + 1)
    turns.wait(store.get("/w/a"))
    turns.settle(lambda: len(received) == 2)
    assert received[-1].item is None


def test_a_failing_watcher_affects_no_other(store: IBackend, turns: Turns) -> None:
    """The failure of one receiver is logged; the others get every change."""
    received: list[Change] = []

    def fail(_: Change) -> None:
        raise RuntimeError("a mistake")

    turns.wait(store.watch("/", fail))
    turns.wait(store.watch("/", received.append))
    turns.wait(store.commit(Put("/a", b"")))
    turns.settle(lambda: len(received) == 1)


def test_a_receiver_may_change_the_store(store: IBackend, turns: Turns) -> None:
    """A change that a receiver makes is delivered to all after the one that caused it."""
    received: list[str] = []

    def react(change: Change) -> None:
        if change.key == "/w/a":
            store.commit(Put("/w/b", b"")).addErrback(lambda f: received.append(str(f)))

    turns.wait(store.watch("/w/", react))
    turns.wait(store.watch("/w/", lambda change: received.append(change.key)))
    turns.wait(store.commit(Put("/w/a", b"")))
    turns.settle(lambda: len(received) == 2)
    assert received == ["/w/a", "/w/b"]


def test_changes_of_one_commit_are_delivered_in_order_of_keys(
    store: IBackend, turns: Turns
) -> None:
    """A batch is delivered in order of revisions, which the audit relies on."""
    received: list[str] = []
    turns.wait(store.watch("/w/", lambda change: received.append(change.key)))
    turns.wait(store.commit(*(Put(f"/w/{n:04}", b"") for n in range(50))))
    turns.settle(lambda: len(received) == 50)
    assert received == sorted(received)


def test_what_cannot_be_stored_fails_alone(tmp_path: Path, turns: Turns) -> None:
    """A key that SQLite cannot take fails alone, even beside others in one transaction."""
    store = SqliteBackend(tmp_path / "s", turns)
    answers = [store.commit(Put(key, b"")) for key in ("/a", "/bad\ud800", "/b")]
    turns.wait(answers[0])
    with pytest.raises(Unavailable):
        turns.wait(answers[1])
    turns.wait(answers[2])
    assert keys(turns, store) == ["/a", "/b"]
    turns.wait(store.close())


def test_a_failed_sync_is_not_the_end(tmp_path: Path, turns: Turns) -> None:
    """After an error at the end of a transaction the next one works."""
    store = SqliteBackend(tmp_path / "s", turns)
    turns.wait(store.commit(Put("/a", b"")))
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON counter BEGIN SELECT RAISE(ABORT, 'x'); END"
    )
    with pytest.raises(Unavailable, match="cannot be written"):
        turns.wait(store.commit(Put("/b", b"")))
    other.execute("DROP TRIGGER refuse")
    other.close()
    turns.wait(store.commit(Put("/c", b"")))
    assert keys(turns, store) == ["/a", "/c"]
    turns.wait(store.close())


def test_a_memory_lease_ends_by_itself() -> None:
    """A watcher learns of it although the store is not used."""
    clock = SettableClock()
    store = MemoryBackend(clock)
    received: list[Change] = []
    store.watch("/", received.append)
    store.commit(Put("/a", b"", ttl=timedelta(seconds=5)), Put("/b", b"", ttl=timedelta(seconds=9)))
    clock.advance(6)
    assert [(c.key, c.item is None) for c in received[2:]] == [("/a", True)]
    clock.advance(4)
    assert [c.key for c in received[2:]] == ["/a", "/b"]
    assert clock.getDelayedCalls() == []


def test_a_closed_store_refuses(tmp_path: Path, turns: Turns) -> None:
    """After close, commits are refused and not lost in silence; what waited is done."""
    store = SqliteBackend(tmp_path / "s", turns)
    waiting = store.commit(Put("/a", b"1"))
    closed = store.close()
    turns.wait(waiting)
    turns.wait(closed)
    with pytest.raises(Unavailable):
        turns.wait(store.commit(Put("/b", b"")))
    again = SqliteBackend(tmp_path / "s", turns)
    assert turns.wait(again.get("/a")) is not None
    turns.wait(again.close())


def test_two_processes_share_one_file(tmp_path: Path, turns: Turns) -> None:
    """What one auth writes, another on the same file reads and is notified of."""
    one, two = SqliteBackend(tmp_path / "s", turns), SqliteBackend(tmp_path / "s", turns)
    received: list[Change] = []
    turns.wait(two.watch("/", received.append))
    turns.wait(one.commit(Put("/a", b"1")))
    turns.wait(one.commit(Delete("/a")))
    turns.advance(POLL_SECONDS)
    turns.settle(lambda: bool(received))
    assert [(c.key, c.item) for c in received] == [("/a", None)]
    turns.wait(one.close())
    turns.wait(two.close())


_LOOK = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
print(file.execute("SELECT count(*) FROM items WHERE key LIKE '/a/%'").fetchone()[0])
file.close()
"""


def test_another_reader_does_not_split_the_database(tmp_path: Path, turns: Turns) -> None:
    """Another program that opens the store, and is the first to close it, takes no log along:
    what is written afterwards is in the file, for it and for the next start.
    """

    def count_elsewhere() -> int:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK, tmp_path / "s"], check=True, capture_output=True
        )
        return int(done.stdout)

    store = SqliteBackend(tmp_path / "s", turns)
    for number in range(1, 4):
        turns.wait(store.commit(Put(f"/a/{number}", b"x")))
        assert count_elsewhere() == number
    turns.wait(store.close())
    again = SqliteBackend(tmp_path / "s", turns)
    assert len(keys(turns, again)) == 3
    turns.wait(again.close())


def test_the_file_is_its_owners_only(tmp_path: Path, turns: Turns) -> None:
    """CA keys are in there: no other account reads it, nor its log; also if it was open to all."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "s").touch(0o644)
    store = SqliteBackend(tmp_path / "deep" / "s", turns)
    turns.wait(store.commit(Put("/a", b"")))
    for file in (tmp_path / "deep").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    turns.wait(store.close())


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_could_change_is_refused(
    tmp_path: Path, turns: Turns, mode: int
) -> None:
    """An account that can write to the store can make itself an administrator."""
    path = tmp_path / "s"
    path.touch()
    path.chmod(mode)
    with pytest.raises(Unavailable, match=f"others can change it .mode {mode:04o}.*chmod 600"):
        SqliteBackend(path, turns)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("arguments", "name"), [("", "auth.sqlite"), ("other", "other")])
def test_the_file_of_a_store(tmp_path: Path, turns: Turns, arguments: str, name: str) -> None:
    """``sqlite`` is ``auth.sqlite``; a relative path of ``sqlite:PATH`` is below ``data_dir``."""
    chosen = Chosen("sqlite", arguments)
    store = choose(IBackendFactory, chosen, Surroundings(turns, tmp_path))
    turns.wait(store.close())
    assert (tmp_path / name).exists()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path, turns: Turns) -> None:
    """A damaged or foreign file is named, and is not touched."""
    path = tmp_path / "s"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="not a usable store"):
        SqliteBackend(path, turns)
    assert path.read_bytes() == b"this is no database" * 100
    with pytest.raises(Unavailable, match="cannot open"):
        SqliteBackend(tmp_path / "s" / "below", turns)


WRITER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from tele.interfaces import Put
from tele.store.sqlite import SqliteBackend
store = SqliteBackend(Path(sys.argv[1]), reactor)
def write(number):
    def done(_):
        print(number, flush=True)
        write(number + 50)
    store.commit(Put(f"/n/{number:06}", b"x" * 100)).addCallback(done)
for number in range(50):
    write(number)
reactor.run()
"""


def test_kill_loses_nothing_acknowledged(tmp_path: Path, turns: Turns) -> None:
    """A writer killed in the middle: every acknowledged commit is stored."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(300)]
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split("\n")[:-1]
    acknowledged += [int(line) for line in rest]
    child.stdout.close()
    child.wait()
    store = SqliteBackend(tmp_path / "s", turns)
    there = {int(item.key.rpartition("/")[2]) for item in turns.wait(store.range("/n/", "/n0"))}
    assert set(acknowledged) <= there
    turns.wait(store.close())


def test_no_threads_are_left(tmp_path: Path, turns: Turns) -> None:
    """Closing ends the store's threads."""
    store = SqliteBackend(tmp_path / "s", turns)
    turns.wait(store.close())
    deadline = time.monotonic() + 10
    while any(name.startswith("tele-store") for name in _thread_names()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _thread_names() -> list[str]:
    names = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            names.append((task / "comm").read_text().strip())
    return names


def test_a_page_of_the_memory_store_copies_a_page() -> None:
    """Reading everything page by page copies each key once, not the rest with each page."""

    class Keys(list[str]):
        copied = 0

        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            Keys.copied += len(found) if isinstance(at, slice) else 0
            return found

    clock = SettableClock()
    store: Any = MemoryBackend(clock)
    result = store.commit(*(Put(f"/k/{n:05d}", b"") for n in range(1000)))
    store._keys = Keys(store._keys)
    seen: list[str] = []
    start = "/k/"
    while True:
        page: list[Any] = []
        store.range(start, "/k0", 50).addCallback(page.extend)
        if not page:
            break
        seen += [item.key for item in page]
        start = seen[-1] + "\0"
    assert (len(seen), Keys.copied) == (1000, 1000)
    back: list[Any] = []
    store.range("/k/", "/k0", 3, reverse=True).addCallback(back.extend)
    assert [item.key for item in back] == ["/k/00999", "/k/00998", "/k/00997"]
    assert result.called


@pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])
def test_a_lease_ends_at_its_date(store: IBackend, turns: Turns, hours: int) -> None:
    """It is kept over restarts, so it is a date: setting the clock brings it, or moves it."""
    ttl = timedelta(hours=2)
    received: list[str] = []
    turns.wait(store.watch("/a", lambda change: received.append(change.key)))
    turns.wait(store.commit(Put("/a", b"1", ttl=ttl)))
    received.clear()
    turns.set_wall(hours * 3600)
    turns.advance(SWEEP_SECONDS)
    if hours > 0:
        assert turns.wait(store.get("/a")) is None
    else:
        assert turns.wait(store.get("/a")) is not None
        turns.advance(4 * 3600)
        assert turns.wait(store.get("/a")) is not None
        turns.advance(3600)
        assert turns.wait(store.get("/a")) is None
