"""Counts and histograms, and the catalogue of their names."""

from __future__ import annotations

import re

import pytest

from tele.measures.catalogue import CATALOGUE, LOGINS, READY
from tele.measures.metric import LIMIT, OTHER, Histogram, Kind, Tally


def test_a_tally_is_bounded() -> None:
    """Labels that others choose cannot fill the memory of the program that stores them."""
    tally = Tally(2)
    for number in range(5 * LIMIT):
        tally.add("refused", f"reason {number}")
    tally.add("refused", "reason 0", count=2)
    found = {sample.labels: sample.value for sample in tally.samples(LOGINS)}
    assert len(found) == LIMIT + 1
    assert found["refused", "reason 0"] == 3
    assert found[OTHER, OTHER] == 4 * LIMIT


def test_a_histogram_counts_by_size() -> None:
    """A value on a bound is not greater than it; one below zero, of a clock, counts as zero."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.05, 0.5, 7.0, -1.0):
        histogram.observe(value)
    assert histogram.cumulative == [("0.1", 3), ("1.0", 4), ("+Inf", 5)]
    assert histogram.total == pytest.approx(7.65)


def test_a_value_has_the_labels_of_its_name() -> None:
    """A mistake shows where it is made, and not in a page that cannot be read."""
    with pytest.raises(ValueError, match="labels"):
        READY.at(1, "node")


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_names_are_as_prometheus_wants_them(metric: object) -> None:
    """Counters end in _total and others do not; units are written out; meanings are sentences."""
    found = CATALOGUE[metric.name]  # type: ignore[attr-defined]
    assert re.fullmatch(r"tele_[a-z]+(_[a-z]+)*", found.name)
    assert found.name.endswith("_total") == (found.kind is Kind.COUNTER)
    assert (found.kind is not Kind.HISTOGRAM) or found.name.endswith("_seconds")
    assert found.meaning.endswith(".")
