"""A durable store in one file, for clusters with one auth (or several on one machine).

One thread writes, and commits all waiting commits as one transaction; a few threads read.

Invariants:

* The reactor never waits for the disk; threads never touch the reactor's objects. At most one
  answer with many items is delivered in each iteration of the reactor.
* A commit is acknowledged after it is on disk.
* On a full disk commits use reserved space (:mod:`tele.store.reserve`).
* A watch gets every change, whichever process made it, in order of revisions. A key that changed
  twice between two polls is one change, with its latest value.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.call_queue import CallQueue
from tele.errors import StorageFull, TeleError, Unavailable
from tele.interfaces import Change, Delete, IBatchBackend, IOnDisk, Item, IWatch, Put
from tele.log import make_logger
from tele.loop import wall_seconds
from tele.model.disk import DiskSpace
from tele.store import sqlite_file
from tele.store.reserve import StoreReserve
from tele.store.watchers import Watchers

log = make_logger(__name__)

T = TypeVar("T")

READERS = 2
POLL_SECONDS = 1.0
SWEEP_SECONDS = 10.0
BATCH_LIMIT = 256
#: An answer with more items is delivered in an iteration of the reactor of its own.
LONG = 50

_Deliver = Callable[[Sequence[tuple["Deferred[Any]", object]]], None]


class _Worker(threading.Thread):
    """Runs jobs on a connection of its own until it gets None."""

    def __init__(self, name: str, connection: sqlite3.Connection, deliver: _Deliver) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._connection = connection
        self._deliver = deliver

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.work(job)
        self._connection.close()

    def work(self, job: Any) -> None:
        function, answer = job
        try:
            result = function(self._connection)
        except sqlite3.Error as error:
            result = Failure(Unavailable(f"the store failed: {error}"))
        except Exception:
            result = Failure()
        self._deliver([(answer, result)])


class _Writer(_Worker):
    """Commits all waiting commits as one transaction: one sync for many commits."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        deliver: _Deliver,
        moment: Callable[[], float],
        reserve: StoreReserve,
    ) -> None:
        super().__init__("tele-store-writer", connection, deliver)
        self._moment = moment
        self._reserve = reserve

    def run(self) -> None:
        super().run()
        self._reserve.close()

    def work(self, job: Any) -> None:
        if callable(job[0]):
            super().work(job)
            return
        batch = [job]
        ending = other = None
        while len(batch) < BATCH_LIMIT:
            try:
                more = self.jobs.get_nowait()
            except queue.Empty:
                break
            if more is None or callable(more[0]):
                ending, other = more is None, more
                break
            batch.append(more)
        results = self._commit([each[0] for each in batch])
        self._deliver(
            [
                (answer, Failure(result) if isinstance(result, TeleError) else result)
                for (_, answer), result in zip(batch, results, strict=True)
            ]
        )
        if ending:
            self.jobs.put(None)
        elif other is not None:
            super().work(other)

    def _commit(self, batch: sqlite_file.Batch) -> list[int | TeleError]:
        try:
            return self._reserve.spend(
                lambda: sqlite_file.commit(self._connection, batch, self._moment())
            )
        except StorageFull as error:
            return [error for _ in batch]
        except Exception as error:
            if len(batch) > 1:
                # One of them may be invalid for SQLite; the others are committed.
                return [answer for each in batch for answer in self._commit([each])]
            return [Unavailable(f"the store cannot be written: {error}")]


