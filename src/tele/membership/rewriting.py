"""When is what a member remembers written to disk, and when again if that fails?

Invariants:

* What auth sent counts at once; the disk catches up, in a thread: the reactor waits for no disk.
* One line in the log when writing begins to fail, and one when all is written.
* Retries are spaced out: 1 s at first, a minute at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.loop import backoff
from tele.membership.store import MemberStore
from tele.model.presence import Host
from tele.workers import SerialWorker

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0

_log: Final = make_logger(__name__)


class Rewriter:
    """Has ``store`` write what it keeps, by ``worker``, until it can.

    :meth:`check` after something is kept.
    """

    def __init__(
        self,
        clock: IReactorTime,
        store: MemberStore,
        worker: SerialWorker,
        dice: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._store = store
        self._dice = dice
        self._worker = worker
        self._failures = 0
        self._timer: IDelayedCall | None = None
        self._closed = False

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The cluster's nodes, as a proxy had them kept last."""
        return self._store.nodes

    def keep_nodes(self, nodes: tuple[Host, ...]) -> None:
        """Have ``nodes`` be :attr:`nodes` from now on, also after a restart."""
        if nodes != self._store.nodes:
            self._store.keep_nodes(nodes)
            self.check()

    def check(self) -> Deferred[None]:
        """Write what is not written; fires when that was tried."""
        if self._closed or not self._store.is_pending:
            return succeed(None)
        return self._write()

    def _write(self) -> Deferred[None]:
        # A caller that waits may be cancelled, as at a stop; the files are written all the same.
        done: Deferred[None] = Deferred()
        self._worker.call(self._store.write).addBoth(self._written).addBoth(done.callback)
        return done

    def _written(self, result: str | Failure) -> None:
        if isinstance(result, Failure):
            _log.failure("membership files not written", failure=result)
            result = result.getErrorMessage()
        if not result:
            if self._failures:
                _log.info("membership files written again")
            self._failures = 0
            self._cancel()
        elif self._timer is None and not self._closed:
            if not self._failures:
                _log.error("membership files not written, trying again", error=result)
            pause = backoff(self._failures, FIRST_PAUSE, LONGEST_PAUSE, self._dice)
            self._failures += 1
            self._timer = self._clock.callLater(pause, self._again)

    def _again(self) -> None:
        self._timer = None
        self._write()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """Write for the last time, and cancel what is planned."""
        self._cancel()
        if self._store.is_pending:
            await self._write()
        self._closed = True
        self._cancel()
