"""How does a test set a machine's clock while time passes?"""

from __future__ import annotations

from twisted.internet.task import Clock


class SettableClock(Clock):
    """A fake clock whose date can be set: ``seconds()`` and timers know nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self._set_by = 0.0

    def wall_seconds(self) -> float:
        """Return the date, in Unix time: what :func:`tele.loop.now` says."""
        return self.seconds() + self._set_by

    def set_wall(self, by: float) -> None:
        """Set the date ``by`` seconds forward, or back if that is less than 0."""
        self._set_by += by
