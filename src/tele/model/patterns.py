"""Does a text match a pattern with ``*`` and ``?``?"""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Whether ``pattern`` covers all of ``text``: ``*`` any characters, ``?`` one.

    Never goes back further than the last star, so that no pattern can take more than
    ``len(pattern) * len(text)`` steps.
    """
    star = -1
    at = place = mark = 0
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, mark = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", text[at]):
            place += 1
            at += 1
        elif star >= 0:
            mark += 1
            place, at = star + 1, mark
        else:
            return False
    return all(character == "*" for character in pattern[place:])
