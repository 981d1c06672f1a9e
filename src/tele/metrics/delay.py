"""How late is the event loop? A timer each second, and by how much it is late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.measures import catalogue
from tele.measures.metric import Histogram, Sample

#: Seconds between two measurements.
PERIOD: Final = 1.0


class LoopDelay:
    """Measures ``clock``."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._histogram = Histogram()
        self._timer: IDelayedCall | None = None
        self._due = 0.0

    def start(self) -> None:
        """Measure from now on, until :meth:`stop`."""
        self._due = self._clock.seconds() + PERIOD
        self._timer = self._clock.callLater(PERIOD, self._measure)

    def stop(self) -> None:
        """Measure no more. May be called twice, and before :meth:`start`."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _measure(self) -> None:
        self._histogram.observe(self._clock.seconds() - self._due)
        self.start()

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield catalogue.DELAY.at(self._histogram)
