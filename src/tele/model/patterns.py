"""Does a text match a pattern with ``*`` and ``?``?

Invariant: a match takes linear time. Between two stars the first match is the right one, so that
there is no backtracking.
"""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Whether ``pattern`` covers all of ``text``: ``*`` any characters, ``?`` one."""
    first, *middle = pattern.split("*")
    if not middle:
        return len(first) == len(text) and _fits(first, text)
    last = middle.pop()
    at, end = len(first), len(text) - len(last)
    if at > end or not _fits(first, text[:at]) or not _fits(last, text[end:]):
        return False
    for piece in middle:
        found = text.find(piece, at, end) if "?" not in piece else _find(piece, text, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _fits(piece: str, text: str) -> bool:
    """Whether a piece without stars matches ``text`` of the same length."""
    if "?" not in piece:
        return piece == text
    return all(wanted in ("?", given) for wanted, given in zip(piece, text, strict=True))


def _find(piece: str, text: str, start: int, end: int) -> int:
    """Return where ``piece`` matches first between ``start`` and ``end``, or -1.

    Bit n of ``begun`` is set while the last n + 1 characters match the first n + 1 of the piece
    (the shift-and algorithm): each character of the text is read once.
    """
    anything = sum(1 << n for n, wanted in enumerate(piece) if wanted == "?")
    fitting: dict[str, int] = {}
    for n, wanted in enumerate(piece):
        fitting[wanted] = fitting.get(wanted, anything) | 1 << n
    begun, whole = 0, 1 << (len(piece) - 1)
    for at in range(start, end):
        begun = (begun << 1 | 1) & fitting.get(text[at], anything)
        if begun & whole:
            return at - len(piece) + 1
    return -1
