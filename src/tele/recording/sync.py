"""Up to which frame does auth have a recording, and who waits for more?

Invariants:

* Those who wait are told in the order of the numbers that they wait for, and each once.
* What auth has is never taken back: the number only grows.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from tele.errors import TeleError


@define(eq=False)
class _Waiting:
    sequence: int
    answer: Deferred[None]


@define(eq=False)
class Acknowledged:
    """The frames of one recording that auth has; ``sequence`` is the number of the last one."""

    sequence: int = 0
    _waiting: list[_Waiting] = field(factory=list, init=False)
    _failed: TeleError | None = field(default=None, init=False)

    @property
    def newest(self) -> int:
        """The highest number that is awaited; 0 if none is."""
        return self._waiting[-1].sequence if self._waiting else 0

    def wait(self, sequence: int) -> Deferred[None]:
        """Fire when auth has all frames up to ``sequence``. It may be cancelled."""
        if sequence <= self.sequence:
            return succeed(None)
        if self._failed is not None:
            return fail(self._failed)
        waiting = _Waiting(sequence, Deferred(lambda _: self._waiting.remove(waiting)))
        insort(self._waiting, waiting, key=attrgetter("sequence"))
        return waiting.answer

    def advance(self, sequence: int) -> None:
        """Auth has all frames up to ``sequence``."""
        self.sequence = max(self.sequence, sequence)
        while self._waiting and self._waiting[0].sequence <= self.sequence:
            self._waiting.pop(0).answer.callback(None)

    def fail(self, error: TeleError) -> None:
        """Auth will have no more: those who wait fail with ``error``, and so do later ones."""
        self._failed = error
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.answer.errback(error)
