"""SSH values to bytes and back, strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import ProtocolError
from tele.wire.fields import NAMES_LIMIT, Reader, boolean, mpint, name_list, string, uint32


@pytest.mark.parametrize(
    ("magnitude", "encoded"),
    [
        ("", "00000000"),
        ("00", "00000000"),
        ("0000", "00000000"),
        ("09a378f9b2e332a7", "0000000809a378f9b2e332a7"),
        ("80", "000000020080"),
        ("0080", "000000020080"),
        ("7f", "000000017f"),
    ],
)
def test_mpint_examples(magnitude: str, encoded: str) -> None:
    """The unsigned examples of RFC 4251, section 5, and numbers with zeros before them."""
    assert mpint(bytes.fromhex(magnitude)).hex() == encoded


@given(st.binary(), st.integers(0, 2**32 - 1), st.booleans(), st.binary())
def test_round_trip(first: bytes, number: int, flag: bool, last: bytes) -> None:
    """What the writers wrote, the reader reads, to its end."""
    reader = Reader(string(first) + uint32(number) + boolean(flag) + string(last))
    assert reader.string() == first
    assert reader.uint32() == number
    assert reader.boolean() is flag
    assert not reader.at_end()
    assert reader.string() == last
    reader.end()


@given(st.binary(min_size=1), st.data())
def test_every_cut_is_refused(content: bytes, data: st.DataObject) -> None:
    """A string that lost any of its bytes is refused, never returned short."""
    whole = string(content)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        Reader(whole[:cut]).string()


def test_trailing_bytes_are_refused() -> None:
    """A message has nothing after its last field."""
    reader = Reader(b"\0\0\0\1ab")
    assert reader.string() == b"a"
    with pytest.raises(ProtocolError):
        reader.end()
    assert reader.rest() == b"b"


def test_limits() -> None:
    """A field longer than allowed, a text that is none and endless name-lists are refused."""
    with pytest.raises(ProtocolError):
        Reader(string(b"abc")).string(2)
    with pytest.raises(ProtocolError):
        Reader(string(b"\xff")).text()
    names = tuple(b"x%d" % i for i in range(NAMES_LIMIT))
    assert Reader(name_list(names)).name_list() == names
    with pytest.raises(ProtocolError):
        Reader(name_list((*names, b"one-more"))).name_list()


def test_empty_name_list() -> None:
    """An empty name-list has no names, not one empty name."""
    assert Reader(name_list(())).name_list() == ()


def test_numbers() -> None:
    """Bytes and 64-bit numbers are big-endian."""
    reader = Reader(b"\x07" + (2**40 + 5).to_bytes(8, "big"))
    assert reader.byte() == 7
    assert reader.uint64() == 2**40 + 5
    assert reader.at_end()
