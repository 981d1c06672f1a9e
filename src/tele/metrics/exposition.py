"""How do numbers become the text that Prometheus reads?

Invariants:

* One family for each name, with all its samples, in the order of the catalogue.
* ``prometheus-client`` is imported when the numbers are read for the first time, in a thread: a
  part whose numbers are not read has no such module in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tele.measures.catalogue import CATALOGUE
from tele.measures.metric import Histogram, Kind, Sample

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_ORDER: Final = {name: number for number, name in enumerate(CATALOGUE)}


def families(samples: Iterable[Sample]) -> Iterator[Family]:
    """Return the families of ``samples``, as ``prometheus-client`` knows them."""
    from prometheus_client import metrics_core as core

    classes: Any = {
        Kind.COUNTER: core.CounterMetricFamily,
        Kind.GAUGE: core.GaugeMetricFamily,
        Kind.HISTOGRAM: core.HistogramMetricFamily,
    }
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.metric.name, []).append(sample)
    for name in sorted(by_name, key=_ORDER.__getitem__):
        metric = by_name[name][0].metric
        family = classes[metric.kind](name, metric.meaning, labels=metric.labels)
        for sample in by_name[name]:
            if isinstance(sample.value, Histogram):
                value = sample.value
                family.add_metric(sample.labels, value.cumulative, value.total)
            else:
                family.add_metric(sample.labels, sample.value)
        yield family


class Exposition:
    """Renders numbers. Made in a thread: it imports, and looks at the process for the first time.

    The numbers of the process itself (CPU, memory, descriptors) follow those of tele.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition

        self._process = ProcessCollector(registry=None)
        self._registry = CollectorRegistry
        self._choose: Any = exposition.choose_encoder

    def render(self, samples: Iterable[Sample], accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the form that ``accept`` prefers."""
        found = [*families(samples), *self._process.collect()]
        registry = self._registry(auto_describe=False)
        registry.register(_Read(found))
        encode, content_type = self._choose(accept)
        return encode(registry), content_type


class _Read:
    """A collector of families that were read already."""

    def __init__(self, found: list[Family]) -> None:
        self._found = found

    def collect(self) -> list[Family]:
        """See ``prometheus_client.registry.Collector``."""
        return self._found

    def describe(self) -> list[Family]:
        """See ``prometheus_client.registry.Collector``: nothing is registered twice."""
        return []
