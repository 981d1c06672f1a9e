"""How does one sink get its events?

Invariants:

* In order and one at a time: the next event goes out when the sink has taken the one before. A
  sink that takes many gets at once what came meanwhile.
* A sink fails alone. What it failed to take, and what came while it was too far
  behind, is counted and not tried again: the store has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed

from tele.interfaces import IAuditBatchSink, IAuditSink
from tele.log import make_logger
from tele.model.event import Event

log = make_logger(__name__)

#: How many events a sink may be behind.
BACKLOG: Final = 10_000
#: How many it gets at once, if it takes many.
BATCH: Final = 500


class Delivery:
    """Hands events to one sink. ``failed`` counts those that it did not get."""

    def __init__(self, sink: IAuditSink) -> None:
        self._sink = sink
        self._many: Any = IAuditBatchSink(sink, None)
        self._waiting: deque[Event] = deque()
        self._running = False
        self._idle: list[Deferred[None]] = []
        self.failed = 0

    def send(self, events: Sequence[Event]) -> None:
        """Hand over events, as soon as the sink takes them."""
        room = BACKLOG - len(self._waiting)
        self._waiting.extend(events[:room])
        if len(events) > room:
            self.failed += len(events) - room
            log.warn("audit sink {sink!r} is too far behind: events are lost", sink=self._sink)
        if not self._running:
            Deferred.fromCoroutine(self._run())

    def when_idle(self) -> Deferred[None]:
        """Fire when the sink has taken, or failed to take, all that there is."""
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
                    log.warn("audit sink {sink!r} failed: {why!r}", sink=self._sink, why=error)
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
