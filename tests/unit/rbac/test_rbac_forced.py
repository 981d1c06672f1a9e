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


def test_every_role_has_to_allow_it() -> None:
    """Another role does not open what the files-only role leaves closed (attack)."""
    assert forwards(FILES, role("loud", **YES)) == (False, False, False)
    assert forwards(FILES, PLAIN) == (False, False, False)
    loud = role("both", force_command="internal-sftp", **YES)
    assert forwards(loud, PLAIN) == (False, False, False)
    assert forwards(loud, role("loud", **YES)) == (True, True, True)


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
    assert same.force_command == "internal-sftp"
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
        assert grant.force_command == command


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
