"""How does a test set the wall clock, apart from the time that passes?"""

from __future__ import annotations

from twisted.internet.task import Clock


class SettableClock(Clock):
    """A fake clock whose wall clock can be set without effect on ``seconds()`` and timers."""

    def __init__(self) -> None:
        super().__init__()
        self._set_by = 0.0

    def wall_seconds(self) -> float:
        """Return the wall clock in Unix time, as :func:`tele.loop.now` reads it."""
        return self.seconds() + self._set_by

    def set_wall(self, by: float) -> None:
        """Move the wall clock by ``by`` seconds, back if that is negative."""
        self._set_by += by
