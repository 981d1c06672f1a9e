"""Invariant: an expression or a template of a role is refused, or decides and ends; a template
never stands for more than its values, and a replacement agrees with Python's.
"""

from __future__ import annotations

import re
from typing import Any, Final

from attempts import Dice, main
from tele.errors import InvalidInput
from tele.rbac.labels import VOCABULARY
from tele.rbac.predicates import condition
from tele.rbac.replacing import replacement
from tele.rbac.templates import VALUES_LIMIT, expanded

WORDS: Final = (
    "labels.env", "labels['a b']", "user.name", "user.roles", "user.traits.team", '"prod"', "'x'",
    "==", "!=", "&&", "||", "!", "(", ")", ",", ".", "[", "]", "contains(", "contains_any(",
    "contains_all(", "set(", "glob.match(", "regexp.match(", "regexp.replace(", "email.local(",
    "strings.lower(", '"^(a|b)*$"', '"$1"', "internal.team", "{{", "}}", " ", "\\", "\n", "é", "\0",
)  # fmt: skip
GOOD: Final = (
    'labels.env == "prod" && contains(user.traits.team, labels.team)',
    '!(user.name == "x" || regexp.match(labels.env, "^p(r|o)*d?$"))',
    'contains_any(user.roles, set("a", email.local(user.traits.mail)))',
    'regexp.replace(labels.env, "^(.*)-(.*)$", "$2$1") != ""',
    "dev-{{regexp.replace(internal.team, '^(.)(.*)$', '$1')}}",
    "{{email.local(external.mail)}}",
)
PATTERNS: Final = ("a", "b", "(a|ab)", "(a*)", "(b)?", "[ab]+", "(.+)", "(?:a|(b))")


def attempt(dice: Dice) -> None:
    """Read one expression, one template and one replacement, good or not."""
    if dice.random() < 0.5:
        text = "".join(dice.choice(WORDS) for _ in range(dice.randint(0, 24)))
    else:
        text = dice.damaged(dice.choice(GOOD).encode(), 3).decode("utf-8", "replace")
    values = tuple(dice.choice(("a", "b-a", "ann@x", "", "*", "{{x}}")) for _ in range(3))
    facts: dict[str, Any] = {
        "labels": {"env": dice.choice(values), "team": "a"},
        "user.name": "x",
        "user.roles": values,
        "user.traits": {"team": values},
    }
    try:
        decided = condition(text, VOCABULARY)(facts)
    except InvalidInput:
        decided = False
    assert decided in (True, False)
    found = expanded(text, {"team": values, "mail": values})
    assert len(found) <= VALUES_LIMIT
    assert text in found if "{{" not in text and "}}" not in text else True
    inside = "".join(dice.choice(PATTERNS) for _ in range(dice.randint(1, 5)))
    subject = "".join(dice.choice("ab") for _ in range(dice.randint(0, 10)))
    matched = re.fullmatch(inside, subject)
    groups = re.compile(inside).groups
    by = ",".join(f"${number}" for number in range(1, groups + 1))
    expected = None if matched is None else ",".join(each or "" for each in matched.groups())
    assert replacement(f"^{inside}$", by)(subject) == expected, (inside, subject)


if __name__ == "__main__":
    main(attempt)
