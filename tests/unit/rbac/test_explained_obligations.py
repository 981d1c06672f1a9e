"""What ``tele access explain`` says of the obligations and limits of roles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tele.model.identity import UserIdentity
from tele.model.joining import WatchRule
from tele.model.resources import (
    Conditions,
    LockMode,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    SessionRecording,
)
from tele.rbac.explaining import Effect, Explanation, explain

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)


def explained(**options: Any) -> Explanation:
    allow = Conditions(("root",), {"*": ("*",)})
    roles = {
        "a": Role(Metadata("a"), RoleSpec(allow, options=RoleOptions(**options))),
        "b": Role(Metadata("b"), RoleSpec(allow)),
    }
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), tuple(roles))
    return explain(who, "root", "web1", {}, roles, (), NOW)


def test_the_role_that_refuses_is_named() -> None:
    """By an obligation that cannot be met, though it allows the login, as another role does."""
    found = explained(require_mfa=True)
    assert (found.allowed, found.reason) == (False, "mfa")
    first, second = found.roles
    assert (first.effect, second.effect) == (Effect.ALLOWS, Effect.ALLOWS)
    assert "it requires a second factor (require_mfa)" in first.why
    assert not any("require" in each for each in second.why)


def test_limits_are_said_with_the_role_that_sets_them() -> None:
    """Each with the name of its option."""
    found = explained(
        pin_source_ip=True, max_connections=3, client_idle_timeout=timedelta(minutes=30),
        require_session_join=(WatchRule("w", ("lead",)),),
        disconnect_expired_cert=True, record=SessionRecording.STRICT, lock=LockMode.STRICT,
    )  # fmt: skip
    said = "\n".join(found.roles[0].why)
    assert found.allowed
    for option in (
        "pin_source_ip", "record: strict", "lock: strict", "3 connections (max_connections)",
        "idle for 30m (client_idle_timeout)", "disconnect_expired_cert",
        "a user with a role of lead watches the session as moderator (require_session_join)",
    ):  # fmt: skip
        assert option in said
