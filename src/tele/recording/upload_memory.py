"""How much of the spool is in memory while it is uploaded?

Chunks of many recordings are sent with few calls (:mod:`tele.recording.sending`), so many of them
have to be in memory at once: many short ones, or few long ones.

Invariant: what was read and is not answered yet has at most the limit, or is one group of chunks.
Who waits longest is next.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, succeed


class UploadMemory:
    """Counts bytes up to ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self._used

    def take(self, size: int) -> Deferred[None]:
        """Fire when ``size`` bytes are taken; :meth:`give` returns them."""
        if not self._waiting and self._fits(size):
            self._used += size
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append((size, waiting))
        return waiting

    def give(self, size: int) -> None:
        """Return bytes that were taken."""
        self._used -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, waiting = self._waiting.popleft()
            self._used += size
            waiting.callback(None)

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._limit
