"""Bounded runs of the fuzz targets of ways in and out."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_way_out

RUNS = settings(max_examples=200, deadline=None)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with arbitrary bytes in places."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 6))
        data = data[:at] + draw(st.binary(max_size=10)) + data[at + gone :]
    return data


@RUNS
@given(damaged(fuzz_way_out.SEEDS) | st.binary(max_size=200))
def test_way_out(data: bytes) -> None:
    """A proxy of the network that says anything."""
    fuzz_way_out.check(data)
