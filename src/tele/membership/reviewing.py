"""When is a connection that was allowed decided about again?

What allowed it can end while it lasts: roles change, locks are added, users are removed, users and
roles expire.

Invariants:

* Each connection is decided about again after each change of roles, locks or revocations, when one
  of them expires, and when the clock was set; never for another reason.
* A change costs one decision for each connection, :data:`BATCH` of them in one turn of the reactor.
  A change meanwhile begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import Unavailable
from tele.log import make_logger
from tele.loop import STEP_SECONDS, DateTimer, now, wall_seconds
from tele.model.api.members import ClusterState
from tele.rbac.policy import Policy

T = TypeVar("T")

log = make_logger(__name__)

#: Decisions in one turn of the reactor.
BATCH: Final = 100


class Review(Generic[T]):
    """Decides again about the connections that are ``present()``.

    ``state()`` and its ``policy()`` are the cluster's. ``ask(one)`` decides, and ends what is no
    longer allowed. ``more()`` is what a decision depends on beside the cluster's state.
    """

    def __init__(
        self,
        clock: IReactorTime,
        state: Callable[[], ClusterState],
        policy: Callable[[], Policy],
        present: Callable[[], Iterable[T]],
        ask: Callable[[T], None],
        more: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock = clock
        self._state = state
        self._present = present
        self._ask = ask
        self._more = more
        self.policy: Final = policy
        self._basis: object = None
        self._offset = 0.0
        self._waiting: deque[T] = deque()
        self._step: IDelayedCall | None = None
        self._alarm: DateTimer | None = None
        self._stopped = False

    def check(self) -> None:
        """Decide again if something has changed."""
        try:
            state = self._state()
        except Unavailable:
            return  # no connection was allowed yet
        basis = (
            state.roles,
            state.locks,
            state.revoked_users,
            state.client_keepalive,
            state.settings,
            self._more(),
        )
        offset = wall_seconds(self._clock) - self._clock.seconds()
        if basis != self._basis or abs(offset - self._offset) >= STEP_SECONDS:
            self._basis, self._offset = basis, offset
            self._begin()

    def stop(self) -> None:
        """Decide about nothing from now on."""
        self._stopped = True
        self._waiting.clear()
        for call in (self._step, self._alarm):
            if call is not None:
                call.cancel()
        self._step = self._alarm = None

    def _begin(self) -> None:
        if self._stopped:
            return
        self._set_alarm()
        self._waiting = deque(self._present())
        if self._step is None:
            self._ask_some()

    def _ask_some(self) -> None:
        self._step = None
        for _ in range(min(BATCH, len(self._waiting))):
            one = self._waiting.popleft()
            try:
                self._ask(one)
            except Exception:
                log.failure("review of a connection failed")
        if self._waiting:
            self._step = self._clock.callLater(0, self._ask_some)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        moment = now(self._clock)
        end = self.policy().next_end(moment)
        if end is not None:
            self._alarm = DateTimer(self._clock, end, self._expired)

    def _expired(self) -> None:
        self._alarm = None
        self._begin()
