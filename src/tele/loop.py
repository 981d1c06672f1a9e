"""How do parts of tele know the time and wake up?

Invariants:

* Time is an argument: a clock is anything with ``seconds()`` and ``callLater``
  (:class:`twisted.internet.interfaces.IReactorTime`).
* ``seconds()`` is for intervals only: it never goes back and never jumps
  (:func:`make_monotonic`). A date comes from :func:`now`, and may jump either way at any
  moment: a wait for a date checks it every few seconds (:class:`DateTimer`).

txaio's own batched timer takes its loop from a setting of the whole process, so
that it knows no fake clock, fires up to a bucket early and forgets a cancelled
call in time proportional to the bucket; :class:`Ticker` is our own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.log import make_logger

# -- time -----------------------------------------------------------------------------
#: Seconds between two checks of the wall clock.
CHECK_SECONDS: Final = 5.0
#: The wall clock was set if it moved by so many seconds more or less than time passed between two
#: checks. A daemon that slews it moves it by far less.
STEP_SECONDS: Final = 2.0


#: Counts while the machine is suspended, where the system has such a clock; sshd uses the same
#: one: a deadline that passed while the machine was suspended has passed.
_MONOTONIC: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def make_monotonic(reactor: IReactorTime) -> None:
    """Make all timers of ``reactor`` use a monotonic clock, and :func:`now` the wall clock.

    By default Twisted's reactor uses the wall clock: when it is set back, each timer waits so
    much longer. ``reactor.seconds()`` starts at the present date, so that existing timers stay
    right, and then counts seconds. May be called again, and for any clock: one that does not
    use the wall clock, such as a fake one, is left unchanged.
    """
    clock: Any = reactor  # a method is replaced
    if clock.seconds is not time.time:
        return
    begin: float = time.time() - time.clock_gettime(_MONOTONIC)

    def seconds() -> float:
        return begin + time.clock_gettime(_MONOTONIC)

    clock.seconds = seconds
    clock.wall_seconds = time.time


def wall_seconds(clock: IReactorTime) -> float:
    """Return the date by ``clock``, in Unix time.

    This is ``wall_seconds()`` of a clock that has it, otherwise ``seconds()``.
    """
    wall: Callable[[], float] | None = getattr(clock, "wall_seconds", None)
    seconds: float = clock.seconds() if wall is None else wall()
    return seconds


def now(clock: IReactorTime) -> datetime:
    """Return the date by ``clock``, in UTC."""
    return datetime.fromtimestamp(wall_seconds(clock), UTC)


def steady_date(clock: IReactorTime) -> datetime:
    """Return the date as if the clock had not been set since this process started."""
    return datetime.fromtimestamp(clock.seconds(), UTC)


def validity_date(clock: IReactorTime, begins: float) -> datetime:
    """Return the date by which to check something that is valid from ``begins`` (Unix time).

    That is now. If the clock was set back since this process started, what was already valid by
    the time that has passed since then stays valid from its first moment on. No expiry is
    extended by this.
    """
    if wall_seconds(clock) < begins <= clock.seconds():
        return datetime.fromtimestamp(begins, UTC)
    return now(clock)


class Expiry:
    """The end of something that is valid until a date, and no longer than was left at the start."""

    __slots__ = ("_clock", "_deadline", "_when")

    def __init__(self, clock: IReactorTime, when: datetime) -> None:
        self._clock = clock
        self._when = when
        self._deadline = clock.seconds() + (when - now(clock)).total_seconds()

    @property
    def has_passed(self) -> bool:
        """Whether the date was reached, or would have been if the clock had not been set back."""
        return self.left <= 0

    @property
    def left(self) -> float:
        """How many seconds are left of it; not more than 0 if it has passed."""
        by_date = (self._when - now(self._clock)).total_seconds()
        return min(by_date, self._deadline - self._clock.seconds())


class DateTimer:
    """Calls ``callback`` once when the date ``when`` is reached, even if the clock is set."""

    __slots__ = ("_callback", "_clock", "_timer", "_when")

    def __init__(self, clock: IReactorTime, when: datetime, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._timer: IDelayedCall | None = None
        self._wait()

    def _wait(self) -> None:
        left = (self._when - now(self._clock)).total_seconds()
        self._timer = self._clock.callLater(min(max(left, 0.0), CHECK_SECONDS), self._check)

    def _check(self) -> None:
        self._timer = None
        if now(self._clock) < self._when:
            self._wait()
        else:
            self._callback()

    def cancel(self) -> None:
        """Do not call. May be called twice, and after the call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class StepWatch:
    """Detects that the wall clock was set: calls ``stepped`` with seconds, negative if set back."""

    def __init__(self, clock: IReactorTime, stepped: Callable[[float], object]) -> None:
        self._clock = clock
        self._stepped = stepped
        self._offset = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Check from now on, until :meth:`stop`."""
        self._offset = self._difference()
        self._timer = self._clock.callLater(CHECK_SECONDS, self._check)

    def stop(self) -> None:
        """Stop checking. May be called twice, and before :meth:`start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _difference(self) -> float:
        return wall_seconds(self._clock) - self._clock.seconds()

    def _check(self) -> None:
        self._timer = self._clock.callLater(CHECK_SECONDS, self._check)
        before, self._offset = self._offset, self._difference()
        moved = self._offset - before
        if abs(moved) < STEP_SECONDS:
            return
        _log.warn(
            "system clock was set",
            direction="forward" if moved > 0 else "back",
            seconds=round(abs(moved), 1),
        )
        self._stepped(moved)


def backoff(
    attempt: int,
    first: float = 0.5,
    longest: float = 15.0,
    dice: Callable[[], float] = random.random,
) -> float:
    """Return how many seconds to wait before trying again.

    ``attempt`` counts failures so far from 0. The wait doubles from ``first`` up to
    ``longest``; its upper half is random (``dice`` gives 0 to 1), so that a fleet that lost
    its server does not reconnect all at once.
    """
    # 2.0**1024 overflows; the longest wait is reached long before.
    whole = min(longest, first * 2.0 ** min(attempt + 1, 64))
    return max(first, whole * (0.5 + dice() / 2))


class Tick:
    """One callback of a :class:`Ticker`."""

    __slots__ = ("_slot",)

    def __init__(self, slot: dict[Tick, Callable[[], object]]) -> None:
        self._slot = slot

    def cancel(self) -> None:
        """Stop calling. May be called twice, and from within the callback."""
        self._slot.pop(self, None)


class Ticker:
    """Calls many callbacks, each once in ``period`` seconds, with a single timer.

    The period is divided into ``slots``; all callbacks of a slot are called together. The first
    call of a callback comes after one period, less one slot at most. A callback that fails is
    logged and called again. No timer runs while there is no callback.
    """

    def __init__(self, clock: IReactorTime, period: float, slots: int = 16) -> None:
        self._clock = clock
        self._step = period / slots
        self._slots: list[dict[Tick, Callable[[], object]]] = [{} for _ in range(slots)]
        self._next = 0
        self._timer: IDelayedCall | None = None

    def add(self, callback: Callable[[], object]) -> Tick:
        """Call ``callback`` every period until the returned tick is cancelled."""
        slot = self._slots[self._next - 1]
        tick = Tick(slot)
        slot[tick] = callback
        if self._timer is None:
            self._timer = self._clock.callLater(self._step, self._wake)
        return tick

    def stop(self) -> None:
        """Forget all callbacks."""
        for slot in self._slots:
            slot.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        for tick, callback in list(slot.items()):
            if tick in slot:  # not cancelled by one of those before it
                try:
                    callback()
                except Exception:
                    _log.failure("periodic call failed")
        if self._timer is None and any(self._slots):
            self._timer = self._clock.callLater(self._step, self._wake)


_log: Final = make_logger(__name__)
