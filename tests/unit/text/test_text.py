"""Text of a peer, as a terminal or a log gets it."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.text import MARKS_LIMIT, printable, printable_json, printable_lines

ANY_TEXT = st.text(st.characters(codec=None, categories=None))


@given(ANY_TEXT)
def test_any_text_becomes_one_printable_line(text: str) -> None:
    """No text has a character left that a terminal obeys, and none becomes two lines."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


def test_every_character_of_unicode_is_shown_or_escaped() -> None:
    """Control, format, surrogate, private, unassigned and line-ending characters are escaped;
    letters, digits, signs and accents are not.
    """
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        shown = printable(character)
        if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            assert shown.startswith("\\"), hex(code)
        elif category == "Zs":
            assert shown == " "
        else:
            assert shown == character or (shown.startswith("\\") and len(shown) >= 6), hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("admin\u202enimda", "admin\\u202enimda"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("one\ntwo\r\u2028three\x85", "one\\x0atwo\\x0d\\u2028three\\x85"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half\ud800", "half\\ud800"),
        ("hidden\ufe01\U000e0100\u3164", "hidden\\ufe01\\U000e0100\\u3164"),
        ("no\xa0break", "no break"),
        ("Zürich 東京 ไทย हिन्दी ❤️", "Zürich 東京 ไทย हिन्दी ❤️"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    """Sequences, turned text, hidden characters and line ends show as what they are; languages
    stay readable.
    """
    assert printable(text) == shown


def test_no_letter_has_a_flood_of_accents() -> None:
    """Accents that would grow over the lines above and below are escaped."""
    shown = printable("e" + "\u0301" * 100)
    assert sum(map(unicodedata.combining, shown)) == MARKS_LIMIT * unicodedata.combining("\u0301")
    assert printable("e\u0301" * 100) == "e\u0301" * 100


def test_lines_stay_lines() -> None:
    """A text of several lines keeps them, and gets no other."""
    assert printable_lines("one\r\ntwo\nthree\x0bfour\r") == "one\ntwo\nthree\\x0bfour\\x0d"


@given(ANY_TEXT)
def test_json_only_shows_and_means_the_same(text: str) -> None:
    """JSON for programs is ASCII without a control, and reads back as it was."""
    written = printable_json({text: text})
    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written) == {text: text}
