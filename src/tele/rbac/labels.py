"""Do these labels match that condition?

Invariants:

* An allow condition needs every key that it names, with any one of its values.
* A deny condition matches by any single key.
* ``"*": "*"`` matches every node; an empty condition matches none.
* A value is a text, a glob with ``*`` and ``?``, or a regular expression ``^...$``. A malformed one
  allows nothing and denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tele.errors import InvalidInput, quoted
from tele.model.patterns import matches
from tele.rbac.regular_expressions import expression

Condition = Mapping[str, tuple[str, ...]]


def _any(patterns: Iterable[str], value: str, unreadable: bool) -> bool:
    return any(_fits(pattern, value, unreadable) for pattern in patterns)


def _fits(pattern: str, value: str, unreadable: bool) -> bool:
    if not pattern.startswith("^"):
        return matches(pattern, value)
    try:
        return expression(pattern).covers(value)
    except InvalidInput:
        return unreadable


def allows(condition: Condition, labels: Mapping[str, str]) -> bool:
    """Whether an allow condition covers a node with ``labels``."""
    return bool(condition) and all(
        (key == "*" or (key in labels and _any(patterns, labels[key], unreadable=False)))
        for key, patterns in condition.items()
    )


def denies(condition: Condition, labels: Mapping[str, str]) -> bool:
    """Whether a deny condition hits a node with ``labels``."""
    return any(
        key == "*" or (key in labels and _any(patterns, labels[key], unreadable=True))
        for key, patterns in condition.items()
    )


def check_condition(condition: Condition) -> None:
    """Raise :class:`InvalidInput` for a malformed condition."""
    for key, patterns in condition.items():
        if not patterns:
            raise InvalidInput(f"node label {quoted(key)} has no value; write '*' for any")
        if key == "*" and patterns != ("*",):
            raise InvalidInput("the label '*' takes the value '*' only")
        for pattern in patterns:
            if pattern.startswith("^"):
                expression(pattern)
