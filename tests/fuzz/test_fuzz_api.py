"""Bounded runs of the API's fuzz targets."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_api_answers
import fuzz_api_requests

RUNS = settings(max_examples=200, deadline=None)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> list[bytes]:
    """Some seeds one after the other, damaged in places, cut into pieces."""
    data = b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 10))
        data = data[:at] + draw(st.binary(max_size=10)) + data[at + gone :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@RUNS
@given(damaged(fuzz_api_answers.SEEDS) | st.lists(st.binary(max_size=60), max_size=4))
def test_answers(pieces: list[bytes]) -> None:
    """A server that sends anything."""
    fuzz_api_answers.check(pieces)


@RUNS
@given(damaged(fuzz_api_requests.SEEDS) | st.lists(st.binary(max_size=60), max_size=4))
def test_requests(pieces: list[bytes]) -> None:
    """A peer that sends anything."""
    fuzz_api_requests.check(pieces)
