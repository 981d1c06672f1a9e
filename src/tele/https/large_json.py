"""Where are large requests and responses read and written? In a thread, a caller's one at a time.

The manifest of a session of a day has 60,000 chunks: to read it takes more than a second.

Invariants:

* The reactor waits for no more than :data:`LARGE` bytes of JSON.
* Callers are served in turn; one of them has at most :data:`WAITING` that wait.
* What runs in the thread is Python: it lets the reactor go on in between, within milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

from tele.workers import Workers

T = TypeVar("T")

#: Bytes of JSON that are read and written where they are needed; and those of an item in a list.
LARGE: Final = 256 * 1024
ITEM: Final = 100
#: Of one caller.
WAITING: Final = 64
SECONDS: Final = 60.0


class LargeJson:
    """Calls functions in a thread.

    Without a reactor, or with a clock that takes no calls from threads, they are called at once.
    """

    def __init__(self, reactor: IReactorTime | None = None) -> None:
        self._workers: Workers | None = None
        if reactor is not None and IReactorFromThreads.providedBy(reactor):
            self._workers = Workers(
                reactor, "large JSON", threads=1, share=1, waiting=WAITING, seconds=SECONDS
            )

    def call(self, key: str, size: int, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Return ``function(*arguments)`` on ``size`` bytes of JSON, for the caller ``key``.

        Up to :data:`LARGE` it is called at once. Fails as the function does, or with
        :class:`Unavailable` when too many calls wait.
        """
        if self._workers is None or size <= LARGE:
            return maybeDeferred(function, *arguments)
        return self._workers.call(key, function, *arguments)

    def close(self) -> None:
        """End its thread."""
        if self._workers is not None:
            self._workers.close()
