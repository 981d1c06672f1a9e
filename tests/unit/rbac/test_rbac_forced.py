"""A forced command, of a role or of a certificate, and what is forwarded beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tele.errors import InvalidInput
from tele.model.access import CertificateLimits, Denied, Grant, Reason
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.rbac.certificate import (
    PERMIT_AGENT_FORWARDING,
    PERMIT_PORT_FORWARDING,
    PERMIT_PTY,
    PERMIT_X11_FORWARDING,
    limits_of,
)
from tele.rbac.decision import decide
from tele.rbac.presets import check_role

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALL = CertificateLimits()


def role(name: str, **options: Any) -> Role:
    allow = Conditions(logins=("root",), node_labels={"*": ("*",)})
    return Role(Metadata(name), RoleSpec(allow, options=RoleOptions(**options)))


def ask(*roles: Role, certificate: CertificateLimits = ALL) -> Grant | Denied:
    names = tuple(each.metadata.name for each in roles)
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), names, ("root",), {}, "s1")
    known = {each.metadata.name: each for each in roles}
    return decide(who, "root", {}, known, (), NOW, "h1", certificate)


def forwards(*roles: Role, certificate: CertificateLimits = ALL) -> tuple[bool, bool, bool]:
    """Return whether ports, an agent and a display are forwarded."""
    grant = ask(*roles, certificate=certificate)
    assert isinstance(grant, Grant), grant
    return grant.port_forwarding, grant.agent_forwarding, grant.x11_forwarding


FILES = role("files", force_command="internal-sftp")
BACKUP = role("backup", force_command="backup")
PLAIN = role("plain")
YES = {"port_forwarding": True, "forward_agent": True, "x11_forwarding": True}


@pytest.mark.parametrize("forced", [FILES, BACKUP], ids=["files", "command"])
def test_a_forced_command_forwards_nothing_by_default(forced: Role) -> None:
    """A role that forces a command and does not name forwarding gives none (attack)."""
    assert forwards(PLAIN) == (True, True, False)
    assert forwards(forced) == (False, False, False)


@pytest.mark.parametrize("command", ["internal-sftp", "backup"])
def test_a_role_may_forward_beside_its_command(command: str) -> None:
    """What such a role says in as many words it gives, and nothing else."""
    assert forwards(role("r", force_command=command, **YES)) == (True, True, True)
    assert forwards(role("r", force_command=command, port_forwarding=True)) == (True, False, False)
    assert forwards(role("r", force_command=command, forward_agent=True)) == (False, True, False)
    assert forwards(role("r", force_command=command, x11_forwarding=True)) == (False, False, True)


def test_what_is_forwarded_is_what_one_role_gives() -> None:
    """A role that forces a command takes nothing from another, and gets nothing from it."""
    loud = role("loud", **YES)
    assert forwards(FILES, loud) == (True, True, True)
    assert forwards(FILES, PLAIN) == (True, True, False)
    quiet = role("quiet", port_forwarding=False, forward_agent=False)
    assert forwards(FILES, quiet) == (False, False, False)
    grant = ask(FILES, loud)
    assert isinstance(grant, Grant)
    assert [each.role for each in grant.given if each.port_forwarding] == ["loud"]


def programs(*roles: Role, kind: str = "shell", command: bytes = b"", pty: bool = False,
             certificate: CertificateLimits = ALL) -> list[tuple[str, str | None]]:  # fmt: skip
    """Return the roles that give a program, each with what it forces."""
    grant = ask(*roles, certificate=certificate)
    assert isinstance(grant, Grant), grant
    found = grant.program(kind, command, pty=pty)
    return [(each.role, each.force_command) for each in found]


def test_a_terminal_of_a_forced_command_gives_no_shell_a_terminal() -> None:
    """A shell without a terminal and a command with one are not a shell with one (attack)."""
    script = role("script", permit_pty=False)
    assert programs(BACKUP, script, pty=True) == [("backup", "backup")]
    assert programs(BACKUP, script) == [("script", None)]
    silent = role("silent", force_command="backup", permit_pty=False)
    assert programs(silent, script, pty=True) == []


def test_a_role_without_a_command_is_not_restricted_by_one_with_it() -> None:
    """Who may run anything may, whatever else they may run."""
    assert programs(FILES, BACKUP, PLAIN, pty=True) == [("plain", None)]
    more = role("more", port_forwarding=False)
    assert programs(more, PLAIN, FILES) == [("more", None), ("plain", None)]


def test_of_several_commands_the_requested_one_runs() -> None:
    """What the request names runs, otherwise the command of the first role by name."""
    assert programs(FILES, BACKUP) == [("backup", "backup")]
    assert programs(FILES, BACKUP, kind="subsystem", command=b"sftp") == [
        ("files", "internal-sftp")
    ]
    other = role("other", force_command="other")
    also = role("zz", force_command="other")
    two = [("other", "other"), ("zz", "other")]
    assert programs(BACKUP, also, other, kind="exec", command=b"other") == two
    for kind, command in (("exec", b"other --all"), ("subsystem", b"other"), ("shell", b"other")):
        assert programs(BACKUP, other, kind=kind, command=command) == [("backup", "backup")]


def test_a_role_that_forces_another_command_than_the_certificate_gives_nothing() -> None:
    """Not even what it forwards; a role that forces none runs the certificate's (attack)."""
    forcing = CertificateLimits(force_command="backup")
    loud = role("files", force_command="internal-sftp", **YES)
    assert programs(loud, PLAIN, certificate=forcing) == [("plain", "backup")]
    assert forwards(loud, PLAIN, certificate=forcing) == (False, False, False)


