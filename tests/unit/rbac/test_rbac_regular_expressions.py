"""Regular expressions of roles: they mean what Python's mean, and cannot be made to hang."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tele.errors import InvalidInput
from tele.rbac.regular_expressions import LENGTH_LIMIT, expression


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^$", [""], ["a"]),
        ("^prod$", ["prod"], ["prod1", "xprod", "", "prod\n"]),
        ("^(prod|staging)-[0-9]+$", ["prod-1", "staging-42"], ["prod-", "dev-1", "prod-1x"]),
        ("^us-.*$", ["us-", "us-west-1"], ["eu-us-1"]),
        ("^a?b{2,3}$", ["bb", "abb", "abbb"], ["ab", "abbbb"]),
        ("^b{2,}$", ["bb", "bbbbb"], ["b"]),
        ("^b{2}$", ["bb"], ["b", "bbb"]),
        (r"^\d\w\s\D\W\S$", ["1_ a-x"], ["a_ a-x"]),
        (r"^a\.b\$$", ["a.b$"], ["axb$"]),
        ("^[]a-c-]$", ["]", "a", "b", "-"], ["d", ""]),
        ("^[^a-c]$", ["d", "\n"], ["b", ""]),
        (r"^[\d.]+$", ["1.2"], ["a"]),
        ("^(?:ab)*$", ["", "abab"], ["aba"]),
        ("^(a*)*$", ["", "aaa"], ["b"]),
        ("^(|a)(|b)$", ["", "a", "b", "ab"], ["ba"]),
    ],
)
def test_what_expressions_mean(pattern: str, good: list[str], bad: list[str]) -> None:
    """A pattern covers whole texts only."""
    compiled = expression(pattern)
    assert [text for text in good if not compiled.covers(text)] == []
    assert [text for text in bad if compiled.covers(text)] == []


@pytest.mark.parametrize(
    "bad",
    [
        "a", "^a", "a$", "^", "^(a$", "^a)$", "^[a$", "^*$", "^a**$", "^a*?$", "^a{3,2}$", "^a{x}$",
        "^a{101}$", "^(?=a)$", "^(?P<n>a)$", r"^\1$", r"^\b$", "^a\\$", "^a^b$", "^[z-a]$", "^{2}$",
        "^" + "a" * LENGTH_LIMIT + "$", "^((a{50}){50}){50}$", "^" + "(" * 30 + ")" * 30 + "$",
    ],
)  # fmt: skip
def test_what_is_refused(bad: str) -> None:
    """Malformed, unsupported and oversized expressions are errors, never guesses."""
    with pytest.raises(InvalidInput, match="no regular expression"):
        expression(bad)


@pytest.mark.parametrize(
    "evil", ["^(a+)+$", "^(a|a)*$", "^(a*)*b$", "^(.*.*.*.*)*x$", "^(a?){50}$"]
)
def test_no_expression_hangs(evil: str) -> None:
    """What stops a matcher that goes back is one walk over the text here."""
    compiled = expression(evil)
    visited = 0

    class Counted(str):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal visited
            for character in str.__iter__(self):
                visited += 1
                yield character

    compiled.covers(Counted("a" * 5000 + "!"))
    assert visited <= 5001


atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(?:a|b)", "(a*b)", "(b|)"])
counts = st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}"])
patterns = st.lists(st.tuples(atoms, counts).map("".join), max_size=5).map("".join)


@settings(max_examples=300)
@given(patterns, st.text(alphabet="abc", max_size=8))
def test_agrees_with_python(pattern: str, text: str) -> None:
    """Where both understand a pattern, both say the same."""
    expected = re.fullmatch(pattern, text, re.DOTALL) is not None
    assert expression(f"^{pattern}$").covers(text) is expected


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    """No pattern does anything but compile or be refused."""
    with suppress(InvalidInput):
        expression(f"^{text}$").covers("abc")
