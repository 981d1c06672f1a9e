"""When is what could not be written to disk written again?

Invariants:

* What auth said counts from when it was said; the disk only has to catch up.
* One line in the log when writing begins to fail, and one when all is written.
* Retries are spaced out: 1 s at first, a minute at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tele.loop import backoff, make_logger
from tele.membership.store import MemberStore

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0

_log: Final = make_logger(__name__)


class Rewriter:
    """Has ``store`` write again what it could not, until it can. :meth:`check` after each write."""

    def __init__(self, reactor: Any, store: MemberStore, dice: Callable[[], float]) -> None:
        self._reactor = reactor
        self._store = store
        self._dice = dice
        self._failures = 0
        self._timer: Any = None

    def check(self) -> None:
        """Note whether the last write worked; begin to retry if it did not."""
        why = self._store.unwritten
        if not why:
            if self._failures:
                _log.info("the membership's files are written again")
            self.stop()
        elif self._timer is None:
            if not self._failures:
                _log.error(
                    "{error!r}; this host goes on with what auth told it, and tries again",
                    error=why,
                )
            pause = backoff(self._failures, FIRST_PAUSE, LONGEST_PAUSE, self._dice)
            self._failures += 1
            self._timer = self._reactor.callLater(pause, self._again)

    def _again(self) -> None:
        self._timer = None
        self._store.write_again()
        self.check()

    def stop(self) -> None:
        """Leave no timer behind."""
        self._failures = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
