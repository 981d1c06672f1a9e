"""Bounded runs of the engine's fuzz targets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_kexinit
import fuzz_packets
import fuzz_server

RUNS = settings(max_examples=200, deadline=None)


@RUNS
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: b"\0\0\0\x0c\4" + b))
def test_packets(data: bytes) -> None:
    """Arbitrary bytes against every packet format."""
    fuzz_packets.check(data)


@RUNS
@given(st.data())
def test_kexinit(data: st.DataObject) -> None:
    """A good KEXINIT with arbitrary bytes in the middle of it."""
    seed = fuzz_kexinit.SEED
    at = data.draw(st.integers(0, len(seed)))
    gone = data.draw(st.integers(0, 20))
    fuzz_kexinit.check(seed[:at] + data.draw(st.binary(max_size=40)) + seed[at + gone :])


NUMBERS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 20, 21, 30, 50, 60, 80, 90, 94, 98, 192, 255])
MESSAGES = st.tuples(NUMBERS, st.binary(max_size=100)).map(lambda m: bytes((m[0],)) + m[1])


@settings(RUNS, max_examples=100)
@given(
    st.binary(max_size=200).map(lambda b: b"SSH-2.0-x\r\n" + b) | st.binary(max_size=200),
    st.lists(MESSAGES, max_size=8),
)
def test_server(plain: bytes, sealed: list[bytes]) -> None:
    """Arbitrary bytes and messages against a whole server."""
    fuzz_server.check(plain, sealed)
