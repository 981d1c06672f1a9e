"""How do the loops of a membership run side by side?

Invariant: a loop that fails is logged, and ends no other.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tele.log import make_logger

_log: Final = make_logger(__name__)


class Loops:
    """Coroutines that run until they end, or are all stopped."""

    def __init__(self) -> None:
        self._running: set[Deferred[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one more."""
        loop: Deferred[None] = Deferred.fromCoroutine(work)
        self._running.add(loop)

        def ended(result: Any) -> None:
            self._running.discard(loop)
            if isinstance(result, Failure) and not result.check(CancelledError):
                _log.failure("membership loop failed", failure=result)

        loop.addBoth(ended)

    def stop(self) -> None:
        """Cancel all."""
        for loop in list(self._running):
            loop.cancel()