def test_a_certificate_for_servers_without_roles_forces_one_command() -> None:
    """None where a role forces none, otherwise the first by the name of its role."""
    for roles, expected in (
        ((FILES, PLAIN), None),
        ((FILES, BACKUP), "backup"),
        ((FILES,), "internal-sftp"),
    ):
        grant = ask(*roles)
        assert isinstance(grant, Grant)
        assert grant.certified_command == expected


@pytest.mark.parametrize("command", ["internal-sftp", "backup", ""])
def test_the_certificates_command_closes_forwards_too(command: str) -> None:
    """A command that the certificate forces needs the role's permission as well as its own
    (attack).
    """
    forcing = CertificateLimits(force_command=command)
    assert forwards(PLAIN, certificate=forcing) == (False, False, False)
    assert forwards(role("loud", **YES), certificate=forcing) == (True, True, True)
    silent = CertificateLimits(
        port_forwarding=False, agent_forwarding=False, x11_forwarding=False, force_command=command
    )
    assert forwards(role("loud", **YES), certificate=silent) == (False, False, False)


def test_a_certificate_only_takes_away() -> None:
    """What the certificate does not name is not granted, and what it names no role is given."""
    nothing = CertificateLimits(False, False, False, False)
    grant = ask(role("loud", **YES), certificate=nothing)
    assert isinstance(grant, Grant)
    assert not any(
        (grant.permit_pty, grant.port_forwarding, grant.agent_forwarding, grant.x11_forwarding)
    )
    no = dict.fromkeys(YES, False)
    assert forwards(role("strict", **no)) == (False, False, False)


def test_the_certificate_and_a_role_force_the_same_or_nothing() -> None:
    """Where they force different commands, the login is denied."""
    same = ask(FILES, certificate=CertificateLimits(force_command="internal-sftp"))
    assert isinstance(same, Grant)
    assert same.certified_command == "internal-sftp"
    for other in ("backup", "", "internal-sftp2"):
        denied = ask(FILES, certificate=CertificateLimits(force_command=other))
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.DENIED


@pytest.mark.parametrize(
    "command",
    ["internal-sftp -R", "internal-sftp -d /srv", " internal-sftp", "internal-sftp\n", "a\0b"],
)
def test_what_cannot_be_honoured_is_refused(command: str) -> None:
    """Options of internal-sftp are refused when they are set and when they are met (attack).

    Run as a command line, they would be whatever the user calls ``internal-sftp``.
    """
    options = role("r", force_command=command)
    with pytest.raises(InvalidInput, match="force_command"):
        check_role(options)
    for answer in (ask(options), ask(PLAIN, certificate=CertificateLimits(force_command=command))):
        assert isinstance(answer, Denied), answer
        assert "force_command" in answer.message


def test_other_commands_keep_their_words() -> None:
    """Only the first word is compared: an sftp-server with options is a command like any."""
    for command in ("/usr/lib/openssh/sftp-server -R", "echo internal-sftp", "internal-sftpd -R"):
        check_role(role("r", force_command=command))
        grant = ask(role("r", force_command=command))
        assert isinstance(grant, Grant)
        assert grant.certified_command == command


def test_an_extension_permits_what_it_names_and_nothing_else() -> None:
    """A certificate without extensions withholds everything, as OpenSSH reads it."""
    assert limits_of((), None) == CertificateLimits(False, False, False, False)
    assert limits_of((PERMIT_PTY,), None) == CertificateLimits(True, False, False, False)
    assert limits_of((PERMIT_PORT_FORWARDING,), None) == CertificateLimits(
        False, True, False, False
    )
    assert limits_of((PERMIT_AGENT_FORWARDING,), "x") == CertificateLimits(
        False, False, True, False, "x"
    )
    assert limits_of((PERMIT_X11_FORWARDING, "permit-user-rc"), "") == CertificateLimits(
        False, False, False, True, ""
    )
