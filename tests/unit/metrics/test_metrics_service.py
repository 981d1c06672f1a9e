"""The service that listens, measures and renders."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from twisted.internet.task import Clock

from tele.measures import catalogue
from tele.measures.metric import Histogram, Measured, Sample
from tele.metrics.delay import PERIOD, LoopDelay
from tele.metrics.exposition import Exposition
from tele.metrics.service import AGAIN_SECONDS, MetricsService, measured_of


class Part:
    """Has two numbers."""

    def samples(self) -> Iterator[Sample]:
        """See :class:`Measured`."""
        yield catalogue.LOGINS.at(3, "accepted", "")
        yield catalogue.LOGINS.at(2, "refused", 'a "quoted" \\ reason\nof two lines')
        times = Histogram()
        times.observe(0.002)
        yield catalogue.DIAL_SECONDS.at(times)


@pytest.mark.parametrize(
    ("accept", "read"), [("", read_text), ("application/openmetrics-text", read_openmetrics)]
)
def test_both_forms_are_read_by_the_library(accept: str, read: Any) -> None:
    """Names, labels with any text in them, and histograms."""
    body, content_type = Exposition().render(Part().samples(), accept)
    assert content_type.startswith(accept or "text/plain")
    families = {family.name: family for family in read(body.decode())}
    logins = {sample.labels["reason"]: sample.value for sample in families["tele_logins"].samples}
    assert logins == {"": 3, 'a "quoted" \\ reason\nof two lines': 2}
    dials = families["tele_node_dial_seconds"]
    assert dials.type == "histogram"
    assert {s.labels["le"]: s.value for s in dials.samples if "le" in s.labels}["0.0025"] == 1
    assert "process_cpu_seconds" in families


def test_the_delay_of_the_loop() -> None:
    """A turn of the reactor that takes two seconds shows as a delay of one to two."""
    clock = Clock()
    delay = LoopDelay(clock)
    delay.start()
    clock.advance(PERIOD)
    clock.advance(PERIOD + 2.0)
    (sample,) = delay.samples()
    assert isinstance(sample.value, Histogram)
    assert sample.value.total == pytest.approx(2.0)
    assert sum(sample.value.counts) == 2
    delay.stop()
    assert clock.getDelayedCalls() == []


class Polling(Clock):
    """A clock that takes descriptors, and polls none."""

    def addReader(self, reader: object) -> None:
        """Do nothing."""

    addWriter = removeReader = removeWriter = addReader


def service(reactor: Any, port: int) -> MetricsService:
    return MetricsService(reactor, "node", ("127.0.0.1", port), lambda: "", lambda: [Part()])


def test_an_address_that_is_taken() -> None:
    """The part serves nevertheless; the numbers are there when the address is free again."""
    reactor = Polling()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        made = service(reactor, other.getsockname()[1])
        made.startService()
        assert made.port == 0
    reactor.advance(AGAIN_SECONDS)
    assert made.port
    made.stopService()
    reactor.advance(0)
    assert reactor.getDelayedCalls() == []


def test_what_has_no_numbers_is_left_out() -> None:
    """Recorders and archives of other packages need not count."""
    part = Part()
    assert measured_of(part, object(), None) == [part]
    assert isinstance(part, Measured)


def test_all_numbers_of_a_part_are_in_the_catalogue() -> None:
    """Those of the service itself come first; a part that does not serve is not ready."""
    reactor: Any = Polling()
    made = MetricsService(
        reactor, "node", ("127.0.0.1", 0), lambda: "starting", lambda: [Part()]
    )  # fmt: skip
    samples = list(made.samples())
    assert {sample.metric.name for sample in samples} <= set(catalogue.CATALOGUE)
    assert next(s.value for s in samples if s.metric is catalogue.READY) == 0
