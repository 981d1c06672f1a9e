"""How is something counted or measured on a hot path, at the cost of an addition?

Invariants:

* What peers send is no label: a label has few values, and a tally keeps at most :data:`LIMIT`
  of them; what comes after that is counted as :data:`OTHER`.
* A counter never decreases while the process runs.
* Nothing is added up, sorted or formatted before it is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from attrs import frozen

#: The most sets of labels of one tally.
LIMIT: Final = 100
#: The label of all others.
OTHER: Final = "other"
#: Upper bounds of the classes of a histogram, in seconds: 1 ms to 10 s.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Kind(str, Enum):
    """What a number does as time passes."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@frozen
class Metric:
    """One name of the catalogue; a counter's ends in ``_total``."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()

    def at(self, value: float | Histogram, *labels: str) -> Sample:
        """Return its value for these labels."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        return Sample(self, value, labels)


@frozen
class Sample:
    """A number that was read."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()


@runtime_checkable
class Measured(Protocol):
    """Something that has numbers."""

    def samples(self) -> Iterable[Sample]:
        """Return its numbers as they are now, in a few milliseconds, without a wait."""


class Tally:
    """Counts by labels."""

    __slots__ = ("_counts", "_labels")

    def __init__(self, labels: int = 1) -> None:
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Count one more, or ``count``."""
        counts = self._counts
        if labels not in counts and len(counts) >= LIMIT:
            labels = (OTHER,) * self._labels
        counts[labels] = counts.get(labels, 0) + count

    def samples(self, metric: Metric) -> Iterator[Sample]:
        """Return the counts as values of ``metric``."""
        for labels, count in self._counts.items():
            yield metric.at(count, *labels)


class Histogram:
    """Counts values by size."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        #: By class; the last one has what is greater than all bounds.
        self.counts = [0] * (len(self.bounds) + 1)
        #: The sum of the values.
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that is less than zero counts as zero."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def cumulative(self) -> list[tuple[str, int]]:
        """Up to each bound: how many values are not greater."""
        sum_, found = 0, []
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            sum_ += count
            found.append((bound, sum_))
        return found
