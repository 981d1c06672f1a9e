"""May the reader of a stream still read it? Streams, and when they end.

Invariants:

* A stream ends when its reader may not read it any more: on the change that says so or, where only
  time does, within :data:`CHECK_USER_SECONDS` or :data:`CHECK_SECONDS`.
* A store that does not answer ends no stream.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tele.auth.state import LOCKS, REVOKED_HOSTS, State
from tele.errors import AccessDenied, NotLoggedIn, TeleError
from tele.log import make_logger
from tele.loop import now
from tele.model.identity import Caller, HostIdentity, UserIdentity

log = make_logger(__name__)

#: How often the reader of a stream is checked: a host, a user.
CHECK_SECONDS: Final = 30.0
CHECK_USER_SECONDS: Final = 3.0

Check = Callable[[], Coroutine[Any, Any, None]]


class Streams:
    """The streams that run."""

    def __init__(self, state: State, clock: IReactorTime) -> None:
        self._state = state
        self._clock = clock
        self._streams: set[_Stream] = set()
        state.on_change(self._changed)

    async def run(self, caller: Caller, check: Check, running: Deferred[None]) -> None:
        """Wait for the end of ``running``; raises the error of ``check`` if that ended it."""
        stream = _Stream(self._clock, caller, check, running)
        self._streams.add(stream)
        try:
            await stream.end()
        finally:
            self._streams.discard(stream)

    def _changed(self, prefix: str) -> None:
        """Check the readers that a change concerns: users always, hosts on locks and revocations.

        All nodes of a cluster read streams, and most changes are about users.
        """
        policy, moment = self._state.policy, now(self._clock)
        hosts = prefix in (LOCKS, REVOKED_HOSTS)
        for stream in list(self._streams):
            identity = stream.caller.identity
            if isinstance(identity, UserIdentity) or (
                hosts
                and isinstance(identity, HostIdentity)
                and policy.refuses_host(identity, moment) is not None
            ):
                stream.check()


class _Stream:
    """One stream, which ends when ``check`` fails."""

    def __init__(
        self, clock: IReactorTime, caller: Caller, check: Check, running: Deferred[None]
    ) -> None:
        self.caller = caller
        is_user = isinstance(caller.identity, UserIdentity)
        self._pause = CHECK_USER_SECONDS if is_user else CHECK_SECONDS
        self._clock = clock
        self._check = check
        self._running = running
        self._error: TeleError | None = None
        self._timer: IDelayedCall | None = None

    async def end(self) -> None:
        """Wait for the end; raises the error of ``check`` if that ended it."""
        self._timer = self._clock.callLater(self._pause, self._wake)
        try:
            await self._running
        except CancelledError:
            if self._error is not None:
                raise self._error from None
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wake(self) -> None:
        self._timer = None
        self.check()

    def check(self) -> None:
        """Check now whether its reader may still read it."""
        checking: Deferred[None] = Deferred.fromCoroutine(self._check())
        checking.addCallbacks(self._passed, self._failed)

    def _passed(self, _: object) -> None:
        if not self._running.called and self._timer is None:
            self._timer = self._clock.callLater(self._pause, self._wake)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, AccessDenied | NotLoggedIn):
            log.warn("cannot check the reader of a stream", error=str(error))
            self._passed(None)
        elif not self._running.called:
            self._error = error
            self._running.cancel()
