"""How does a reactor use the spool of audit events without waiting for the disk?

Invariants:

* Events are written in the order in which they came, by one thread, as soon as it can; after that
  they survive ``kill -9``. :meth:`BackgroundSpool.written` fires then. Those that may gather, since
  there are many, are written together: within :data:`GATHER_SECONDS`, or with the next other one.
* Another thread syncs what was written, together for all of :data:`SYNC_SECONDS`: a power cut
  loses no more than that, and what the disk takes to sync. Writing waits for no sync.
* An event goes to auth after it was written. What a full disk does not take stays in memory, up to
  :data:`HELD_LIMIT`, goes to auth from there, and is written when there is space.
* While something is not written the spool counts as full: the node begins only sessions whose
  events auth takes at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.log import make_logger
from tele.membership.spool import BATCH_BYTES, BATCH_LINES, LINE_LIMIT, Spool
from tele.workers import SerialWorker

#: Seconds in which written events gather to be synced together.
SYNC_SECONDS: Final = 0.25
#: Seconds in which events gather to be written together, if they may; and how many at most.
GATHER_SECONDS: Final = 0.1
GATHER_LINES: Final = BATCH_LINES
#: Bytes of events that the disk has not taken.
HELD_LIMIT: Final = 16 << 20

T = TypeVar("T")

_log: Final = make_logger(__name__)


class BackgroundSpool:
    """Uses ``spool``, which is closed with it, in threads."""

    def __init__(self, reactor: IReactorTime, spool: Spool) -> None:
        self._reactor = reactor
        self._spool = spool
        self._writer = SerialWorker(reactor, "audit spool")
        self._syncer = SerialWorker(reactor, "audit spool sync")
        self._full = spool.full
        self._asking = False
        #: What was appended and not written, and its size; and how many lines there ever were.
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._appended = 0
        self._writing = False
        #: Whether the disk did not take the first of ``_lines``.
        self._refused = False
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()
        self._unkept: deque[tuple[int, Deferred[None]]] = deque()
        self._idle: list[Deferred[None]] = []
        #: Of the lines that were peeked at and are not dropped yet: those that are in the spool,
        #: and after them those that are in ``_lines``.
        self._peeked_spool = 0
        self._peeked_lines = 0
        self._gather_timer: IDelayedCall | None = None
        self._sync_timer: IDelayedCall | None = None
        self._syncing = False
        self._sync_failed = False
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether new sessions are refused; running ones may still append."""
        if self._full and not self._asking and not self._closed:
            self._asking = True
            self._call(lambda: None).addBoth(self._asked)
        return self._full or self._refused or self.crowded

    @property
    def crowded(self) -> bool:
        """Whether memory, too, lacks the space that one more session needs."""
        return self._held > HELD_LIMIT // 2

    @property
    def waiting(self) -> int:
        """How many bytes have not been sent, in the spool and in memory."""
        return self._spool.waiting + self._held

    def _asked(self, result: Any) -> None:
        self._asking = False
        if isinstance(result, Failure):
            _log.failure("audit spool not readable", failure=result)

    def append(self, line: bytes, *, gather: bool = False) -> bool:
        """Take one line; False if it is too long or nothing more fits.

        With ``gather`` it may wait for others, to be written together.
        """
        if self._closed or len(line) >= LINE_LIMIT or self._held + len(line) > HELD_LIMIT:
            return False
        self._lines.append(line)
        self._held += len(line)
        self._appended += 1
        if not gather or len(self._lines) >= GATHER_LINES:
            self._write()
        elif self._gather_timer is None:
            self._gather_timer = self._reactor.callLater(GATHER_SECONDS, self._gathered)
        return True

    def _gathered(self) -> None:
        self._gather_timer = None
        self._write()

    def written(self) -> Deferred[None]:
        """Fires when all that was appended so far is in the file, or the disk has refused it."""
        self._write()
        if not self._writing:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append((self._appended, waiting))
        return waiting

    def kept(self) -> Deferred[None]:
        """Fires when all that was appended so far is in the file, or at auth."""
        self._write()
        waiting: Deferred[None] = Deferred()
        self._unkept.append((self._appended, waiting))
        self._notify_kept()
        return waiting

    def _notify_kept(self) -> None:
        kept = self._appended - len(self._lines)
        while self._unkept and self._unkept[0][0] <= kept:
            _, waiting = self._unkept.popleft()
            if not waiting.called:  # else it was cancelled
                waiting.callback(None)

    async def peek(self) -> list[bytes]:
        """Return the oldest lines, as many as fit into one request.

        Raises :class:`tele.errors.TeleError` if the disk cannot be read.
        """
        await self.written()
        batch = await self._call(self._spool.peek)
        self._peeked_spool, self._peeked_lines = len(batch), 0
        if not batch and self._refused and not self._writing:
            batch = self._oldest()
            self._peeked_lines = len(batch)
        return batch

    def _oldest(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        for line in islice(self._lines, BATCH_LINES):
            size += len(line)
            if batch and size > BATCH_BYTES:
                break
            batch.append(line)
        return batch

    async def drop(self, lines: list[bytes]) -> None:
        """Forget ``lines``, which :meth:`peek` returned, or the first of them."""
        while self._writing:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        kept = min(len(lines), self._peeked_spool)
        self._peeked_spool -= kept
        held = min(len(lines) - kept, self._peeked_lines)
        self._peeked_lines -= held
        self._forget(held)
        if kept:
            await self._call(self._spool.drop, lines[:kept])
        if held:
            self._refused = bool(self._lines)
            self._write()

    async def close(self) -> None:
        """Write and sync what there is, and close files."""
        if self._gather_timer is not None:
            self._gather_timer.cancel()
            self._gather_timer = None
        await self.written()
        self._closed = True
        if self._lines:
            _log.error("audit events lost, not written to disk", count=len(self._lines))
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        await self._syncer.close()
        closing = self._writer.call(self._spool.close)
        await self._writer.close()
        await closing

    # -- writing ----------------------------------------------------------------------
    def _call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call ``function`` in the spool's thread, and note whether the spool is full then."""

        def work() -> tuple[T, bool]:
            return function(*args), self._spool.full

        def done(result: tuple[T, bool]) -> T:
            answer, self._full = result
            return answer

        return self._writer.call(work).addCallback(done)

    def _write(self) -> None:
        if self._writing or not self._lines:
            return
        self._writing = True
        self._call(self._spool.append_all, list(self._lines)).addBoth(self._ended, self._appended)

    def _ended(self, result: int | Failure, tried: int) -> None:
        self._writing = False
        if isinstance(result, Failure):
            _log.failure("audit spool not written", failure=result)
            result = 0
        moved = min(result, self._peeked_lines)
        self._peeked_lines -= moved
        self._peeked_spool += moved
        self._forget(result)
        # Lines that were appended meanwhile were not tried yet.
        self._refused = len(self._lines) > self._appended - tried
        if result:
            self._sync_soon()
        while self._waiting and self._waiting[0][0] <= tried:
            self._waiting.popleft()[1].callback(None)
        idle, self._idle = self._idle, []
        for waiting in idle:
            waiting.callback(None)
        if not self._refused:
            self._write()
        elif self._waiting:  # what follows a refused line is refused, too
            waiters, self._waiting = self._waiting, deque()
            for _, waiting in waiters:
                waiting.callback(None)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._held -= len(self._lines.popleft())
        self._notify_kept()

    # -- syncing ----------------------------------------------------------------------
    def _sync_soon(self) -> None:
        if self._sync_timer is None:
            self._sync_timer = self._reactor.callLater(SYNC_SECONDS, self._sync)

    def _sync(self) -> None:
        self._sync_timer = None
        if self._syncing:  # the disk is slow: once more when it is done
            self._sync_soon()
            return
        self._syncing = True
        self._syncer.call(self._spool.sync).addBoth(self._synced)

    def _synced(self, result: Failure | None) -> None:
        self._syncing = False
        failed = isinstance(result, Failure)
        if failed and not self._sync_failed:
            _log.failure("audit spool not synced", failure=result)
        self._sync_failed = failed
