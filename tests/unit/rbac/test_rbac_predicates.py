"""Expressions of roles: what they say, and what is refused when a role is written."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput
from tele.rbac.labels import VOCABULARY
from tele.rbac.predicates import DEPTH_LIMIT, LENGTH_LIMIT, SIZE_LIMIT, condition, value
from tele.rbac.replacing import TEXT_LIMIT, replacement
from tele.rbac.templates import TRAITS

FACTS: Final[dict[str, Any]] = {
    "labels": {"env": "prod", "team": "db", "a b": "x", "Mail": "Ann@Example.com"},
    "user.name": "alice",
    "user.roles": ("dev", "oncall"),
    "user.traits": {"team": ("db", "web"), "mail": ("ann@example.com", "no address")},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('labels.env == "prod"', True),
        ("labels.env == 'prod'", True),
        ('labels.env != "prod"', False),
        ('labels["a b"] == "x"', True),
        ('labels.gone == ""', True),
        ('user.name == "alice" && labels.env == "test"', False),
        ('user.name == "bob" || labels.env == "prod"', True),
        ('labels.env == "test" && user.name == "bob" || user.name == "alice"', True),
        ('labels.env == "test" && (user.name == "bob" || user.name == "alice")', False),
        ('!(labels.env == "test")', True),
        ('!!contains(user.roles, "dev")', True),
        ("contains(user.traits.team, labels.team)", True),
        ("contains(user.traits.gone, labels.team)", False),
        ("contains_any(user.roles, set('dev', 'ops'))", True),
        ("contains_any(user.roles, user.traits.gone)", False),
        ("contains_all(user.roles, set('dev', 'ops'))", False),
        ("contains_all(user.roles, set('dev', user.roles))", True),
        ("contains_all(user.roles, user.traits.gone)", False),
        ('glob.match(labels.env, "pr*")', True),
        ('regexp.match(user.roles, "^on.*$")', True),
        ('regexp.match(labels.env, "^x$")', False),
        ('regexp.replace(labels.env, "^(.)(.*)$", "$2$1") == "rodp"', True),
        ('regexp.replace(labels.env, "^x$", "y") == ""', True),
        ('contains(email.local(user.traits.mail), "ann")', True),
        ('contains(email.local(user.traits.mail), "no address")', False),
        ('strings.lower(labels.Mail) == "ann@example.com"', True),
        ('strings.upper(labels.env) == "PROD"', True),
        (r'"a\"b" == "a\"b"', True),
    ],
)
def test_what_expressions_say(text: str, expected: bool) -> None:
    """Conditions are true or false; what does not exist is empty."""
    assert condition(text, VOCABULARY)(FACTS) is expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it ends where a name"),
        ("labels.env", "it has to be a condition, and is a text"),
        ("labels", "a key, as in labels.key"),
        ("labels.env ==", "it ends where"),
        ('labels.env = "x"', "unexpected '=' at 11"),
        ('env == "x"', "unknown name 'env' at 0: there are labels"),
        ('user == "x"', "a name is expected|unknown name"),
        ('user.names == "x"', "unknown name 'user.names'"),
        ("contains(user.roles)", "takes 2 arguments, not 1"),
        ("set() == set()", "takes 1 arguments, not 0"),
        ("contains(user.roles, user.roles)", "argument 2 of contains\\(\\) has to be a text"),
        ('user.roles == "dev"', "what is compared with == or != has to be a text"),
        ("!user.name", "what stands after ! has to be a condition"),
        ('user.name && labels.env == "x"', "each side of && has to be a condition"),
        ("regexp.match(labels.env, user.name)", "has to be written in quotes"),
        ('regexp.match(labels.env, "^(a$")', "is no regular expression"),
        ('regexp.match(labels.env, "a")', "it has to begin with"),
        ('regexp.replace(labels.env, "^a$", "$1")', "has no group 1"),
        ('regexp.replace(labels.env, "^a$", "$")', "after \\$ a number"),
        ('(labels.env == "x"', "it ends where '\\)' is expected"),
        ('labels.env == "x") ', "unexpected '\\)'"),
        ('labels.env == "x', "unexpected '\"' at 14"),
        ("__import__('os')", "unknown name '__import__'"),
        ('labels.env == "x" == "y"', "unexpected '=='"),
        ("(" * (DEPTH_LIMIT + 1), "nested more than"),
        ("!" * (SIZE_LIMIT + 1), "words and signs"),
        ("x" * (LENGTH_LIMIT + 1), "characters"),
    ],
)
def test_mistakes_are_refused_with_their_place(text: str, why: str) -> None:
    """A name, a type or a pattern that cannot be right is found before it decides something."""
    with pytest.raises(InvalidInput, match=why):
        condition(text, VOCABULARY)


def test_a_condition_is_no_value_and_reads_only_its_vocabulary() -> None:
    """A template reads traits; labels are not its business."""
    with pytest.raises(InvalidInput, match="it has to be a text or several texts"):
        value('contains(internal.a, "b")', TRAITS)
    with pytest.raises(InvalidInput, match="unknown name"):
        value("labels.env", TRAITS)


@pytest.mark.parametrize(
    ("pattern", "by", "text", "expected"),
    [
        ("^(.*)@example[.]com$", "$1", "ann@example.com", "ann"),
        ("^(.*)@example[.]com$", "$1", "ann@example.org", None),
        ("^(a+)(a*)$", "$2-$1", "aaa", "-aaa"),
        ("^(?:x|(y))z$", "[$1]", "xz", "[]"),
        ("^(?:x|(y))z$", "${1}1$$", "yz", "y1$"),
        ("^.*$", "$0!", "b", "b!"),
        ("^(.*)$", "$1", "{{internal.x}}$1", "{{internal.x}}$1"),
    ],
)
def test_replacements(pattern: str, by: str, text: str, expected: str | None) -> None:
    """Groups stand for what they matched; nothing comes of a text that is not covered."""
    assert replacement(pattern, by)(text) == expected


def test_a_long_text_matches_nothing() -> None:
    """The cost of a replacement is bounded by the text, too."""
    assert replacement("^.*$", "x")("a" * TEXT_LIMIT) == "x"
    assert replacement("^.*$", "x")("a" * (TEXT_LIMIT + 1)) is None


PIECES: Final = st.sampled_from(
    ["(a)", "(b|ab)", "(a*)", "b+", "(a|b)", "(?:a(b))?", "[ab]", "(.+)"]
)


@given(st.lists(PIECES, min_size=1, max_size=5), st.text(alphabet="ab", max_size=8))
def test_groups_are_those_of_python(pieces: list[str], text: str) -> None:
    """Where several groups could have a character, the same one has it."""
    inside = "".join(pieces)
    groups = re.compile(inside).groups
    by = "|".join(f"${number}" for number in range(1, groups + 1))
    found = re.fullmatch(inside, text, re.DOTALL)
    expected = None if found is None else "|".join(each or "" for each in found.groups())
    assert replacement(f"^{inside}$", by)(text) == expected
