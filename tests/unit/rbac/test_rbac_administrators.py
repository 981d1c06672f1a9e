"""Which users can administer the cluster, and would one be left?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleSpec,
    Rule,
    User,
    UserSpec,
)
from tele.rbac.administrators import Directory, administrators, last_lost
from tele.rbac.presets import PRESETS

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ROLES = {role.metadata.name: role for role in PRESETS}


def user(name: str, *roles: str, expires: datetime | None = None) -> User:
    return User(Metadata(name, expires=expires), UserSpec(roles))


def directory(*users: User, **more: Any) -> Directory:
    return Directory({each.metadata.name: each for each in users}, ROLES, **more)


def test_an_administrator_may_update_users_and_roles() -> None:
    """Neither alone makes one; both may come from different roles, and a denial takes them."""
    rules = {
        name: Role(Metadata(name), RoleSpec(Conditions(rules=(Rule((name,), ("update",)),))))
        for name in ("user", "role")
    }
    never = Role(Metadata("never"), RoleSpec(deny=Conditions(rules=(Rule(("*",), ("*",)),))))
    people = {
        each.metadata.name: each
        for each in (
            user("eve", "user"),
            user("bob", "user", "role"),
            user("carol", "user", "role", "never"),
            user("dana", "gone"),
        )
    }
    assert administrators(Directory(people, {**rules, "never": never}), NOW) == {"bob"}


def test_a_user_who_cannot_log_in_administers_nothing() -> None:
    """Expired and locked users do not count."""
    stopped = {
        "l": Lock(Metadata("l"), LockSpec(LockTarget(user="bob"))),
        "r": Lock(Metadata("r", expires=NOW), LockSpec(LockTarget(role="editor"))),
    }
    people = directory(
        user("bob", "editor"), user("carol", "editor"), user("dana", "editor", expires=NOW),
        locks=stopped,
    )  # fmt: skip
    assert administrators(people, NOW) == {"carol"}


def test_the_last_one_is_missed() -> None:
    """Removing one of two is no loss, removing the last one is; so is an expiry, or a lock."""
    two, one = directory(user("a", "editor"), user("b", "editor")), directory(user("a", "editor"))
    assert last_lost(two, one, NOW) == set()
    assert last_lost(one, directory(user("a", "access")), NOW) == {"a"}
    assert last_lost(directory(), directory(), NOW) == set()
    for_now = directory(user("a", "editor", expires=NOW + timedelta(days=1)))
    assert last_lost(one, for_now, NOW) == {"a"}
    lock = Lock(Metadata("l"), LockSpec(LockTarget(role="editor")))
    assert last_lost(two, evolve(two, locks={"l": lock}), NOW) == {"a", "b"}


def test_one_for_a_while_replaces_none_for_good() -> None:
    """An administrator who expires does not make the last one without an expiry removable."""
    guest = user("guest", "editor", expires=NOW + timedelta(days=1))
    before, after = directory(user("a", "editor"), guest), directory(guest)
    assert last_lost(before, after, NOW) == {"a"}
    assert last_lost(after, directory(), NOW) == {"guest"}
