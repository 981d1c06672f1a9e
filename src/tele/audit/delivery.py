"""How does one sink get its events?

Laws of this file:

* In order and one at a time: the next event goes out when the sink has taken the one before.
* A sink fails alone. What it failed to take, and what came while it was too far
  behind, is counted and not tried again: the store has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred

from tele.interfaces import IAuditSink
from tele.loop import make_logger
from tele.model.event import Event

log = make_logger(__name__)

#: How many events a sink may be behind.
BACKLOG: Final = 10_000


class Delivery:
    """Hands events to one sink. ``failed`` counts those that it did not get."""

    def __init__(self, sink: IAuditSink) -> None:
        self._sink = sink
        self._waiting: deque[Event] = deque()
        self._running = False
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

    async def _run(self) -> None:
        self._running = True
        try:
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    await self._sink.receive(event)
                except Exception as error:
                    self.failed += 1
                    log.warn("audit sink {sink!r} failed: {why!r}", sink=self._sink, why=error)
        finally:
            self._running = False
