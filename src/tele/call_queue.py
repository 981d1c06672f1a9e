"""How does work of some milliseconds leave the reactor time for everybody else? One call a turn.

What many clients asked for may be ready at the same moment. Called one after the other it would
hold up a heartbeat for as long as all of it takes; in a queue, for as long as one call takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class CallQueue:
    """Calls functions in order, each in a turn of the reactor of its own."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, function: Callable[[], object]) -> None:
        """Call ``function``, which raises nothing, after those that wait."""
        self._waiting.append(function)
        self._schedule()

    def turn(self) -> Deferred[None]:
        """Fire when the caller may go on."""
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
