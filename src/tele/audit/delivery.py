"""How are events delivered to one sink?

Invariants:

* Events are delivered in order, one at a time, or in batches to a sink that takes batches: the next
  call is made after the one before has returned.
* A failure of a sink affects no other. Events that it failed to take, or that came while it was too
  far behind, are counted and not delivered again: the store has them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed

from tele.interfaces import IAuditBatchSink, IAuditSink
from tele.log import make_logger
from tele.model.event import Event

log = make_logger(__name__)

#: How many events a sink may be behind.
BACKLOG: Final = 10_000
#: The largest batch.
BATCH: Final = 500


class Delivery:
    """Delivers events to one sink. ``failed`` counts those that it did not get."""

    def __init__(self, sink: IAuditSink) -> None:
        self._sink = sink
        self._many: IAuditBatchSink | None = IAuditBatchSink(sink, None)
        self._waiting: deque[Event] = deque()
        self._running = False
        self._idle: list[Deferred[None]] = []
        self.failed = 0

    def send(self, events: Sequence[Event]) -> None:
        """Deliver events as soon as the sink takes them."""
        free = BACKLOG - len(self._waiting)
        self._waiting.extend(events[:free])
        if len(events) > free:
            self.failed += len(events) - free
            log.warn("audit sink is too far behind", sink=repr(self._sink), lost=len(events) - free)
        if not self._running:
            Deferred.fromCoroutine(self._run())

    def when_idle(self) -> Deferred[None]:
        """Fire when the sink has taken, or failed to take, all events."""
        if not self._running:
            return succeed(None)
        self._idle.append(Deferred())
        return self._idle[-1]

    async def _run(self) -> None:
        self._running = True
        try:
            while self._waiting:
                most = BATCH if self._many is not None else 1
                events = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
                try:
                    await self._hand_over(events)
                except Exception as error:
                    self.failed += len(events)
                    log.warn(
                        "audit sink failed", sink=repr(self._sink), error=repr(error),
                        lost=len(events),
                    )  # fmt: skip
        finally:
            self._running = False
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)

    def _hand_over(self, events: Sequence[Event]) -> Deferred[None]:
        if self._many is not None:
            answer: Deferred[None] = self._many.receive_all(events)
            return answer
        return self._sink.receive(events[0])
