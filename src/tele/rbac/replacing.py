"""What does ``regexp.replace`` make of a text, in bounded time?

Python's :mod:`re` would go back and try again (:mod:`tele.rbac.regular_expressions`). Here the
ends of the groups are carried along with each possibility (Pike's method): a text takes at most its
length times the size of the expression times the number of groups.

Invariants:

* The expression covers the whole text, or nothing comes of it: there is no part that is replaced.
* Of several ways to match it takes the one that Python's takes: the first alternative, and as many
  repetitions as possible.
* Texts longer than :data:`TEXT_LIMIT` match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.rbac.regular_expressions import Expression, expression

TEXT_LIMIT: Final = 1024
GROUPS_LIMIT: Final = 9
_REFERENCE: Final = re.compile(r"\$(?:(\d)|\{(\d)\}|(\$)|)")


@lru_cache(maxsize=512)
def replacement(pattern: str, by: str) -> Callable[[str], str | None]:
    """Return what makes ``by`` of a text that ``pattern`` covers, and None of any other.

    ``$1`` to ``$9`` and ``${1}`` stand for the groups of the pattern, ``$0`` for the text, ``$$``
    for ``$``. Raises :class:`InvalidInput`.
    """
    compiled = expression(pattern, marks=True)
    if compiled.groups > GROUPS_LIMIT:
        raise InvalidInput(f"{quoted(pattern)} has more than {GROUPS_LIMIT} groups")
    for found in _REFERENCE.finditer(by):
        number = found[1] or found[2]
        if number is None and found[3] is None:
            raise InvalidInput(f"{quoted(by)}: after $ a number of a group is expected, or $")
        if number is not None and int(number) > compiled.groups:
            raise InvalidInput(f"{quoted(by)}: {quoted(pattern)} has no group {number}")

    def replaced(text: str) -> str | None:
        if len(text) > TEXT_LIMIT:
            return None
        marks = captured(compiled, text)
        if marks is None:
            return None

        def stands_for(found: re.Match[str]) -> str:
            number = found[1] or found[2]
            if number is None:
                return "$"
            if number == "0":
                return text
            start, end = marks[2 * int(number) - 2], marks[2 * int(number) - 1]
            return "" if start is None or end is None else text[start:end]

        return _REFERENCE.sub(stands_for, by)

    return replaced


_Marks = tuple[int | None, ...]


def captured(compiled: Expression, text: str) -> _Marks | None:
    """Return where each group of ``compiled`` begins and ends in ``text``; None: no match."""
    present = _follow(compiled, [(compiled.start, (None,) * (2 * compiled.groups))], 0)
    for at, character in enumerate(text, 1):
        reached = []
        for number, marks in present.items():
            state = compiled.states[number]
            if state.test is not None and state.test(character):
                reached += [(each, marks) for each in state.follow]
        if not reached:
            return None
        present = _follow(compiled, reached, at)
    return present.get(0)


def _follow(compiled: Expression, reached: list[tuple[int, _Marks]], at: int) -> dict[int, _Marks]:
    """Return all states that follow without a character, the preferred ones first."""
    found: dict[int, _Marks] = {}
    waiting = reached[::-1]
    while waiting:
        number, marks = waiting.pop()
        if number in found:
            continue
        state = compiled.states[number]
        if state.mark is not None:
            marks = (*marks[: state.mark], at, *marks[state.mark + 1 :])
        found[number] = marks
        if state.test is None:
            waiting += [(each, marks) for each in reversed(state.follow)]
    return found
