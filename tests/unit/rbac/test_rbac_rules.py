"""Rules of roles with a condition, decided about one object, and where none is looked at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tele.errors import InvalidInput
from tele.model.api.operation import Permitted, Users
from tele.model.api.table import OPERATIONS
from tele.model.resources import Conditions, Metadata, Role, RoleSpec, Rule, User, UserSpec
from tele.rbac.decision import permits, refusal
from tele.rbac.presets import check_role, exceeds
from tele.rbac.rules import CONDITIONAL, facts_of

NOW = datetime(2026, 11, 30, tzinfo=UTC)
WEB = User(Metadata("wendy", labels={"team": "web"}), UserSpec(("access",)))
DB = User(Metadata("dora", labels={"team": "db"}), UserSpec(("access",)))
HELPER: dict[str, Any] = {
    "user.name": "helper",
    "user.roles": ("help",),
    "user.traits": {"team": ("web",)},
}
MINE = "contains(user.traits.team, resource.labels.team)"


def role(name: str, *allow: Rule, deny: tuple[Rule, ...] = ()) -> dict[str, Role]:
    """A role with rules, by its name."""
    spec = RoleSpec(Conditions(rules=allow), Conditions(rules=deny))
    return {name: Role(Metadata(name), spec)}


def allowed(roles: dict[str, Role], user: User, verb: str = "update") -> bool:
    """Whether these roles allow this on a user."""
    return refusal(roles, roles, "user", verb, NOW, {**HELPER, **facts_of(user)}) is None


def possible(roles: dict[str, Role]) -> bool:
    """Whether these roles may allow it on some user."""
    return refusal(roles, roles, "user", "update", NOW, possibly=True) is None


def test_a_condition_is_about_one_object() -> None:
    """It allows where it is true; where nothing is looked at it allows nothing (attack)."""
    roles = role("help", Rule(("user",), ("update",), MINE))
    assert (allowed(roles, WEB), allowed(roles, DB)) == (True, False)
    assert possible(roles)
    assert not permits(roles, roles, "user", "update", NOW)


def test_a_condition_of_a_denial() -> None:
    """It denies where it is true, and everything where nothing is looked at (attack)."""
    every = Rule(("user",), ("*",))
    roles = role("help", every, deny=(Rule(("user",), ("update",), MINE),))
    assert (allowed(roles, WEB), allowed(roles, DB)) == (False, True)
    assert allowed(roles, WEB, "read")
    assert possible(roles)
    assert not permits(roles, roles, "user", "update", NOW)


def test_what_is_malformed_in_the_store() -> None:
    """A condition that was never checked allows nothing and denies everything (attack)."""
    every = Rule(("user",), ("*",))
    for text in ("resource.", "labels.x == 'y'", "resource.name"):
        broken = Rule(("user",), ("update",), text)
        assert not allowed(role("help", broken), WEB)
        assert not allowed(role("help", every, deny=(broken,)), WEB)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(("role",), ("update",), 'resource.name == "x"'), "a rule for role"),
        (Rule(("*",), ("list",), 'user.name == "x"'), "cannot have a condition"),
        (Rule(("user",), ("*",), 'user.name == "x"'), "cannot have a condition"),
        (Rule(("recording",), ("delete",), 'user.name == "x"'), "name the resources and verbs"),
        (Rule(("user",), ("update",), "resource.login == 'x'"), "unknown name"),
        (Rule(("user", "session"), ("list",), "resource.name == 'x'"), "for session"),
        (Rule(("user",), ("update",), "resource.name"), "a condition"),
    ],
)
def test_a_condition_that_nothing_would_ask_is_refused(rule: Rule, said: str) -> None:
    """When the role is written, with what there is."""
    for roles in (role("r", rule), role("r", deny=(rule,))):
        with pytest.raises(InvalidInput, match=said):
            check_role(roles["r"])


def test_the_table_asks_about_each_object() -> None:
    """Each operation for which a condition is accepted is one that looks at objects."""
    for resource, verbs in CONDITIONAL.items():
        for verb in verbs:
            rows = [
                (operation, who)
                for operation in OPERATIONS.values()
                for who in operation.who
                if isinstance(who, Permitted) and (who.resource, who.verb) == (resource, verb)
            ]
            assert rows, (resource, verb)
            for operation, who in rows:
                own = any(isinstance(each, Users) for each in operation.who)
                kept = operation.name in ("list_holds", "list_stuck")
                assert who.each or own or kept, operation.name


def test_a_user_whom_it_would_be_a_gain_to_be() -> None:
    """Rules are compared one by one, and one with a condition counts as all that it may give."""
    roles = {
        **role("help", Rule(("user",), ("update",), MINE), Rule(("session",), ("list",))),
        **role("watch", Rule(("session",), ("list",))),
        **role("editor", Rule(("*",), ("*",))),
        **role("lead", Rule(("user",), ("delete",), MINE)),
    }
    assert not exceeds(("watch", "unknown"), ("help",), roles)
    for more in ("editor", "lead", "help"):
        assert exceeds((more,), ("help",), roles), more
    assert not exceeds(("editor",), ("editor",), roles)
