"""How does output wait until it may reach the client?

An observer holds what it has seen, until it is where it has to be before the client sees it.

Invariants:

* Output leaves in order.
* What must not leave is dropped, with all that comes after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.log import make_logger

log = make_logger(__name__)

#: Holds what was observed so far: None if it may leave now. Otherwise fires when it may, and fails
#: if it must not; in order, and never from within the call.
Hold = Callable[[], Deferred[None] | None]


@define(eq=False)
class _Held:
    """A piece of output, and what it waits for, until it may leave."""

    data: bytes
    code: int | None
    wait: Deferred[None] | None


class HeldOutput:
    """Output of one program, in order, while ``hold`` holds it.

    ``send`` is called with each piece that leaves, and its type; ``left`` after some have left,
    and not from within :meth:`put`; ``forbidden`` once, if they must not.
    """

    def __init__(
        self,
        hold: Hold,
        send: Callable[[bytes, int | None], None],
        left: Callable[[], None],
        forbidden: Callable[[], None],
    ) -> None:
        self._hold = hold
        self._send = send
        self._left = left
        self._forbidden = forbidden
        self._held: deque[_Held] = deque()
        self._dropped = False
        #: Bytes that wait.
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def put(self, data: bytes, code: int | None) -> bool:
        """Take a piece that was observed; False if it is dropped."""
        if self._dropped:
            return False
        wait = self._hold()
        if wait is None and not self._held:
            self._send(data, code)
            return True
        held = _Held(data, code, wait)
        self._held.append(held)
        self.size += len(data)
        if wait is not None:
            wait.addCallbacks(self._allowed, self._failed, callbackArgs=(held,))
        return True

    def _allowed(self, _: None, held: _Held) -> None:
        held.wait = None
        count = len(self._held)
        while self._held and self._held[0].wait is None:
            first = self._held.popleft()
            self.size -= len(first.data)
            self._send(first.data, first.code)
        if len(self._held) < count:
            self._left()

    def _failed(self, failure: Failure) -> None:
        if not self._dropped:
            log.info("output dropped that must not leave", error=failure.getErrorMessage())
            self.drop()
            self._forbidden()

    def drop(self) -> int:
        """Drop what waits, and what comes; return how many bytes waited."""
        self._dropped = True
        held, self._held = list(self._held), deque()
        size, self.size = self.size, 0
        for each in held:
            if each.wait is not None:
                each.wait.cancel()
        return size


def not_reported(failure: Failure) -> None:
    """The end of a program must not be told: the connection ends."""
    log.info("end of a program not reported", error=failure.getErrorMessage())
