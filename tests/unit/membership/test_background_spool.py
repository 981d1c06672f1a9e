"""The spool of audit events, as a reactor uses it: with a disk that waits, fills and fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from tele.membership.background_spool import (
    GATHER_LINES,
    GATHER_SECONDS,
    HELD_LIMIT,
    SYNC_SECONDS,
    BackgroundSpool,
)
from tele.membership.spool import FileSpool, MemorySpool


@implementer(IReactorFromThreads)
class Reactor(Clock):
    """A clock that threads can call; :meth:`until` waits for calls of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put(lambda: callable(*args, **kwargs))

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._calls.get(timeout=30)()

    def wait(self, work: Any) -> Any:
        """Return what ``work`` comes to."""
        results: list[Any] = []
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        deferred.addCallbacks(results.append, results.append)
        self.until(lambda: bool(results))
        return results[0]


class Disk(MemorySpool):
    """A spool whose writes and syncs wait while they are held, and fail while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = threading.Event()
        self.syncs = threading.Event()
        self.writes.set()
        self.syncs.set()
        self.has_room = True
        self.synced = 0
        self.written: list[bytes] = []
        self.threads: set[str] = set()
        self.closed = False

    def append(self, line: bytes) -> bool:
        self.threads.add(threading.current_thread().name)
        assert self.writes.wait(30)
        if self.has_room:
            super().append(line)
            self.written.append(line)
        return self.has_room

    def sync(self) -> None:
        self.threads.add(threading.current_thread().name)
        assert self.syncs.wait(30)
        self.synced = len(self.written)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.writes.set()
    made.syncs.set()


@pytest.fixture
def spool(reactor: Reactor, disk: Disk) -> BackgroundSpool:
    return BackgroundSpool(reactor, disk)


def numbers(*some: int) -> list[bytes]:
    return [b"%d" % number for number in some]


def test_appending_waits_for_no_disk(reactor: Reactor, disk: Disk, spool: BackgroundSpool) -> None:
    """While a write waits, more is appended; all of it is written in order, by another thread."""
    disk.writes.clear()
    for line in numbers(0, 1, 2):
        assert spool.append(line)
    written: list[None] = []
    spool.written().addCallback(written.append)
    assert (disk.written, written) == ([], [])
    disk.writes.set()
    reactor.until(lambda: bool(written))
    assert disk.written == numbers(0, 1, 2)
    assert threading.current_thread().name not in disk.threads


def test_writing_waits_for_no_sync(reactor: Reactor, disk: Disk, spool: BackgroundSpool) -> None:
    """While a sync waits, events are written; then all of them are synced together, once."""
    disk.syncs.clear()
    spool.append(b"0")
    reactor.wait(spool.written())
    reactor.advance(SYNC_SECONDS)
    for line in numbers(1, 2, 3):
        spool.append(line)
        reactor.wait(spool.written())
    reactor.advance(SYNC_SECONDS)  # the first one is still waiting: no second one is begun
    assert disk.written == numbers(0, 1, 2, 3)
    disk.syncs.set()
    reactor.until(lambda: disk.synced > 0 and not spool._syncing)
    reactor.advance(SYNC_SECONDS)
    reactor.until(lambda: disk.synced == 4)


def test_lines_that_may_gather_are_written_together(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool
) -> None:
    """Lines that may gather are written together a little later, and before any line after them."""
    for line in numbers(0, 1):
        assert spool.append(line, gather=True)
    assert not disk.threads
    reactor.advance(GATHER_SECONDS)
    reactor.wait(spool.written())
    assert disk.written == numbers(0, 1)
    spool.append(b"2", gather=True)
    spool.append(b"3")
    reactor.until(lambda: not spool._writing)
    assert disk.written == numbers(0, 1, 2, 3)


def test_gathering_is_bounded(reactor: Reactor, disk: Disk, spool: BackgroundSpool) -> None:
    """So many lines as are sent together are written without waiting for time to pass."""
    for line in numbers(*range(GATHER_LINES)):
        assert not disk.threads
        spool.append(line, gather=True)
    reactor.until(lambda: not spool._writing)
    assert disk.written == numbers(*range(GATHER_LINES))


@pytest.mark.parametrize("method", ["written", "kept", "peek", "close"])
def test_who_asks_for_gathered_lines_has_them_written(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool, method: str
) -> None:
    """A call that waits for lines, reads them or closes the spool has them written at once."""
    spool.append(b"0", gather=True)
    reactor.wait(getattr(spool, method)())
    assert disk.written == numbers(0)


def test_what_was_written_is_sent_and_dropped(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool
) -> None:
    """Lines come out in order after they were written, again and again until they are dropped."""
    for line in numbers(0, 1, 2):
        spool.append(line)
    batch = reactor.wait(spool.peek())
    assert batch == reactor.wait(spool.peek()) == numbers(0, 1, 2)
    reactor.wait(spool.drop(batch[:2]))
    spool.append(b"3")
    assert reactor.wait(spool.peek()) == numbers(2, 3)


def test_a_full_disk_loses_nothing(reactor: Reactor, disk: Disk, spool: BackgroundSpool) -> None:
    """What a full disk refuses goes to auth from memory, and no session begins meanwhile."""
    spool.append(b"0")
    reactor.wait(spool.written())
    before = spool.full
    disk.has_room = False
    for line in numbers(1, 2, 3):
        assert spool.append(line)
        reactor.wait(spool.written())
    assert (before, spool.full) == (False, True)
    batch = reactor.wait(spool.peek())
    assert batch == [b"0"], "older ones first"
    reactor.wait(spool.drop(batch))
    batch = reactor.wait(spool.peek())
    assert batch == numbers(1, 2, 3)
    reactor.wait(spool.drop(batch[:1]))
    reactor.wait(spool.drop(batch[1:2]))
    assert reactor.wait(spool.peek()) == [b"3"]
    disk.has_room = True
    spool.append(b"4")
    reactor.wait(spool.written())
    assert disk.written == numbers(0, 3, 4)
    assert not spool.full
    assert reactor.wait(spool.peek()) == numbers(3, 4)


def test_what_is_kept_is_in_the_file_or_at_auth(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool
) -> None:
    """What a full disk refuses counts as kept when auth has it, or it is written after all."""
    spool.append(b"0")
    reactor.wait(spool.kept())
    disk.has_room = False
    kept: list[str] = []
    spool.append(b"sent")
    spool.kept().addCallback(lambda _: kept.append("sent"))
    spool.append(b"written")
    spool.kept().addCallback(lambda _: kept.append("written"))
    reactor.wait(spool.written())
    reactor.wait(spool.drop(reactor.wait(spool.peek())))
    assert kept == []
    assert reactor.wait(spool.peek()) == [b"sent", b"written"]
    reactor.wait(spool.drop([b"sent"]))
    assert kept == ["sent"]
    disk.has_room = True
    spool.append(b"1")
    reactor.wait(spool.kept())
    assert kept == ["sent", "written"]


def test_what_is_written_while_it_is_sent_is_dropped_once(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool
) -> None:
    """Space returns while auth is sent what was in memory: neither lost nor sent twice."""
    disk.has_room = False
    for line in numbers(0, 1):
        spool.append(line)
    batch = reactor.wait(spool.peek())
    assert batch == numbers(0, 1)
    disk.has_room = True
    disk.writes.clear()
    spool.append(b"2")
    dropping = Deferred.fromCoroutine(spool.drop(batch))
    disk.writes.set()
    reactor.wait(dropping)
    assert reactor.wait(spool.peek()) == [b"2"]
    assert disk.written == numbers(0, 1, 2)


def test_memory_is_bounded(reactor: Reactor, disk: Disk, spool: BackgroundSpool) -> None:
    """A disk that takes nothing fills so much memory and no more; further appends
    return False.
    """
    disk.has_room = False
    line = b"x" * (200 << 10)
    taken = 0
    while spool.append(line):
        taken += 1
        assert taken <= HELD_LIMIT // len(line)
    assert taken == HELD_LIMIT // len(line)
    assert spool.full


def test_closing_waits_for_what_is_written(
    reactor: Reactor, disk: Disk, spool: BackgroundSpool
) -> None:
    """At the end everything is written before files are closed; nothing is taken after that."""
    disk.writes.clear()
    for line in numbers(0, 1):
        spool.append(line)
    closing = Deferred.fromCoroutine(spool.close())
    closed = [disk.closed]
    disk.writes.set()
    reactor.wait(closing)
    assert disk.written == numbers(0, 1)
    assert [*closed, disk.closed] == [False, True]
    assert not spool.append(b"2")
    assert reactor.getDelayedCalls() == []


def test_marks_and_files_of_different_ages(tmp_path: Path) -> None:
    """After a power cut the mark may be older than the file: then all is sent again, never less."""
    path = tmp_path / "events"
    first = FileSpool(path)
    for line in numbers(0, 1, 2):
        first.append(line)
    first.drop(numbers(0, 1))
    old = path.with_name("events.sent").read_bytes()
    first.drop(numbers(2))
    for line in numbers(3, 4, 5):
        first.append(line)
    first.close()
    path.with_name("events.sent").write_bytes(old)
    again = FileSpool(path)
    assert again.peek() == numbers(3, 4, 5)
    again.close()


def test_a_mark_beyond_the_end(tmp_path: Path) -> None:
    """What was sent and then lost by a power cut does not count for events that come later."""
    path = tmp_path / "events"
    first = FileSpool(path)
    for line in numbers(0, 1, 2):
        first.append(line)
    first.drop(numbers(0, 1))
    first.close()
    path.write_bytes(b"0\n")
    again = FileSpool(path)
    assert again.peek() == []
    again.append(b"3")
    again.close()
    last = FileSpool(path)
    assert last.peek() == [b"3"]
    last.close()


def test_the_mark_of_an_older_version(tmp_path: Path) -> None:
    """A mark that names no file counts as it did when it was written."""
    path = tmp_path / "events"
    path.write_bytes(b"0\n1\n")
    path.chmod(0o600)
    mark = path.with_name("events.sent")
    mark.write_bytes(b"%020d\n" % 2)
    mark.chmod(0o600)
    spool = FileSpool(path)
    assert spool.peek() == [b"1"]
    spool.close()
