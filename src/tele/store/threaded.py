"""How is a database used by threads, and how do answers and changes reach the reactor?

One thread writes, and commits all waiting commits as one transaction; a few threads read. How
changes are learnt of is a matter of the database: see :mod:`tele.store.polled`.

Invariants:

* The reactor never waits for the database; threads never touch the reactor's objects. At most one
  answer with many items is delivered in each iteration of the reactor.
* A commit is acknowledged after the database has acknowledged it.
* A watch gets every change, whichever process made it, in order of revisions.
* A call that gets no answer within the patience of the store fails.
* Who has missed changes does not go on with what it knew: all calls fail then.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.call_queue import CallQueue
from tele.errors import Conflict, StorageFull, TeleError, Unavailable
from tele.interfaces import Change, Delete, IBatchBackend, Item, IWatch, Put
from tele.log import make_logger
from tele.loop import wall_seconds
from tele.measures import catalogue
from tele.measures.metric import Histogram, Sample
from tele.store.watchers import Watchers

log = make_logger(__name__)

T = TypeVar("T")

SWEEP_SECONDS: Final = 10.0
BATCH_LIMIT: Final = 256
#: An answer with more items is delivered in an iteration of the reactor of its own.
LONG: Final = 50

Batch = Sequence[tuple[Put | Delete, ...]]
_Deliver = Callable[[Sequence[tuple["Deferred[Any]", object]]], None]


class ChangesLost(Unavailable):
    """Changes were lost: what this process knows of the store cannot be brought up to date."""


class Session(Protocol):
    """One connection to the database, used by one thread. ``moment`` is the wall clock, POSIX
    seconds; a database with a clock of its own goes by that.

    Methods raise :class:`Unavailable` when the database cannot be used, and errors of the database
    for what it does not take.
    """

    def get(self, key: str, moment: float) -> Item | None:
        """Return one live item."""

    def get_many(self, keys: Sequence[str], moment: float) -> list[Item | None]:
        """Return for each key its live item, or None, of one revision."""

    def select(
        self, start: str, end: str, limit: int, reverse: bool, moment: float
    ) -> Sequence[Item]:
        """Return live items of a range."""

    def newest(self) -> int:
        """Return the newest revision."""

    def commit(self, batch: Batch, moment: float) -> list[int | TeleError]:
        """Do several commits in one transaction; return for each its revision or Conflict."""

    def sweep(self, moment: float) -> None:
        """Turn leases that ran out into removals, and forget old removals."""

    def interrupt(self) -> None:
        """Called in another thread: end what runs, if that is possible."""

    def close(self) -> None:
        """Release the connection."""


class _Worker(threading.Thread):
    """Runs jobs on a session of its own until it gets None."""

    def __init__(
        self, name: str, session: Session, jobs: queue.SimpleQueue[Any], deliver: _Deliver
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._jobs = jobs
        self._session = session
        self._deliver = deliver
        #: When the present job began, by the monotonic clock.
        self.began: float | None = None

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.began = time.monotonic()
            self.work(job)
            self.began = None
        self._session.close()

    def work(self, job: Any) -> None:
        function, answer = job
        if answer.called:  # it has timed out
            return
        try:
            result = function(self._session)
        except TeleError:
            result = Failure()
        except Exception as error:
            log.debug("the database refused", error=repr(error))
            result = Failure(Unavailable(f"the store failed: {error}"))
        self._deliver([(answer, result)])

    def interrupt(self, patience: float) -> None:
        """End a job that has run for ``patience`` seconds."""
        if self.began is not None and time.monotonic() - self.began >= patience:
            self._session.interrupt()


class _Writer(_Worker):
    """Commits all waiting commits as one transaction: one sync for many commits."""

    def __init__(
        self,
        session: Session,
        jobs: queue.SimpleQueue[Any],
        deliver: _Deliver,
        moment: Callable[[], float],
    ) -> None:
        super().__init__("tele-store-writer", session, jobs, deliver)
        self._moment = moment

    def work(self, job: Any) -> None:
        if callable(job[0]):
            super().work(job)
            return
        batch = [job]
        ending = other = None
        while len(batch) < BATCH_LIMIT:
            try:
                more = self._jobs.get_nowait()
            except queue.Empty:
                break
            if more is None or callable(more[0]):
                ending, other = more is None, more
                break
            batch.append(more)
        batch = [each for each in batch if not each[1].called]
        results = self._commit([each[0] for each in batch])
        self._deliver(
            [
                (answer, Failure(result) if isinstance(result, TeleError) else result)
                for (_, answer), result in zip(batch, results, strict=True)
            ]
        )
        if ending:
            self._jobs.put(None)
        elif other is not None:
            super().work(other)

    def _commit(self, batch: Batch) -> list[int | TeleError]:
        if not batch:
            return []
        try:
            return self._session.commit(batch, self._moment())
        except (StorageFull, Unavailable) as error:
            return [error for _ in batch]
        except Exception as error:
            if len(batch) > 1:
                # One of them may be invalid for the database; the others are committed.
                return [answer for each in batch for answer in self._commit([each])]
            return [Unavailable(f"the store cannot be written: {error}")]


S = TypeVar("S", bound=Session)


@implementer(IBatchBackend)
class ThreadedBackend(Generic[S]):
    """A backend on the sessions of a database: the first one writes, the others read.

    ``reactor`` gives time and threads' answers. ``patience`` is how many seconds a call may take;
    None: as long as it takes.
    """

    commit_limit: tuple[int, int] | None = None

    def __init__(
        self,
        reactor: IReactorTime,
        sessions: Sequence[S],
        seen: int,
        patience: float | None = None,
    ) -> None:
        self._reactor = reactor
        self._patience = patience
        self._watchers = Watchers()
        self._closed: Deferred[None] | None = None
        self._lost: ChangesLost | None = None
        self._long = CallQueue(reactor)
        self._seen = seen
        self._writes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer = _Writer(
            sessions[0], self._writes, self._deliver, partial(wall_seconds, reactor)
        )
        self._readers = [
            _Worker(f"tele-store-reader-{number}", session, self._reads, self._deliver)
            for number, session in enumerate(sessions[1:])
        ]
        for worker in (self._writer, *self._readers):
            worker.start()
        self._times = {"commit": Histogram(), "read": Histogram()}
        self._errors = dict.fromkeys(self._times, 0)
        self._conflicts = 0
        self._timers: dict[str, IDelayedCall] = {}
        self._every("sweep", SWEEP_SECONDS, self._sweep)

    # -- IBackend ---------------------------------------------------------------------
    def get(self, key: str) -> Deferred[Item | None]:
        """See :class:`IBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(lambda session: session.get(key, moment))

    def get_many(self, keys: Sequence[str]) -> Deferred[Sequence[Item | None]]:
        """See :class:`IBatchBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(lambda session: session.get_many(keys, moment))

    def range(
        self, start: str, end: str, limit: int = 0, reverse: bool = False
    ) -> Deferred[Sequence[Item]]:
        """See :class:`IBackend`."""
        moment = wall_seconds(self._reactor)
        return self._read(lambda session: session.select(start, end, limit, reverse, moment))

    def commit(self, *changes: Put | Delete) -> Deferred[int]:
        """See :class:`IBackend`."""
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        answer: Deferred[int] = self._ask(self._writes, changes)
        return answer.addCallback(self._committed)

    def watch(self, prefix: str, receiver: Callable[[Change], None]) -> Deferred[IWatch]:
        """See :class:`IBackend`."""
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        if self._watchers:
            return succeed(self._watchers.add(prefix, receiver))
        # Without watches there were no polls: changes before this one are not delivered.
        newest = self._read(lambda session: session.newest())
        return newest.addCallback(lambda found: self._watch_from(found, prefix, receiver))

    def _watch_from(self, revision: int, prefix: str, receiver: Callable[[Change], None]) -> IWatch:
        if not self._watchers:
            self._seen = revision
        return self._watchers.add(prefix, receiver)

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        for operation, times in self._times.items():
            yield catalogue.STORE_SECONDS.at(times, operation)
            yield catalogue.STORE_ERRORS.at(self._errors[operation], operation)
        yield catalogue.STORE_CONFLICTS.at(self._conflicts)

    def close(self) -> Deferred[None]:
        """See :class:`IBackend`. Commits that wait are done first."""
        if self._closed is None:
            self._closed = Deferred()
            self._watchers.clear()
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._writes.put(None)
            for _ in self._readers:
                self._reads.put(None)
            threading.Thread(target=self._join, name="tele-store-close", daemon=True).start()
        waiting: Deferred[None] = Deferred()
        self._closed.addCallback(lambda _: waiting.callback(None))
        return waiting

    # -- inside -----------------------------------------------------------------------
    def _threads(self) -> list[threading.Thread]:
        return [self._writer, *self._readers]

    def _join(self) -> None:
        for thread in self._threads():
            thread.join()
        if self._closed is not None:
            self._deliver([(self._closed, None)])

    def _deliver(self, answers: Sequence[tuple[Deferred[Any], object]]) -> None:
        """Called in threads: hand answers to the reactor."""
        self._from_thread(self._fire, answers)

    def _from_thread(self, function: Callable[..., object], *arguments: object) -> None:
        IReactorFromThreads(self._reactor).callFromThread(function, *arguments)

    def _fire(self, answers: Sequence[tuple[Deferred[Any], object]]) -> None:
        for answer, result in answers:
            if _is_long(result):
                self._long.add(partial(answer.callback, result))
            else:
                answer.callback(result)

    def _ask(self, jobs: queue.SimpleQueue[Any], job: object) -> Deferred[Any]:
        if self._lost is not None:
            return fail(Unavailable(str(self._lost)))
        answer: Deferred[Any] = Deferred()
        if self._patience is not None:
            answer.addTimeout(self._patience, self._reactor, self._timed_out)
        jobs.put((job, answer))
        operation = "commit" if jobs is self._writes else "read"
        return answer.addBoth(self._measure, operation, self._reactor.seconds())

    def _measure(self, result: T, operation: str, begun: float) -> T:
        self._times[operation].observe(self._reactor.seconds() - begun)
        if isinstance(result, Failure):
            if isinstance(result.value, Conflict):
                self._conflicts += 1
            else:
                self._errors[operation] += 1
        return result

    def _timed_out(self, result: object, seconds: float) -> object:
        if not isinstance(result, Failure):
            return result
        for worker in (self._writer, *self._readers):
            worker.interrupt(seconds)
        return Failure(Unavailable(f"the store has not answered within {seconds:g} s"))

    def _read(self, function: Callable[[S], T]) -> Deferred[T]:
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        return self._ask(self._reads, function)

    def _every(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        def again() -> None:
            self._timers[name] = self._reactor.callLater(seconds, again)
            function()

        self._timers[name] = self._reactor.callLater(seconds, again)

    def _committed(self, revision: int) -> int:
        """Called after each commit of this process; returns its revision."""
        return revision

    def _swept(self, _: None) -> None:
        """Called after a sweep."""

    def _found(self, found: tuple[int, list[Change]]) -> None:
        """Deliver changes, which bring what is known to a revision."""
        if self._long:
            # Earlier reads are delivered first, so that no old value follows a newer one.
            self._long.add(partial(self._notify, found))
        else:
            self._notify(found)

    def _notify(self, found: tuple[int, list[Change]]) -> None:
        self._seen, changes = found
        self._watchers.notify(changes)

    def _failed(self, failure: Failure) -> None:
        """Changes cannot be read, for now or for ever."""
        if isinstance(failure.value, ChangesLost) and self._lost is None:
            self._lost = failure.value
            log.error("the changes of the store are lost", error=str(failure.value))
        elif self._closed is None and self._lost is None:
            log.warn("cannot read the changes of the store", error=str(failure.value))

    def _sweep(self) -> None:
        moment = wall_seconds(self._reactor)
        swept: Deferred[None] = self._ask(self._writes, lambda session: session.sweep(moment))
        swept.addCallbacks(self._swept, self._failed)


def _is_long(result: object) -> bool:
    """Whether a result is a list of many items."""
    return isinstance(result, list) and len(result) > LONG
