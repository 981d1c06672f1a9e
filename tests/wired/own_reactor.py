"""A reactor for tests that need real descriptors, apart from the global one."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

T = TypeVar("T")


class OwnReactor(EPollReactor):
    """A reactor that the test runs, never the one that ``twisted.internet`` has installed."""

    _ended = False

    def turn(self, seconds: float = 0.05) -> None:
        """Run one iteration, which waits at most ``seconds``."""
        base: Any = self  # Twisted's own methods are annotated in part
        base.runUntilCurrent()
        due = base.timeout()
        base.doIteration(seconds if due is None else min(seconds, due))

    def callFromThread(self, f: Any, *args: Any, **kwargs: Any) -> None:
        """See ``IReactorFromThreads``; a thread may end after the last iteration."""
        if not self._ended:
            super().callFromThread(f, *args, **kwargs)

    def wait(self, work: Deferred[T] | Coroutine[Any, Any, T], seconds: float = 30.0) -> T:
        """Run until ``work`` fires and return its result, or raise its error."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.until(lambda: bool(results), seconds)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        value: T = result
        return value

    def until(self, condition: Any, seconds: float = 30.0) -> None:
        """Run until ``condition()`` is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s"
            self.turn()

    def sleep(self, seconds: float) -> None:
        """Run for some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.turn(0.01)


@contextmanager
def own_reactor() -> Iterator[OwnReactor]:
    """Make a reactor, and close it at the end."""
    make: Any = OwnReactor
    reactor: OwnReactor = make()
    # Without this nothing is resolved or started; no signal handler is touched.
    reactor.startRunning(installSignalHandlers=False)
    try:
        yield reactor
    finally:
        reactor.fireSystemEvent("shutdown")
        for _ in range(3):
            reactor.turn(0)
        reactor._ended = True
        reactor.disconnectAll()
        waker = reactor.waker
        if waker is not None:
            waker.connectionLost(None)
        reactor._poller.close()
