"""When do the recordings of a node reach its disk, all of them together?

Once in :data:`FLUSH_SECONDS` everything that waits is written, in one go for all recordings that
have something, and then synced, in one go too. So two hundred sessions cost as many small writes
and one sync, and a disk that is slow delays that, never a session or the reactor.

Invariants:

* Writing and syncing have a thread each: what has to be written does not wait for a sync.
* A sync begins after what it is for was written, and those who wait for it are told after it.
* A sync that fails is said once, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.workers import SerialWorker

#: Less than the second within which what a session shows is safe: writing and syncing take time.
FLUSH_SECONDS: Final = 0.8

log = make_logger(__name__)


class Source(Protocol):
    """Something that has to be written now and then."""

    def begin(self) -> Callable[[], Any] | None:
        """Return what writes all that waits, to be called in a thread; None if nothing does."""

    def done(self, result: Any) -> None:
        """It was called, and returned this, or a Failure."""


class GroupCommit:
    """Writes by ``writer`` and syncs with ``sync``. ``measure`` is called after each writing."""

    def __init__(
        self,
        reactor: Any,
        writer: SerialWorker,
        sync: Callable[[], None],
        measure: Callable[[], Callable[[], object]],
    ) -> None:
        self._reactor = reactor
        self._writer = writer
        self._syncer = SerialWorker(reactor, "recording sync")
        self._sync_all = sync
        self._measure = measure
        self._sources: dict[Source, None] = {}
        self._timer: IDelayedCall | None = None
        self._unsynced = False
        self._syncing: Deferred[None] | None = None
        self._failed = False
        self._waiting: list[Deferred[None]] = []
        self._closed = False

    def soon(self, source: Source | None = None) -> None:
        """Write what ``source`` has, and sync everything, at the end of the period."""
        if source is not None:
            self._sources[source] = None
        self._unsynced = True
        if self._timer is None and not self._closed:
            self._timer = self._reactor.callLater(FLUSH_SECONDS, self._tick)

    def now(self, source: Source) -> None:
        """Write what ``source`` has already now; it is synced with all others."""
        self._sources.pop(source, None)
        self._write((source,))
        self.soon()

    def forget(self, source: Source) -> None:
        """Write it no more."""
        self._sources.pop(source, None)

    def synced(self) -> Deferred[None]:
        """Fire when everything that was written before is durable."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self.soon()
        return waiting

    def _tick(self) -> None:
        self._timer = None
        sources, self._sources = self._sources, {}
        self._write(tuple(sources))
        self._writer.call(self._measure).addCallback(lambda told: told()).addErrback(
            lambda failure: log.failure("the disk could not be measured", failure=failure)
        )
        if self._unsynced:
            # In turn, after what was just given to the writer.
            self._writer.call(lambda: None).addCallback(lambda _: self._sync())

    def _write(self, sources: Sequence[Source]) -> None:
        begun = [(source, job) for source in sources if (job := source.begin()) is not None]
        if not begun:
            return

        def done(results: list[Any]) -> None:
            for (source, _), result in zip(begun, results, strict=True):
                try:
                    source.done(result)
                except Exception:  # what goes wrong in one session stops no other
                    log.failure("a recording did not go on")

        self._writer.call(_all, [job for _, job in begun]).addCallback(done).addErrback(
            lambda failure: log.failure("recordings could not be written", failure=failure)
        )

    def _sync(self) -> None:
        if self._syncing is not None:
            self.soon()  # it began before the last of what was written: once more
            return
        self._unsynced = False
        waiting, self._waiting = self._waiting, []

        def synced(result: Any) -> None:
            self._syncing = None
            if isinstance(result, Failure):
                if not self._failed:
                    log.failure("recordings may not survive a power cut", failure=result)
                self._waiting[:0] = waiting
                self.soon()
            self._failed = isinstance(result, Failure)
            if not self._failed:
                for each in waiting:
                    each.callback(None)

        syncing = self._syncing = self._syncer.call(self._sync_all)
        syncing.addBoth(synced)

    def close(self) -> Deferred[None]:
        """Write and sync what there is, and stop; fires when that is done."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        sources, self._sources = self._sources, {}
        self._write(tuple(sources))
        await self._writer.call(lambda: None)
        await (self._syncing or succeed(None))
        self._sync()
        await self._syncer.close()


def _all(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = []
    for job in jobs:
        try:
            results.append(job())
        except Exception:
            results.append(Failure())
    return results
