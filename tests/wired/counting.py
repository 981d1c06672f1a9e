"""How much work is something, counted and not timed?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def calls(function: Callable[[], object]) -> int:
    """Return how many functions, of Python and of C, ``function()`` calls until it returns.

    An exception that it raises counts as its end.
    """
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        with suppress(Exception):
            function()
    finally:
        sys.setprofile(before)
    return count


def is_linear(work: Callable[[int], int], size: int = 200) -> bool:
    """Whether twice the size is at most twice the work, with a margin.

    ``work(n)`` does it for size n and returns what it counted.
    """
    work(size)  # what is made once and kept is not counted
    once, twice = work(size), work(2 * size)
    return once > 0 and twice <= 2.2 * once + 50


class Text(str):
    """A text that counts how often it is compared, and hashed, in ``Text.comparisons``."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Text.comparisons += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Text.comparisons += 1
        return str.__hash__(self)


def comparisons(function: Callable[[], Any]) -> int:
    """Return how often texts of :class:`Text` were compared in ``function()``."""
    before = Text.comparisons
    with suppress(Exception):
        function()
    return Text.comparisons - before
