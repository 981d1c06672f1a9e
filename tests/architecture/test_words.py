"""Names and texts use the terms of the field, so that a reader of the RFCs, OpenSSH, Twisted and
Teleport guesses them and finds them by searching.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Words of our own that stood where the field has a term, and the term.
TERMS = {
    "allowance": "rate limiter",
    "at rest": "idle",
    "comes back": "reconnects",
    "desk": "batch, handlers",
    "door": "admission, route",
    "farewell": "drain",
    "given certificate": "file certificate",
    "goes on alone": "uses cached state",
    "hasten": "force",
    "kick": "resume",
    "law": "invariant",
    "let go": "release",
    "lets go": "releases",
    "ration": "rate limiter",
    "rationed": "limited",
    "scratch": "buffers",
    "shelf": "repository",
    "somebody": "client, peer, user",
    "stranger": "unauthenticated client",
    "trail": "audit reporter",
    "visitor": "client",
    "way out": "egress",
    "ways out": "egress",
    "whoever": "client, peer, user",
}
#: Words that tests have no other use for.
TERMS_OF_TESTS = {
    "anybody": "any user, any client",
    "everybody": "all users, all clients",
    "hear": "receive, observe",
    "let in": "accepted, admitted",
    "lets in": "accepts, admits",
}
#: Where a word is the field's own.
EXCEPTIONS = {
    "tests/architecture/test_words.py",
    "CHANGELOG.rst",
}
#: What older versions send, which is recognized to be refused.
FORMER_MESSAGES = ("TELE-VISITOR",)


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "src", "tests", "bench", "docs", "*.rst"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [
        name
        for name in listed.stdout.splitlines()
        if name.endswith((".py", ".rst", ".yaml", ".cfg")) and name not in EXCEPTIONS
    ]


def found_in(text: str, terms: Mapping[str, str]) -> list[str]:
    """Return the lines of ``text`` that have a word of ``terms``, in names of any style."""
    any_of = "|".join(term.replace(" ", "[ _]") for term in terms)
    words = re.compile(rf"(?<![a-z])({any_of})s?(?![a-z])")
    found = []
    for former in FORMER_MESSAGES:
        text = text.replace(former, "")
    for number, line in enumerate(text.splitlines(), 1):
        # aStranger, StrangerLog and STRANGERS are words, too.
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line).lower()
        if match := words.search(apart):
            found.append(f"{number}: {match[1]} ({terms[match[1].replace('_', ' ')]}): {line}")
    return found


@pytest.mark.parametrize("name", tracked())
def test_terms_of_the_field(name: str) -> None:
    """No file has a word of our own where there is a term."""
    terms = {**TERMS, **TERMS_OF_TESTS} if name.startswith("tests/") else TERMS
    assert not found_in((ROOT / name).read_text(), terms)


@pytest.mark.parametrize("line", ["class StrangerLog:", "log the visitors", "a way_out", "LAWS"])
def test_a_planted_word_is_found(line: str) -> None:
    """In a name, in a sentence, in the plural and in capitals."""
    assert found_in(line, TERMS)


@pytest.mark.parametrize("line", ["def test_everybody_waits()", '"""A node that hears."""'])
def test_a_planted_word_of_a_test_is_found(line: str) -> None:
    """Tests have a few more."""
    assert found_in(line, TERMS_OF_TESTS)
    assert not found_in(line, TERMS)
