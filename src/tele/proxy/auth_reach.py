"""Since when can a proxy not reach auth? What clients are told whose calls it cannot pass on.

Invariant: each change is a line in the log, and nothing else is, however often somebody tries.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.log import make_logger
from tele.loop import now

#: A connection that failed so long ago says nothing any more if the proxy itself reaches auth.
COUNTS_SECONDS: Final = 15.0

log = make_logger(__name__)


class AuthReach:
    """``away_since()`` is what the proxy itself knows, from its own connections to auth."""

    def __init__(self, clock: IReactorTime, away_since: Callable[[], datetime | None]) -> None:
        self._clock = clock
        self._away_since = away_since
        self._failed: datetime | None = None
        self._last = 0.0

    def reached(self, problem: str) -> None:
        """A client's connection was passed on to auth, or could not be because of ``problem``."""
        if not problem:
            if self._failed is not None:
                log.info("auth can be reached again")
            self._failed = None
            return
        self._last = self._clock.seconds()
        if self._failed is None:
            self._failed = now(self._clock)
            log.warn("auth cannot be reached: {why!s}; clients are told so", why=problem)

    def unreachable_since(self) -> datetime | None:
        """Return the date since which auth cannot be reached, or None."""
        known = self._away_since()
        if known is not None:
            return known if self._failed is None else min(known, self._failed)
        fresh = self._clock.seconds() - self._last < COUNTS_SECONDS
        return self._failed if fresh else None
