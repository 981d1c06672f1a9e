"""What does auth do again and again by itself, when, and which auth of a store does it?

Invariants:

* One round runs at a time. One that fails is logged, and the next one begins when it is due.
* After the clock was set forward none begins for a day: by the new date, what is not old seems to
  be.
* Of several auths on one store one does the work: the one that has the lease, which ends by itself.
  It is only taken while there is work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.errors import Conflict, TeleError
from tele.interfaces import IBackend, Put
from tele.log import make_logger

log = make_logger(__name__)

#: How long no round begins after the clock was set forward, and by how much that has to be.
AFTER_STEP: Final = 86400.0
STEP_IGNORED: Final = 3600.0


class Lease:
    """The right to do some work, which one auth of a store has at a time: ``owner``, an id.

    It lasts for ``seconds`` from when it was taken last.
    """

    def __init__(self, backend: IBackend, key: str, owner: str, seconds: float) -> None:
        self._backend = backend
        self._key = key
        self._owner = owner.encode()
        self._time = timedelta(seconds=seconds)

    async def take(self) -> bool:
        """Whether it is ours now."""
        item = await self._backend.get(self._key)
        if item is not None and item.value != self._owner:
            return False
        revision = 0 if item is None else item.revision
        try:
            await self._backend.commit(Put(self._key, self._owner, revision, self._time))
        except Conflict:
            return False
        return True


class RegularWork:
    """Does ``work()`` every ``period`` seconds, if ``is_needed()`` and the lease is ours.

    ``name`` is for the log. With ``delay`` the first round is not at the start.
    """

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        period: float,
        lease: Lease,
        is_needed: Callable[[], bool],
        work: Callable[[], Awaitable[None]],
        *,
        delay: float = 0.0,
    ) -> None:
        self._clock = clock
        self._name = name
        self._period = period
        self.lease = lease
        self._is_needed = is_needed
        self._work = work
        self._delay = delay
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._not_before = 0.0

    def start(self) -> None:
        """Begin the rounds."""
        if self._delay:
            self._timer = self._clock.callLater(self._delay, self._begin)
        else:
            self._begin()

    async def stop(self) -> None:
        """End a round that runs, and begin no more. May be called twice."""
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
            log.warn(
                "regular work waits since the clock was set forward", work=self._name,
                seconds=AFTER_STEP,
            )  # fmt: skip

    def _begin(self) -> None:
        self._timer = self._clock.callLater(self._period, self._begin)
        waits = self._round is not None or self._clock.seconds() < self._not_before
        if waits or not self._is_needed():
            return
        self._round = Deferred.fromCoroutine(self._do())
        self._round.addBoth(self._ended)

    async def _do(self) -> None:
        try:
            if await self.lease.take():
                await self._work()
        except TeleError as error:  # the store or the archive is away
            log.warn("regular work could not be done", work=self._name, error=str(error))

    def _ended(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            log.failure("regular work failed", result, work=self._name)
