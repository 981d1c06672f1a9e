"""What roles give and deny to forward, and which rules are refused when they are written."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tele.errors import InvalidInput
from tele.model.access import Grant
from tele.model.actions import ForwardRules
from tele.model.codec import from_json, to_json
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.rbac.decision import decide
from tele.rbac.presets import check_role

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def role(
    name: str, allow: ForwardRules | None = None, deny: ForwardRules | None = None, **options: Any
) -> Role:
    return Role(
        Metadata(name),
        RoleSpec(
            Conditions(("root",), {"*": ("*",)}, forward=allow or ForwardRules()),
            Conditions(forward=deny or ForwardRules()),
            RoleOptions(**options),
        ),
    )


def ask(*roles: Role) -> Grant:
    names = tuple(each.metadata.name for each in roles)
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), names, ("root",), {}, "s1")
    grant = decide(who, "root", {}, {each.metadata.name: each for each in roles}, (), NOW, "h1")
    assert isinstance(grant, Grant)
    return grant


def given(*roles: Role) -> tuple[object, ...]:
    """Return what is given: of ports, paths, agent and display."""
    grant = ask(*roles)
    return (
        set(grant.local_forwards), set(grant.remote_forwards), set(grant.streamlocal_forwards),
        grant.agent_forwarding, grant.x11_forwarding,
    )  # fmt: skip


ALL = {"*:*"}
PATHS = {"/**"}
NAMED = ForwardRules(local=("db:5432",))


@pytest.mark.parametrize(
    ("roles", "gives"),
    [
        ([role("a")], (ALL, ALL, PATHS, True, False)),
        ([role("a", NAMED)], ({"db:5432"}, set(), set(), False, False)),
        ([role("a", NAMED, forward_agent=True)], ({"db:5432"}, set(), set(), True, False)),
        ([role("a", NAMED, port_forwarding=True)], ({"db:5432"}, ALL, PATHS, False, False)),
        ([role("a", NAMED, force_command="x")], ({"db:5432"}, set(), set(), False, False)),
        ([role("a", ForwardRules(x11=True))], (set(), set(), set(), False, True)),
        ([role("a", ForwardRules(local=()))], (set(), set(), set(), False, False)),
        (
            [role("a", NAMED), role("b", ForwardRules(local=("web:80",), agent=True))],
            ({"db:5432", "web:80"}, set(), set(), True, False),
        ),
        ([role("a", NAMED), role("b")], ({"db:5432", "*:*"}, ALL, PATHS, True, False)),
        (
            [role("a"), role("b", deny=ForwardRules(agent=True, x11=True))],
            (ALL, ALL, PATHS, False, False),
        ),
    ],
)
def test_what_roles_give(roles: list[Role], gives: tuple[object, ...]) -> None:
    """A role that names something gives only what it names; roles add up; a denial wins."""
    assert given(*roles) == gives
    assert {given(*order) == gives for order in itertools.permutations(roles)} == {True}


def test_denials_of_all_roles_add_up() -> None:
    """Also those of a role that allows nothing here."""
    denying = Role(
        Metadata("c"), RoleSpec(deny=Conditions(forward=ForwardRules(local=("10.0.0.0/8:*",))))
    )
    grant = ask(role("a"), role("b", deny=ForwardRules(local=("db:*",))), denying)
    assert grant.denied_forwards.local == ("10.0.0.0/8:*", "db:*")


@pytest.mark.parametrize(
    ("allow", "deny", "options", "error"),
    [
        ({"local": ["db"]}, {}, {}, r"allow: forward: local: 'db' is no destination"),
        ({"remote": ["web:80"]}, {}, {}, "listens on addresses"),
        ({"streamlocal": ["run/x"]}, {}, {}, "has to begin with /"),
        ({}, {"local": ["10.0.*:*"]}, {}, r"deny: forward: local: .* has no letter"),
        ({}, {"local": []}, {}, "denies nothing"),
        ({}, {"agent": False}, {}, "denies nothing"),
        ({"local": ["db:1"]}, {}, {"port_forwarding": False}, "leave that out"),
        ({"agent": True}, {}, {"forward_agent": False}, "write one"),
        ({"x11": False}, {}, {"x11_forwarding": True}, "write one"),
        ({"local": ["db:1"] * 257}, {}, {}, "at most 256"),
    ],
)
def test_rules_that_mean_nothing_are_refused(
    allow: dict[str, Any], deny: dict[str, Any], options: dict[str, Any], error: str
) -> None:
    """When the role is written, with the place and what is wrong."""
    sides = (from_json(ForwardRules, each) for each in (allow, deny))
    with pytest.raises(InvalidInput, match=error):
        check_role(role("a", *sides, **options))


def test_a_role_without_rules_is_written_as_before() -> None:
    """Parts of an older version read it."""
    assert "forward" not in to_json(role("a"))["spec"]["allow"]
    written = to_json(role("a", NAMED))
    assert written["spec"]["allow"]["forward"] == {"local": ["db:5432"]}
    assert from_json(Role, written) == role("a", NAMED)
