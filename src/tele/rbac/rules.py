"""Do the rules of roles allow an operation of the API, on this object?

A rule may have a condition, ``where``, on the object and on the caller.

Invariants:

* A rule with a condition counts for one object, about which it is true. Where no object is looked
  at it allows nothing, and a denial denies all.
* A condition is accepted only for operations that look at each object (:data:`CONDITIONAL`).
* What is malformed allows nothing and denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tele.errors import InvalidInput
from tele.model.resources import Rule, User
from tele.model.session import Recording, Session
from tele.rbac.predicates import Facts, Type, Vocabulary, condition

_CALLER: Final[Vocabulary] = (
    ("user.name", Type.TEXT),
    ("user.roles", Type.TEXTS),
    ("user.traits", Type.TEXTS_MAP),
)
_SESSION: Final[Vocabulary] = (
    *_CALLER,
    ("resource.user", Type.TEXT),
    ("resource.login", Type.TEXT),
    ("resource.node", Type.TEXT),
)
#: What a condition may read, by resource: the caller, and the object that it is about.
VOCABULARIES: Final[Mapping[str, Vocabulary]] = {
    "user": (
        *_CALLER,
        ("resource.name", Type.TEXT),
        ("resource.roles", Type.TEXTS),
        ("resource.traits", Type.TEXTS_MAP),
        ("resource.labels", Type.TEXT_MAP),
    ),
    "session": _SESSION,
    "recording": _SESSION,
}
#: The operations that look at each object, by resource.
CONDITIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("list", "read", "create", "update", "delete"),
    "session": ("list", "delete"),
    "recording": ("list", "read"),
}


def facts_of(thing: User | Session | Recording) -> dict[str, Any]:
    """Return what a condition reads of an object."""
    if isinstance(thing, User):
        return {
            "resource.name": thing.metadata.name,
            "resource.roles": thing.spec.roles,
            "resource.traits": thing.spec.traits,
            "resource.labels": thing.metadata.labels,
        }
    return {
        "resource.user": thing.user,
        "resource.login": thing.login,
        "resource.node": thing.node,
    }


def has_rule(
    rules: Iterable[Rule], resource: str, verb: str, facts: Facts | None, *, unknown: bool
) -> bool:
    """Whether one of ``rules`` covers this. Without ``facts`` a condition is ``unknown``."""
    return any(
        _covers(rule.resources, resource)
        and _covers(rule.verbs, verb)
        and (not rule.where or _holds(rule.where, resource, facts, unknown=unknown))
        for rule in rules
    )


def _covers(listed: tuple[str, ...], wanted: str) -> bool:
    return "*" in listed or wanted in listed


def _holds(text: str, resource: str, facts: Facts | None, *, unknown: bool) -> bool:
    if facts is None or resource not in VOCABULARIES:
        return unknown
    try:
        return condition(text, VOCABULARIES[resource])(facts)
    except InvalidInput:
        return unknown


def check_where(rule: Rule) -> None:
    """Raise :class:`InvalidInput` for a condition that cannot be, or that nothing would ask."""
    if not rule.where:
        return
    for resource in rule.resources:
        verbs = CONDITIONAL.get(resource, ())
        if not verbs or not set(rule.verbs) <= set(verbs):
            known = "; ".join(f"{name}: {', '.join(each)}" for name, each in CONDITIONAL.items())
            raise InvalidInput(
                f"a rule for {resource} with {', '.join(rule.verbs)} cannot have a condition"
                f" (where): name the resources and verbs, of {known}"
            )
        try:
            condition(rule.where, VOCABULARIES[resource])
        except InvalidInput as error:
            raise InvalidInput(f"where, for {resource}: {error}") from None
