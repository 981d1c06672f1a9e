"""Roles that restrict file transfers: what else they give, how they merge, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, InvalidInput
from tele.model.access import CertificateLimits, Denied, Grant
from tele.model.actions import ForwardRules, TransferRules
from tele.model.codec import to_json
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.rbac.decision import decide
from tele.rbac.presets import check_role
from tele.sessions.launching import permitted

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
IN = TransferRules(upload=("/in/**",))
OUT = TransferRules(download=("/out/**",))
SFTP = ProgramRequest("subsystem", b"sftp")
SCP = ProgramRequest("exec", b"scp -t /in")
OTHERS = (
    ProgramRequest("shell"),
    ProgramRequest("exec", b"cat /in/x"),
    ProgramRequest("exec", b"rsync --server . /in"),
    ProgramRequest("exec", b"scp -t /in; id"),
    ProgramRequest("subsystem", b"other"),
)


def role(
    name: str,
    allow: TransferRules | None = None,
    deny: TransferRules | None = None,
    forward: ForwardRules | None = None,
    **options: Any,
) -> Role:
    conditions = Conditions(
        ("root",),
        {"*": ("*",)},
        forward=forward or ForwardRules(),
        file_transfer=allow or TransferRules(),
    )
    denied = Conditions(file_transfer=deny or TransferRules())
    return Role(Metadata(name), RoleSpec(conditions, denied, RoleOptions(**options)))


def ask(*roles: Role) -> Grant:
    names = tuple(each.metadata.name for each in roles)
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), names, ("root",), {}, "s1")
    grant = decide(who, "root", {}, {each.metadata.name: each for each in roles}, (), NOW, "h1")
    assert isinstance(grant, Grant)
    return grant


def rules(grant: Grant, request: ProgramRequest = SFTP) -> Any:
    """Return the rules of a program, or None if it has none."""
    files = permitted(grant, request).files
    return json.loads(files) if files else None


def test_only_transfers_are_given() -> None:
    """By a role for some files: nothing else runs, and nothing is forwarded (attack)."""
    grant = ask(role("a", IN))
    found = rules(grant)
    assert found == rules(grant, SCP)
    assert found == {
        "upload": {"allow": ["/in/**"], "deny": []},
        "download": {"allow": [], "deny": []},
    }
    for other in OTHERS:
        with pytest.raises(AccessDenied, match="only some files"):
            permitted(grant, other)
    given = (grant.port_forwarding, grant.agent_forwarding, grant.x11_forwarding)
    assert given == (False, False, False)
    assert ask(role("a", IN, forward=ForwardRules(local=("db:1",)))).port_forwarding


def test_roles_add_up() -> None:
    """Two roles for files give both; one that says nothing of them gives everything it gives."""
    found = rules(ask(role("a", IN), role("b", OUT)))
    assert (found["upload"]["allow"], found["download"]["allow"]) == (["/in/**"], ["/out/**"])
    grant = ask(role("a", IN), role("b"))
    assert rules(grant) is None
    for other in OTHERS:
        assert permitted(grant, other).launched.command == other.command
    only = ask(role("a", IN), role("b", force_command="backup"))
    assert permitted(only, OTHERS[0]).launched.forced == "backup"
    assert rules(only) is not None
    assert not permitted(only, OTHERS[0]).files


def test_a_denial_leaves_no_shell() -> None:
    """It holds for every role: what could get around it is not given by any (attack)."""
    grant = ask(role("a"), role("b", deny=TransferRules(upload=("/etc/**",))))
    assert rules(grant) == {
        "upload": {"allow": ["/**"], "deny": ["/etc/**"]},
        "download": {"allow": ["/**"], "deny": []},
    }
    for other in OTHERS:
        with pytest.raises(AccessDenied, match="only some files"):
            permitted(grant, other)
    assert not grant.port_forwarding


def test_a_forced_file_server_keeps_the_rules() -> None:
    """Whatever is requested, with a terminal or without one."""
    grant = ask(role("a", IN, force_command="internal-sftp"))
    for each in (SFTP, *OTHERS):
        assert rules(grant, each)["upload"]["allow"] == ["/in/**"]
        assert permitted(grant, each).launched.files


@pytest.mark.parametrize(
    ("allow", "deny", "options", "error"),
    [
        (TransferRules(upload=("in/**",)), None, {}, "allow: file_transfer: upload: .*begin with"),
        (None, TransferRules(download=("/a/../b",)), {}, "deny: file_transfer: download: .*links"),
        (None, TransferRules(upload=()), {}, "denies nothing"),
        (TransferRules(upload=("/x",) * 257), None, {}, "at most 256"),
        (IN, None, {"force_command": "backup"}, "force internal-sftp or nothing"),
    ],
)
def test_rules_that_mean_nothing_are_refused(
    allow: TransferRules | None, deny: TransferRules | None, options: dict[str, Any], error: str
) -> None:
    """When the role is written, with the place and what is wrong."""
    with pytest.raises(InvalidInput, match=error):
        check_role(role("a", allow, deny, **options))


def test_a_role_without_rules_is_written_as_before() -> None:
    """Parts of an older version read it."""
    assert "file_transfer" not in to_json(role("a"))["spec"]["allow"]
    assert to_json(role("a", IN))["spec"]["allow"]["file_transfer"] == {"upload": ["/in/**"]}


@pytest.mark.parametrize("denied", [False, True])
def test_attack_a_certificate_that_forces_a_command_gives_no_program(denied: bool) -> None:
    """A role for some files gives what its rules hold, whatever a certificate says: no command that
    the role itself does not force.
    """
    mine = role("a", deny=IN) if denied else role("a", IN)
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), ("a",), ("root",), {}, "s1")

    def decided(command: str) -> Grant | Denied:
        limits = CertificateLimits(force_command=command)
        return decide(who, "root", {}, {"a": mine}, (), NOW, "h1", limits)

    assert isinstance(decided("bash"), Denied)
    files = decided("internal-sftp")
    assert isinstance(files, Grant)
    assert rules(files, OTHERS[0]) is not None
