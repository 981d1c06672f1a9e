"""Which account do roles want: union of what allows, minus what denies, in any order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput
from tele.model.codec import from_json, to_json
from tele.model.host_user import HostUser, HostUserMode
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.rbac.explaining import Effect, explain
from tele.rbac.host_users import check_host_users, check_numbers, host_user

NOW = datetime(2026, 11, 30, tzinfo=UTC)
NO_DENIAL = Conditions()
KEEP, DROP, OFF = HostUserMode.KEEP, HostUserMode.DROP, HostUserMode.OFF
LINES = ("ALL=(ALL) ALL", "ALL=(ALL) NOPASSWD: /usr/bin/id")


def role(
    name: str,
    mode: HostUserMode = OFF,
    groups: tuple[str, ...] = (),
    sudoers: tuple[str, ...] = (),
    shell: str = "",
    deny: Conditions = NO_DENIAL,
) -> Role:
    allow = Conditions(host_groups=groups, host_sudoers=sudoers)
    options = RoleOptions(create_host_user=mode, create_host_user_shell=shell)
    return Role(Metadata(name), RoleSpec(allow, deny, options))


def test_one_role_is_enough() -> None:
    """Another one that makes none takes nothing away, and may add groups and sudoers."""
    made = role("a", DROP, ("x",), shell="/bin/sh")
    more = role("b", OFF, ("y",), LINES, "/bin/bash")
    for roles in permutations([made, more]):
        found = host_user(roles, roles, {})
        assert found == HostUser(True, ("x", "y"), tuple(sorted(LINES)), "/bin/sh")
    assert host_user([more], [more], {}) is None


def test_kept_beats_dropped() -> None:
    """In any order."""
    for roles in permutations([role("a", DROP), role("b", KEEP), role("c")]):
        found = host_user(roles, roles, {})
        assert found is not None
        assert not found.drop


def test_a_denial_wins() -> None:
    """It may be of a role that does not allow the login; ``*`` denies all."""
    allowing = role("a", DROP, ("x", "y"), LINES)
    one = role("b", deny=Conditions(host_groups=("x",), host_sudoers=LINES[:1]))
    everything = role("c", deny=Conditions(host_groups=("*",), host_sudoers=("*",)))
    assert host_user([allowing], [one, allowing], {}) == HostUser(True, ("y",), LINES[1:])
    assert host_user([allowing], [everything, allowing], {}) == HostUser(True)


def test_rights_of_a_forced_command_are_not_for_a_shell() -> None:
    """What two roles give does not combine: sudo for one command, and a shell without (attack)."""
    forcing = evolve(
        role("a", DROP, ("x",), LINES),
        spec=RoleSpec(
            Conditions(host_groups=("x",), host_sudoers=LINES),
            options=RoleOptions(create_host_user=DROP, force_command="/usr/bin/backup"),
        ),
    )
    free = role("b", DROP, ("y",))
    alone = host_user([forcing], [forcing], {})
    assert alone is not None
    assert (alone.groups, set(alone.sudoers)) == (("x",), set(LINES))
    for roles in permutations([forcing, free]):
        assert host_user(roles, roles, {}) == HostUser(True, ("y",))


names = st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple)
roles_of = st.builds(
    role,
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from(list(HostUserMode)),
    names,
    st.lists(st.sampled_from(LINES), unique=True).map(tuple),
    st.just(""),
    st.builds(
        Conditions,
        host_groups=st.lists(st.sampled_from(["a", "b", "*"])).map(tuple),
        host_sudoers=st.lists(st.sampled_from([*LINES, "*"])).map(tuple),
    ),
)


def parts(found: HostUser | None) -> set[str]:
    return set() if found is None else {*found.groups, *found.sudoers, "account"}


@given(st.lists(roles_of, max_size=4), roles_of, st.lists(roles_of, max_size=3))
def test_adding_roles(allowing: list[Role], added: Role, held: list[Role]) -> None:
    """One more role that allows takes nothing away, one more that denies gives nothing."""
    before = parts(host_user(allowing, held, {}))
    assert before <= parts(host_user([*allowing, added], held, {}))
    assert before >= parts(host_user(allowing, [*held, added], {}))


def test_numbers_come_from_traits() -> None:
    """What is no number is one that no account has: none is made with another one."""
    roles = [role("a", DROP)]
    for texts, number in ((("2001",), 2001), (("",), -1), (("1e3",), -1), (("٣",), -1), ((), None)):
        found = host_user(roles, roles, {"host_user_uid": texts, "host_user_gid": texts})
        assert found is not None
        assert (found.uid, found.gid) == (number, number)


@pytest.mark.parametrize("values", [("x",), ("-1",), ("1", "2"), ("99999999999",)])
def test_a_trait_that_is_no_number_is_refused(values: tuple[str, ...]) -> None:
    """As the user is written."""
    with pytest.raises(InvalidInput, match="host_user_gid"):
        check_numbers({"host_user_gid": values})


@pytest.mark.parametrize(
    ("allow", "deny", "shell"),
    [
        (Conditions(host_groups=("*",)), Conditions(), ""),
        (Conditions(host_groups=("a,b",)), Conditions(), ""),
        (Conditions(host_sudoers=("*",)), Conditions(), ""),
        (Conditions(host_sudoers=("ALL=ALL\nroot2 ALL=ALL",)), Conditions(), ""),
        (Conditions(), Conditions(host_sudoers=("nonsense",)), ""),
        (Conditions(), Conditions(host_groups=("",)), ""),
        (Conditions(), Conditions(), "bash"),
    ],
)
def test_what_no_node_takes_is_refused(allow: Conditions, deny: Conditions, shell: str) -> None:
    """As the role is written."""
    with pytest.raises(InvalidInput):
        check_host_users(allow, deny, RoleOptions(create_host_user_shell=shell))


def test_hosts_of_an_older_version_read_roles_without_accounts() -> None:
    """Keys that they do not know are left out while they have their defaults."""
    plain, full = role("a"), role("a", DROP, ("x",), LINES, "/bin/sh")
    assert "host_" not in str(to_json(plain))
    assert from_json(Role, to_json(full)) == full


def test_the_explanation_says_who_gives_and_who_takes() -> None:
    """Role by role, also of roles that do not allow the login."""
    giving = role("a", DROP, ("x",), LINES[:1])
    taking = role("b", deny=Conditions(host_groups=("y",), host_sudoers=("*",)))
    allow = evolve(giving.spec.allow, logins=("bob",), node_labels={"*": ("*",)})
    giving = evolve(giving, spec=evolve(giving.spec, allow=allow))
    identity = UserIdentity("alice", "c", NOW + timedelta(hours=1), ("a", "b"), ("bob",))
    roles = {"a": giving, "b": taking}
    found = explain(identity, "bob", "web1", {}, roles, (), NOW)
    assert [each.effect for each in found.roles] == [Effect.ALLOWS, Effect.NOTHING]
    assert found.roles[0].why[2:] == (
        "create_host_user is drop", "allow.host_groups has x",
        "allow.host_sudoers has 'ALL=(ALL) ALL'",
    )  # fmt: skip
    assert found.roles[1].why[-2:] == ("deny.host_groups has y", "deny.host_sudoers has '*'")
