"""Which keys bytes of a terminal mean, in each of its modes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.terminal.keys import KeyReader


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q \x03", ["q", " ", "\x03"]),
        (b"\x1b[D\x1b[C\x1b[A\x1b[B\x1b[H\x1b[F", ["left", "right", "up", "down", "home", "end"]),
        (b"\x1bOD\x1bOC\x1bOA\x1bOB\x1bOH\x1bOF", ["left", "right", "up", "down", "home", "end"]),
        (b"\x1b[1;5D\x1b[1;2C\x1b[1~\x1b[4~", ["left", "right", "home", "end"]),
        (b"\x1bOk\x1bOm\x1bOn\x1bOr\x1bOx", ["+", "-", ".", "2", "8"]),
        (b"\x1b[113u\x1b[32;1u\x1b[99;5u\x1b[113;1:3u", ["q", " ", "\x03"]),
        (b"\x1b[1;1:1D\x1b[1;1:3D", ["left"]),
        (b"\x1b[M qqq\x1b[Mqqq", ["q"]),
        (b"\x1b[<35;20;3M\x1b[<0;20;3mq", ["q"]),
        (b"\x1b[113'u\x1b[;5u\x1b[113;;113u", ["q"]),
        (b"\x1b[I\x1b[Oq", ["q"]),
        (b"\x1b[200~2/q\x07\x1b[201~ ", ["2", "/", "q", " "]),
        (b"\x1b[200~\x1b[D\x1b\x1b[201~ ", ["[", "D", " "]),
        (b"\x1b[13u\x1b[127u\x1b[27;5;99~\x1b[27;1;47~\x1bOM", ["\r", "\x7f", "\x03", "/", "\r"]),
        (b"\x1b[?62;c\x1b[24;80R\x1b[3~\x1b[15~q", ["q"]),
        (b"\x1b\x1b[D", ["left"]),
        (b"\x1bq", ["q"]),
        (b"\x1b[\xff" + b"q", ["[", "\xff", "q"]),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    """All that a terminal sends is read; only keys come out, the same in whatever pieces."""
    assert KeyReader().feed(data) == keys
    reader = KeyReader()
    assert [key for n in range(len(data)) for key in reader.feed(data[n : n + 1])] == keys


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(data: bytes) -> None:
    """Nothing waits for ever: after an end of paste and some letters keys count again."""
    reader = KeyReader()
    reader.feed(data)
    reader.feed(b"\x1b[201~" + b"\x18" * 80)
    assert reader.feed(b"qq")[-1] == "q"
