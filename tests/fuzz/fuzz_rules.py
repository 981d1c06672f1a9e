"""Invariant: rules with conditions allow or deny each operation of the API; a rule more that allows
never denies, one more that denies never allows, and what nobody may do to any object is allowed for
none. A selector is refused, or selects what the same globs of Python's do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from attempts import Dice, main
from tele.errors import InvalidInput
from tele.model.resources import Conditions, Metadata, Role, RoleSpec, Rule
from tele.rbac.decision import refusal
from tele.rbac.rules import CONDITIONAL, check_where
from tele.rbac.selector import read_selector

RESOURCES: Final = ("user", "session", "recording", "role", "*")
VERBS: Final = ("list", "read", "create", "update", "delete", "*")
WHERE: Final = (
    "", "", "resource.user == user.name", 'resource.labels.team == "a"', "resource.", "!(",
    "contains(user.traits.team, resource.labels.team)", 'resource.node == "n"', "user.name",
    '!contains(resource.roles, "admin")', 'regexp.match(resource.name, "^(a|b)*$")',
)  # fmt: skip
OBJECTS: Final[dict[str, tuple[tuple[str, Any], ...]]] = {
    "user": (
        ("resource.name", ("ann", "ab", "")),
        ("resource.roles", (("admin",), ())),
        ("resource.traits", ({}, {"team": ("a",)})),
        ("resource.labels", ({}, {"team": "a"}, {"team": "{{x}}"})),
    ),
    "session": tuple((f"resource.{name}", ("ann", "n", "")) for name in ("user", "login", "node")),
}
OBJECTS["recording"] = OBJECTS["session"]
LABELS: Final = ("env", "a", "", "*", "env!", "a b")
VALUES: Final = ("prod", "p*", "*d", "?rod", "**", "", "=x", "~x", "^p", "p*o*d", "é?", "\0")


def _rule(dice: Dice) -> Rule:
    some = dice.randint(1, 2)
    return Rule(
        tuple(dice.choice(RESOURCES) for _ in range(some)),
        tuple(dice.choice(VERBS) for _ in range(some)),
        dice.choice(WHERE),
    )


def _role(name: str, allow: Sequence[Rule], deny: Sequence[Rule]) -> Role:
    spec = RoleSpec(Conditions(rules=tuple(allow)), Conditions(rules=tuple(deny)))
    return Role(Metadata(name), spec)


def _facts(dice: Dice, resource: str) -> dict[str, Any] | None:
    if resource not in OBJECTS or dice.random() < 0.2:
        return None
    caller = {
        "user.name": dice.choice(("ann", "bob")),
        "user.roles": ("r0",),
        "user.traits": dice.choice(({}, {"team": ("a", "b")})),
    }
    return caller | {name: dice.choice(values) for name, values in OBJECTS[resource]}


def _selector(dice: Dice) -> None:
    given = [f"{dice.choice(LABELS)}={dice.choice(VALUES)}" for _ in range(dice.randint(0, 3))]
    labels = {"env": dice.choice(("prod", "pod", "", "éx", "p" * 300)), "a": "prod"}
    try:
        selector = read_selector(given)
    except InvalidInput:
        return
    expected = True
    for key in {each.partition("=")[0] for each in given}:
        globs = [each.partition("=")[2] for each in given if each.partition("=")[0] == key]
        forms = [re.escape(g).replace(r"\*", ".*").replace(r"\?", ".") for g in globs]
        fits = any(re.fullmatch(form, labels.get(key, ""), re.DOTALL) for form in forms)
        expected = expected and key in labels and fits
    assert selector.selects(labels) == expected, (given, labels)


def attempt(dice: Dice) -> None:
    """Decide about one operation with a set of rules, and with a rule more of each kind."""
    _selector(dice)
    allow = [_rule(dice) for _ in range(dice.randint(0, 3))]
    deny = [_rule(dice) for _ in range(dice.randint(0, 2))]
    resource, verb = dice.choice(RESOURCES[:-1]), dice.choice(VERBS[:-1])
    facts = _facts(dice, resource)

    def allowed(more: Sequence[Rule] = (), less: Sequence[Rule] = (), **words: Any) -> bool:
        role = _role("r0", [*allow, *more], [*deny, *less])
        found = refusal(["r0"], {"r0": role}, resource, verb, None, words.pop("of", facts), **words)
        assert found is None or found.message
        return found is None

    now = allowed()
    assert allowed(more=[_rule(dice)]) or not now
    assert now or not allowed(less=[_rule(dice)])
    assert allowed(of=None, possibly=True) or not now

    for rule in (*allow, *deny):
        try:
            check_where(rule)
        except InvalidInput:
            continue
        assert not rule.where or all(
            set(rule.verbs) <= set(CONDITIONAL[each]) for each in rule.resources
        )


if __name__ == "__main__":
    main(attempt)
