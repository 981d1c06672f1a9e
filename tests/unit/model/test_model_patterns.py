"""Globs: what they mean, and that no pattern and no text makes them slow."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from counting import calls, is_linear
from tele.model.patterns import matches

SOME = st.text("ab*?", max_size=12)


@given(SOME, st.text("ab", max_size=16))
def test_a_glob_matches(pattern: str, text: str) -> None:
    """A star is any characters, a question mark one, and nothing else is special."""
    same = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert matches(pattern, text) == (re.fullmatch(same, text, re.DOTALL) is not None)


def test_other_characters_are_themselves() -> None:
    """Brackets, backslashes and line ends are no syntax."""
    assert matches("[a]\\*\n?", "[a]\\x\ny")
    assert not matches("[a]", "a")
    assert matches("*", "")
    assert not matches("?", "")
    assert not matches("a*a", "a")


def test_matching_is_linear_in_pattern_and_text() -> None:
    """Twice as long a text and a pattern made to try again and again are twice the work."""

    def work(size: int) -> int:
        piece = "a" * (size // 2)
        return calls(lambda: matches(f"*{piece}?b*{piece}?*", "a" * 4 * size))

    assert is_linear(work)
