"""Which nodes does one side of a role match, by their labels?

Invariants:

* An allow condition needs every key that it names, with any one of its values, and its expression.
* A deny condition matches by any single key, or by its expression.
* ``"*": "*"`` matches every node; an empty condition matches none.
* A value is a text, a glob with ``*`` and ``?``, a regular expression ``^...$``, or a text with a
  template. What a template stands for is compared as it is, never as a pattern.
* What is malformed allows nothing and denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.identity import UserIdentity
from tele.model.patterns import matches
from tele.model.resources import Conditions
from tele.rbac.predicates import Type, Vocabulary, condition
from tele.rbac.regular_expressions import expression
from tele.rbac.templates import Traits, template

#: What ``node_labels_expression`` may read.
VOCABULARY: Final[Vocabulary] = (
    ("labels", Type.TEXT_MAP),
    ("user.name", Type.TEXT),
    ("user.roles", Type.TEXTS),
    ("user.traits", Type.TEXTS_MAP),
)

Labels = Mapping[str, str]


def allows(side: Conditions, labels: Labels, user: UserIdentity) -> bool:
    """Whether an allow condition covers a node with ``labels`` for ``user``."""
    wanted, text = side.node_labels, side.node_labels_expression
    if not wanted and not text:
        return False
    return all(
        key == "*" or (key in labels and _any(patterns, labels[key], user.traits, malformed=False))
        for key, patterns in wanted.items()
    ) and (not text or _holds(text, labels, user, malformed=False))


def denies(side: Conditions, labels: Labels, user: UserIdentity) -> bool:
    """Whether a deny condition hits a node with ``labels`` for ``user``."""
    text = side.node_labels_expression
    if not side.node_labels and not text:
        return False
    return any(
        key == "*" or (key in labels and _any(patterns, labels[key], user.traits, malformed=True))
        for key, patterns in side.node_labels.items()
    ) or (bool(text) and _holds(text, labels, user, malformed=True))


def _any(patterns: Iterable[str], value: str, traits: Traits, *, malformed: bool) -> bool:
    return any(_fits(pattern, value, traits, malformed) for pattern in patterns)


def _fits(pattern: str, value: str, traits: Traits, malformed: bool) -> bool:
    try:
        if pattern.startswith("^"):
            return expression(pattern).covers(value)
        if (found := template(pattern)) is not None:
            return found.stands_for(value, traits)
    except InvalidInput:
        return malformed
    return matches(pattern, value)


def _holds(text: str, labels: Labels, user: UserIdentity, *, malformed: bool) -> bool:
    try:
        holds = condition(text, VOCABULARY)
    except InvalidInput:
        return malformed
    facts = {
        "labels": labels,
        "user.name": user.user,
        "user.roles": user.roles,
        "user.traits": user.traits,
    }
    return holds(facts)


def check_labels(side: Conditions) -> None:
    """Raise :class:`InvalidInput` for a malformed condition."""
    for key, patterns in side.node_labels.items():
        if not patterns:
            raise InvalidInput(f"node label {quoted(key)} has no value; write '*' for any")
        if key == "*" and patterns != ("*",):
            raise InvalidInput("the label '*' takes the value '*' only")
        for pattern in patterns:
            if pattern.startswith("^"):
                expression(pattern)
            elif (found := template(pattern)) is not None and set("*?") & {
                *found.before, *found.after
            }:  # fmt: skip
                raise InvalidInput(
                    f"{quoted(pattern)}: beside a template * and ? would be compared as they are;"
                    " use node_labels_expression"
                )
    if side.node_labels_expression:
        try:
            condition(side.node_labels_expression, VOCABULARY)
        except InvalidInput as error:
            raise InvalidInput(f"node_labels_expression: {error}") from None
