"""Names and texts use the terms of the field, so that somebody who knows the RFCs, OpenSSH, Twisted
and Teleport guesses them and finds them by searching.
"""

from __future__ import annotations

import re
import subprocess
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
#: Where a word is the field's own.
EXCEPTIONS = {
    "tests/architecture/test_words.py",
    "CHANGELOG.rst",
}

_WORDS = re.compile(
    r"(?<![a-z])(" + "|".join(term.replace(" ", "[ _]") for term in TERMS) + r")s?(?![a-z])"
)


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


def found_in(text: str) -> list[str]:
    """Return the lines of ``text`` that have such a word, in names of any style."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        # aStranger, StrangerLog and STRANGERS are words, too.
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line).lower()
        if match := _WORDS.search(apart):
            found.append(f"{number}: {match[1]} ({TERMS[match[1].replace('_', ' ')]}): {line}")
    return found


@pytest.mark.parametrize("name", tracked())
def test_terms_of_the_field(name: str) -> None:
    """No file has a word of our own where there is a term."""
    assert not found_in((ROOT / name).read_text())


@pytest.mark.parametrize("line", ["class StrangerLog:", "log the visitors", "a way_out", "LAWS"])
def test_a_planted_word_is_found(line: str) -> None:
    """In a name, in a sentence, in the plural and in capitals."""
    assert found_in(line)
