"""How do many callers that need the same result at the same time get it from one piece of work?

Invariants:

* While the work runs it is not begun again. It belongs to no caller, the first one included: a
  caller that is cancelled leaves, and the others go on waiting.
* Work that no caller waits for any more is cancelled.
* A failure is the failure of all that wait. Nothing is kept: the next call begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


@define(eq=False)
class _Flight(Generic[T]):
    """One run of the work, and the callers that wait for it."""

    callers: list[Deferred[T]] = field(factory=list)
    work: Deferred[T] | None = None


class SingleFlight(Generic[T]):
    """Shares each run of ``work()`` among those that call while it runs."""

    def __init__(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> None:
        self._work = work
        self._flight: _Flight[T] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a call joins work that runs."""
        return self._flight is not None

    def call(self) -> Deferred[T]:
        """Return the result of the work that runs, or of new work."""
        flight = self._flight
        if flight is not None:
            return self._join(flight)
        flight = self._flight = _Flight()
        caller = self._join(flight)
        flight.work = Deferred.fromCoroutine(self._work())
        flight.work.addBoth(self._ended, flight)
        return caller

    def cancel(self) -> None:
        """Cancel the work that runs; its callers get what it makes of that."""
        if self._flight is not None:
            self._cancel(self._flight)

    def _join(self, flight: _Flight[T]) -> Deferred[T]:
        caller: Deferred[T] = Deferred(lambda caller: self._leave(caller, flight))
        flight.callers.append(caller)
        return caller

    def _leave(self, caller: Deferred[T], flight: _Flight[T]) -> None:
        if caller in flight.callers:
            flight.callers.remove(caller)
            if not flight.callers:
                self._cancel(flight)

    def _cancel(self, flight: _Flight[T]) -> None:
        self._forget(flight)  # who calls from now on begins anew
        if flight.work is not None:
            flight.work.cancel()

    def _forget(self, flight: _Flight[T]) -> None:
        if self._flight is flight:
            self._flight = None

    def _ended(self, result: T | Failure, flight: _Flight[T]) -> None:
        self._forget(flight)
        callers, flight.callers = flight.callers, []
        for caller in callers:
            if caller.called:  # cancelled by one of those before it
                continue
            if isinstance(result, Failure):
                caller.errback(Failure(result.value))
            else:
                caller.callback(result)
