"""Which program that runs may not run any more, when the roles of its connection have changed?"""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from session_world import context
from tele.conch.session.programs import ProgramRequest, PtyRequest
from tele.model.access import Grant, RoleGrant
from tele.sessions.launching import forbidden

TERMINAL: Any = PtyRequest("xterm", 80, 24, 0, 0, ())
SHELL = ProgramRequest("shell", b"", pty=TERMINAL)
COMMAND = ProgramRequest("exec", b"id")
FREE, PLAIN = RoleGrant("free"), RoleGrant("plain", permit_pty=False)
BACKUP, OTHER = RoleGrant("b", force_command="backup"), RoleGrant("o", force_command="other")


def grant(*roles: RoleGrant) -> Grant:
    return evolve(context().grant, given=roles)


@pytest.mark.parametrize(
    ("roles", "request_", "forced", "why"),
    [
        ((FREE,), SHELL, None, ""),
        ((PLAIN,), COMMAND, None, ""),
        ((PLAIN,), SHELL, None, "a terminal is not permitted any more"),
        ((PLAIN, BACKUP), SHELL, None, "this command is not permitted any more"),
        ((PLAIN, BACKUP), COMMAND, None, ""),
        ((BACKUP,), COMMAND, None, "this command is not permitted any more"),
        ((BACKUP,), COMMAND, "backup", ""),
        ((BACKUP, OTHER), COMMAND, "other", ""),
        ((OTHER,), COMMAND, "backup", "this command is not permitted any more"),
        ((FREE,), COMMAND, "backup", ""),
    ],
)
def test_what_runs_has_to_be_given_by_one_role(
    roles: tuple[RoleGrant, ...], request_: ProgramRequest, forced: str | None, why: str
) -> None:
    """A free command where only a forced one is left is not; a forced one is where all are."""
    assert forbidden(grant(*roles), request_, forced) == why
