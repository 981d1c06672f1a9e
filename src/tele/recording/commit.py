"""How are the recordings of a node written to its disk? By group commit, as databases do.

Every :data:`FLUSH_SECONDS` the pending frames of all recordings are written, and then synced
together: two hundred sessions cost as many small writes and one sync. A slow disk delays neither a
session nor the reactor.

Invariants:

* Writing and syncing have a thread each: a write does not wait for a sync.
* A sync starts after the writes that it covers; those who wait for it are notified after it.
* A sync that fails is logged once, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.workers import SerialWorker

#: Less than the second within which output is to be durable: writing and syncing take time.
FLUSH_SECONDS: Final = 0.8

log = make_logger(__name__)


class Source(Protocol):
    """A recording with frames to write."""

    def begin(self) -> Callable[[], Any] | None:
        """Return a function that writes all pending frames in a thread; None if there are none."""

    def done(self, result: Any) -> None:
        """Take the result of that function, or its Failure."""


class GroupCommit:
    """Writes by ``writer`` and syncs with ``sync``. ``measure`` is called after each writing."""

    def __init__(
        self,
        reactor: IReactorTime,
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
        """Write the frames of ``source``, and sync everything, at the end of the period."""
        if source is not None:
            self._sources[source] = None
        self._unsynced = True
        if self._timer is None and not self._closed:
            self._timer = self._reactor.callLater(FLUSH_SECONDS, self._tick)

    def now(self, source: Source) -> None:
        """Write the frames of ``source`` now; they are synced with all others."""
        self._sources.pop(source, None)
        self._write((source,))
        self.soon()

    def forget(self, source: Source) -> None:
        """Do not write ``source`` any more."""
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
        self._writer.call(self._measure).addCallback(lambda report: report()).addErrback(
            lambda failure: log.failure("disk space not measured", failure=failure)
        )
        if self._unsynced:
            # The writer is serial: this runs after the writes above.
            self._writer.call(lambda: None).addCallback(lambda _: self._sync())

    def _write(self, sources: Sequence[Source]) -> None:
        started = [(source, job) for source in sources if (job := source.begin()) is not None]
        if not started:
            return

        def done(results: list[Any]) -> None:
            for (source, _), result in zip(started, results, strict=True):
                try:
                    source.done(result)
                except Exception:  # an error in one session does not stop others
                    log.failure("recording failed")

        self._writer.call(_all, [job for _, job in started]).addCallback(done).addErrback(
            lambda failure: log.failure("recordings not written", failure=failure)
        )

    def _sync(self) -> None:
        if self._syncing is not None:
            self.soon()  # that sync started before the last write: sync once more
            return
        self._unsynced = False
        waiting, self._waiting = self._waiting, []

        def synced(result: Any) -> None:
            self._syncing = None
            if isinstance(result, Failure):
                if not self._failed:
                    log.failure("sync of recordings failed", failure=result)
                self._waiting[:0] = waiting
                self.soon()
            self._failed = isinstance(result, Failure)
            if not self._failed:
                for each in waiting:
                    each.callback(None)

        syncing = self._syncing = self._syncer.call(self._sync_all)
        syncing.addBoth(synced)

    def close(self) -> Deferred[None]:
        """Write and sync all that is pending, and stop; fires when that is done."""
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
