"""When does auth begin the next phase of an automatic rotation?

Several auths on one store may try: the commit of one of them succeeds.

Invariant: after the clock was set forward nothing begins for a day: by it, certificates would seem
to have expired that have not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.errors import TeleError
from tele.log import make_logger

log = make_logger(__name__)

#: How often the phases are looked at.
CHECK_SECONDS: Final = 60.0
#: How long nothing begins after the clock was set forward, and by how much that has to be.
AFTER_STEP: Final = 86400.0
STEP_IGNORED: Final = 3600.0


class AutomaticRotation:
    """Calls ``advance()`` every minute."""

    def __init__(self, clock: IReactorTime, advance: Callable[[], Awaitable[None]]) -> None:
        self._clock = clock
        self._advance = advance
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._not_before = 0.0

    def start(self) -> None:
        """Look in a minute, and then again and again."""
        self._timer = self._clock.callLater(CHECK_SECONDS, self._begin)

    async def stop(self) -> None:
        """End a round that runs. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is not None:
            ended: Deferred[None] = Deferred()
            self._round.addBoth(lambda _: ended.callback(None))
            self._round.cancel()
            await ended

    def clock_was_set(self, seconds: float) -> None:
        """The wall clock was set forward by ``seconds``."""
        if seconds > STEP_IGNORED:
            self._not_before = self._clock.seconds() + AFTER_STEP
            log.warn("rotation waits since the clock was set forward", seconds=AFTER_STEP)

    def _begin(self) -> None:
        self.start()
        if self._round is not None or self._clock.seconds() < self._not_before:
            return
        self._round = Deferred.fromCoroutine(self._look())
        self._round.addBoth(self._ended)

    async def _look(self) -> None:
        try:
            await self._advance()
        except TeleError as error:  # the store is away: the next round is in a minute
            log.warn("the phases of rotations cannot be looked at", error=str(error))

    def _ended(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            log.failure("rotation failed", result)
