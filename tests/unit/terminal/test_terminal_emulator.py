"""How output appears on a screen, and that only characters and attributes leave it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.terminal.dump import dump
from tele.terminal.emulator import Emulator
from tele.terminal.line import draw
from tele.terminal.screen import COLUMNS_LIMIT, HISTORY_LINES, ROWS_LIMIT, Screen

#: All that :func:`draw` may write beside characters: attributes, and a column.
ALLOWED = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-9]+G")
#: Pieces of what programs write, for the search for counterexamples.
PIECES = st.sampled_from(
    [
        *(b"text", b"\r", b"\n", b"\t", b"\b", b"\x0e", b"?", b";", b"\x18"),
        *(
            b"\xc3\xb6",
            b"\xe4\xb8\xad",
            b"\xcc\x81",
            b"\xe2\x80\xae",
            b"\xff",
            b"\x9b",
            b"\xc2\x9b",
        ),
        *(b"\x1b", b"\x1b[", b"\x1b]0;t", b"\x07", b"\x1b\\", b"\x1bP", b"\x1b(0", b"\x1b#8"),
        *(b"\x1b7", b"\x1b8", b"\x1bc", b"\x1bM", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?6h"),
        *(b"\x1b[?7l", b"\x1b[4h", b"\x1b[H", b"\x1b[2J", b"\x1b[5;9H", b"\x1b[K", b"\x1b[3;7r"),
        *(b"\x1b[9L", b"\x1b[9M", b"\x1b[4@", b"\x1b[4P", b"\x1b[4X", b"\x1b[99b", b"\x1b[9S"),
        *(b"\x1b[9T", b"\x1b[1;31m", b"\x1b[38;2;1;2;3m", b"\x1b[48:2::1:2:3m"),
    ]
)


def shown(data: bytes, columns: int = 20, rows: int = 5) -> list[str]:
    """Return the lines that a screen shows after ``data``, without blanks at their ends."""
    emulator = Emulator(Screen(columns, rows))
    emulator.feed(data)
    return ["".join(line.texts).rstrip() for line in emulator.screen.lines]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\r\ntwo", ["one", "two"]),
        (b"one\ntwo", ["one", "   two"]),
        (b"x" * 20 + b"y", ["x" * 20, "y"]),
        (b"x" * 20 + b"\r\nz", ["x" * 20, "z"]),
        (b"\x1b[?7l" + b"x" * 25 + b"y", ["x" * 19 + "y"]),
        (b"a\x1b[3;5Hb\x1b[1;2Hc", ["ac", "", "    b"]),
        (b"1\r\n2\r\n3\r\n4\r\n5\r\n6", ["2", "3", "4", "5", "6"]),
        (b"1\r\n2\r\n3\x1b[2;3r\x1b[3;1H\nx", ["1", "3", "x"]),
        (b"1\r\n2\x1b[H\x1bM0", ["0", "1", "2"]),
        (b"abcdef\x1b[3G\x1b[2P", ["abef"]),
        (b"abcdef\x1b[3G\x1b[2@", ["ab  cdef"]),
        (b"abcdef\x1b[3G\x1b[2X", ["ab  ef"]),
        (b"abcdef\x1b[3G\x1b[K", ["ab"]),
        (b"abcdef\x1b[3G\x1b[1K", ["   def"]),
        (b"1\r\n2\r\n3\x1b[2;1H\x1b[L", ["1", "", "2", "3"]),
        (b"1\r\n2\r\n3\x1b[2;1H\x1b[M", ["1", "3"]),
        (b"ab\x1b[4h\x1b[Gx", ["xab"]),
        (b"-\x1b[5b", ["------"]),
        (b"\x1b(0lqk\x1b(B|", ["┌─┐|"]),
        (b"\x1b)0\x0eq\x0fq", ["─q"]),
        ("ab\x1b[2D中".encode(), ["中"]),
        ("中x\x1b[2Gy".encode(), [" yx"]),
        ("e\u0301x".encode(), ["e\u0301x"]),
        (b"main\x1b[?1049h\x1b[Hother\x1b[?1049l!", ["main!"]),
        (b"\x1b7ab\x1b[31m\x1b8c", ["cb"]),
        (b"a\tb\x1b[3g\x1b[5G\tc", ["a       b          c"]),
        (b"\x1b]0;title\x07a\x1b]52;c;YQ==\x1b\\b\x1bPq\x1b\\c\x1bktitle\x1b\\d", ["abcd"]),
        (b"a\x1b[c\x1b[5n\x1b[6n\x1b[21t\x1b[>q\x1b[?1$pb\x05c", ["abc"]),
        (b"a\x1b[12\x18b", ["ab"]),
        (b"a\xe2\x80\xaeb", ["ab"]),
    ],
)
def test_what_is_shown(data: bytes, lines: list[str]) -> None:
    """Each control function that programs use does on the screen what xterm does; the others, and
    those that ask for an answer, do nothing.
    """
    found = shown(data)
    assert found[: len(lines)] == lines
    assert not any(found[len(lines) :])


@pytest.mark.parametrize(
    ("sgr", "style"),
    [
        ("1;31", "1;31"),
        ("1;22;4;24", ""),
        ("38;5;200;48;2;1;2;3", "38;5;200;48;2;1;2;3"),
        ("38:2::9:8:7", "38;2;9;8;7"),
        ("38;5", ""),
        ("38;2;300;0;0;7", "7"),
        ("4:3;97;104", "4;97;104"),
        ("1;;32", "32"),
        ("38", ""),
        ("4;4:0", ""),
    ],
)
def test_attributes(sgr: str, style: str) -> None:
    """Colours and attributes are kept; an unknown one changes nothing."""
    emulator = Emulator(Screen(20, 1))
    emulator.feed(f"\x1b[{sgr}mx".encode())
    assert emulator.screen.lines[0].styles[0] == style


@given(st.lists(PIECES, max_size=40), st.lists(st.integers(0, 400), max_size=5))
def test_pieces_of_any_length_show_the_same(pieces: list[bytes], cuts: list[int]) -> None:
    """Wherever frames of a recording were cut, also within a character or a sequence."""
    data = b"".join(pieces)
    whole, parts = Emulator(Screen(12, 6)), Emulator(Screen(12, 6))
    whole.feed(data)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in pairwise(places):
        parts.feed(data[start:end])
        parts = parts.copy()  # and wherever the state was kept
    assert [line.texts for line in whole.screen.lines] == [
        line.texts for line in parts.screen.lines
    ]


@given(st.lists(PIECES, max_size=60), st.integers(0, 12), st.integers(0, 12), st.integers(1, 30))
def test_only_characters_and_attributes_come_out(
    pieces: list[bytes], start: int, length: int, columns: int
) -> None:
    """Whatever is fed and however the size changes, what is drawn has no other control function,
    fits into its cells, and turns no text around.
    """
    emulator = Emulator(Screen(12, 6))
    for piece in pieces[: len(pieces) // 2]:
        emulator.feed(piece)
    emulator.screen.resize(columns, 12 - start or 1)
    for piece in pieces[len(pieces) // 2 :]:
        emulator.feed(piece)
    screen = emulator.screen
    assert 0 <= screen.row < screen.rows == len(screen.lines)
    assert 0 <= screen.column < screen.columns == columns
    for line in [*screen.lines, *screen.main_lines()]:
        assert len(line.texts) == len(line.styles)
        end = min(start + length, len(line.texts))
        text = draw(line, start, end)
        plain = ALLOWED.sub("", text)
        assert all(c.isprintable() for c in plain), text
        assert "\x1b" not in plain
        assert len(re.sub("[\u0301]", "", plain)) <= max(0, end - start)


def test_what_a_recording_claims_is_bounded() -> None:
    """Sizes, counts, marks and what left the screen cost no more memory than their limits."""
    screen = Screen(2**40, 2**40)
    assert (screen.columns, screen.rows) == (COLUMNS_LIMIT, ROWS_LIMIT)
    screen.resize(-1, 0)
    assert (screen.columns, screen.rows) == (1, 24)
    screen.resize(10, 3)
    emulator = Emulator(screen)
    emulator.feed(b"e" + "\u0301".encode() * 10_000)
    assert len(screen.lines[0].texts[0]) < 10
    emulator.feed(b"\x1b[99999999999999999999L\x1b[99999999999b" + b"\x1b[" + b"1;" * 100_000)
    emulator.feed(b"\r\n".join(b"%d" % n for n in range(5000)))
    assert len(screen.history) == HISTORY_LINES
    assert "".join(screen.main_lines()[-1].texts).strip() == "4999"


def test_a_smaller_screen_keeps_the_lines_at_the_cursor() -> None:
    """Lines below the cursor go first, then those at the top, which are kept as history."""
    emulator = Emulator(Screen(10, 4))
    emulator.feed(b"1\r\n2\r\n3\r\n4\x1b[3;1H")
    emulator.screen.resize(10, 2)
    assert ["".join(line.texts).strip() for line in emulator.screen.main_lines()] == ["1", "2", "3"]
    assert emulator.screen.row == 1


@given(
    st.lists(PIECES, max_size=8), st.integers(1, 30), st.integers(1, 12), st.integers(1, 5)
)  # fmt: skip
def test_attack_repetitions_are_printed_row_by_row(
    pieces: list[bytes], count: int, columns: int, rows: int
) -> None:
    """Eight bytes repeat a character thousands of times, and a session has as many of them as it
    likes: who replays it waited for hours. The screen is the same as with one after the other.
    """
    at_once, one_by_one = (Emulator(Screen(columns, rows)) for _ in range(2))
    for emulator in (at_once, one_by_one):
        emulator.feed(b"".join(pieces) + b"\x18")
    at_once.screen.repeat(count)
    other = one_by_one.screen
    for _ in range(min(count, columns * rows)):
        other._print_one(other._last)
    for emulator in (at_once, one_by_one):
        emulator.feed(b"z")
    assert dump(at_once.screen) == dump(other)
    assert [line.texts for line in at_once.screen.history] == [line.texts for line in other.history]