@implementer(IBatchBackend, IOnDisk)
class SqliteBackend:
    """Keeps everything in the SQLite file ``path``. ``reactor`` gives time and threads' answers.

    Raises :class:`Unavailable` when the file cannot be used.
    """

    def __init__(self, path: Path | str, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._watchers = Watchers()
        self._closed: Deferred[None] | None = None
        self._long = CallQueue(reactor)
        path = Path(path)
        self._reserve = StoreReserve(path)
        connections = [
            self._reserve.spend(lambda: sqlite_file.open_file(path)) for _ in range(READERS + 1)
        ]
        self._seen = sqlite_file.changes_since(connections[0], 1 << 62)[0]
        self._polling = False
        self._poll_again = False
        self._reserve.check()  # the folder may be new
        self._writer = _Writer(
            connections[0], self._deliver, partial(wall_seconds, reactor), self._reserve
        )
        self._readers = [
            _Worker(f"tele-store-reader-{number}", connection, self._deliver)
            for number, connection in enumerate(connections[1:])
        ]
        for worker in (self._writer, *self._readers):
            worker.start()
        self._turn = 0
        self._timers: dict[str, IDelayedCall] = {}
        self._every("poll", POLL_SECONDS, self._poll)
        self._every("sweep", SWEEP_SECONDS, self._sweep)

    # -- IBackend ---------------------------------------------------------------------
    def get(self, key: str) -> Deferred[Item | None]:
        """See :class:`IBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(lambda connection: sqlite_file.get(connection, key, moment))

    def get_many(self, keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        """See :class:`IBatchBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(lambda connection: sqlite_file.get_many(connection, keys, moment))

    def range(
        self, start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        """See :class:`IBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(
            lambda connection: sqlite_file.select(connection, start, end, limit, reverse, moment)
        )

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        """See :class:`IBackend`."""
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        answer: Deferred[int] = Deferred()
        self._writer.jobs.put((changes, answer))
        return answer.addCallback(self._committed)

    def watch(self, prefix: str, receiver: Callable[[Change], None]) -> Deferred[IWatch]:
        """See :class:`IBackend`."""
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        if self._watchers:
            return succeed(self._watchers.add(prefix, receiver))
        # Without watches there were no polls: changes before this one are not delivered.
        polled = self._read(lambda c: sqlite_file.changes_since(c, 1 << 62))
        return polled.addCallback(lambda found: self._watch_from(found[0], prefix, receiver))

    def _watch_from(self, revision: int, prefix: str, receiver: Callable[[Change], None]) -> IWatch:
        if not self._watchers:
            self._seen = revision
        return self._watchers.add(prefix, receiver)

    def close(self) -> Deferred[None]:
        """See :class:`IBackend`. Commits that wait are done first."""
        if self._closed is None:
            self._closed = Deferred()
            self._watchers.clear()
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            for worker in (self._writer, *self._readers):
                worker.jobs.put(None)
            threading.Thread(target=self._join, name="tele-store-close", daemon=True).start()
        waiting: Deferred[None] = Deferred()
        self._closed.addCallback(lambda _: waiting.callback(None))
        return waiting

    def space(self) -> DiskSpace:
        """See :class:`IOnDisk`."""
        return self._reserve.space()

    # -- inside -----------------------------------------------------------------------
    def _join(self) -> None:
        for worker in (self._writer, *self._readers):
            worker.join()
        if self._closed is not None:
            self._deliver([(self._closed, None)])

    def _deliver(self, answers: Sequence[tuple[Deferred[Any], object]]) -> None:
        """Called in threads: hand answers to the reactor."""
        IReactorFromThreads(self._reactor).callFromThread(self._fire, answers)

    def _fire(self, answers: Sequence[tuple[Deferred[Any], object]]) -> None:
        for answer, result in answers:
            if _is_long(result):
                self._long.add(partial(answer.callback, result))
            else:
                answer.callback(result)

    def _read(self, function: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        answer: Deferred[T] = Deferred()
        self._turn = (self._turn + 1) % len(self._readers)
        self._readers[self._turn].jobs.put((function, answer))
        return answer

    def _every(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        def again() -> None:
            self._timers[name] = self._reactor.callLater(seconds, again)
            function()

        self._timers[name] = self._reactor.callLater(seconds, again)

    def _committed(self, revision: int) -> int:
        self._poll()
        return revision

    def _poll(self) -> None:
        """Read the changes since the last poll; at most one poll runs at a time."""
        if not self._watchers or self._closed is not None:
            return
        if self._polling:
            self._poll_again = True
            return
        self._polling = True
        seen = self._seen
        self._read(lambda c: sqlite_file.changes_since(c, seen)).addCallbacks(
            self._polled, self._failed
        )

    def _polled(self, found: tuple[int, list[Change]]) -> None:
        if self._long:
            # Earlier reads are delivered first, so that no old value follows a newer one.
            self._long.add(partial(self._notify, found))
        else:
            self._notify(found)

    def _notify(self, found: tuple[int, list[Change]]) -> None:
        self._polling = False
        self._seen, changes = found
        self._watchers.notify(changes)
        if self._poll_again:
            self._poll_again = False
            self._poll()

    def _failed(self, failure: Failure) -> None:
        self._polling = False
        if self._closed is None:
            log.warn("cannot read the changes of the store", error=str(failure.value))

    def _sweep(self) -> None:
        answer: Deferred[None] = Deferred()
        moment = wall_seconds(self._reactor)

        def sweep(connection: sqlite3.Connection) -> None:
            self._reserve.check()
            sqlite_file.sweep(connection, moment)

        self._writer.jobs.put((sweep, answer))
        answer.addCallbacks(lambda _: self._poll(), self._failed)


def _is_long(result: object) -> bool:
    """Whether a result is a list of many items."""
    return isinstance(result, list) and len(result) > LONG
