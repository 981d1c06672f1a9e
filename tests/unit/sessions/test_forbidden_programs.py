"""Which program that runs may not run any more, when the roles of its connection have changed?"""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from session_world import context
from tele.conch.session.programs import ProgramRequest, PtyRequest
from tele.model.access import Grant, RoleGrant
from tele.model.actions import TransferRules
from tele.sessions.launching import forbidden, permitted

TERMINAL: Any = PtyRequest("xterm", 80, 24, 0, 0, ())
SHELL = ProgramRequest("shell", b"", pty=TERMINAL)
SFTP = ProgramRequest("subsystem", b"sftp")
COMMAND = ProgramRequest("exec", b"id")
FREE, PLAIN = RoleGrant("free"), RoleGrant("plain", permit_pty=False)
SOME = RoleGrant("some", files=TransferRules(("/in/*",), ("/out/*",)))
LESS = RoleGrant("less", files=TransferRules((), ("/out/*",)))
BACKUP, OTHER = RoleGrant("b", force_command="backup"), RoleGrant("o", force_command="other")


def grant(*roles: RoleGrant) -> Grant:
    return evolve(context().grant, given=roles)


@pytest.mark.parametrize(
    ("before", "request_", "after", "why"),
    [
        ((FREE,), SHELL, (FREE,), ""),
        ((FREE,), COMMAND, (PLAIN,), ""),
        ((FREE,), SHELL, (PLAIN,), "a terminal is not permitted any more"),
        ((FREE,), SHELL, (PLAIN, BACKUP), "this command is not permitted any more"),
        ((FREE,), COMMAND, (PLAIN, BACKUP), ""),
        ((FREE,), COMMAND, (BACKUP,), "this command is not permitted any more"),
        ((BACKUP,), COMMAND, (BACKUP,), ""),
        ((OTHER,), COMMAND, (BACKUP, OTHER), ""),
        ((BACKUP,), COMMAND, (OTHER,), "this command is not permitted any more"),
        ((BACKUP,), COMMAND, (FREE,), ""),
        ((FREE,), SHELL, (SOME,), "only some files may be transferred"),
        ((FREE,), SHELL, (SOME, BACKUP), "this command is not permitted any more"),
        ((FREE,), SFTP, (SOME,), "other files may be transferred now"),
        ((SOME,), SFTP, (SOME,), ""),
        ((SOME,), SFTP, (LESS,), "other files may be transferred now"),
        ((SOME,), SFTP, (FREE,), ""),
    ],
)
def test_what_runs_has_to_be_given_by_one_role(
    before: tuple[RoleGrant, ...],
    request_: ProgramRequest,
    after: tuple[RoleGrant, ...],
    why: str,
) -> None:
    """A free command where only a forced one is left is not, nor a file server with rules that are
    not those of now; a forced one is where all commands are.
    """
    runs = permitted(grant(*before), request_)
    found = forbidden(grant(*after), request_, runs)
    assert found.startswith(why)
    assert bool(found) is bool(why)
