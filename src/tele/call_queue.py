"""How is CPU work for many clients spread over turns of the reactor? One call a turn.

Responses to many clients may become ready at the same moment. Computed in one turn they would
delay a heartbeat by the sum of their times; in a queue, by the time of one call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class CallQueue:
    """Calls functions in order, one in each turn of the reactor."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, function: Callable[[], object]) -> None:
        """Call ``function``, which must not raise, after those that wait."""
        self._waiting.append(function)
        self._schedule()

    def turn(self) -> Deferred[None]:
        """Fire when it is the caller's turn."""
        answer: Deferred[None] = Deferred()
        self.add(lambda: answer.callback(None))
        return answer

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._scheduled = False
        function = self._waiting.popleft()
        self._schedule()
        function()
