"""What is launched for what a client requests?

Invariant: it is decided once, in one value; recordings depend on that, never on the request.
"""

from __future__ import annotations

import json
from typing import Final

from attrs import evolve, frozen

from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, InvalidInput
from tele.model.access import INTERNAL_SFTP, Grant, RoleGrant
from tele.model.actions import EVERY_PATH, TransferRules
from tele.model.session import Launched
from tele.spawner.spawn_messages import CLIENT_ENVIRONMENT

SFTP: Final = Launched("subsystem", b"sftp", files=True)


def allows_environment(name: str) -> bool:
    """Whether clients may set a variable: LANG, LC_* and a few harmless others; never what changes
    what is run.
    """
    return CLIENT_ENVIRONMENT.fullmatch(name) is not None


def check_terminal(launched: Launched, request: ProgramRequest) -> None:
    """Raise :class:`InvalidInput` if the file server is to have a terminal."""
    if launched.files and request.pty is not None:
        raise InvalidInput("the file server takes no terminal: use sftp or scp")


@frozen
class PermittedProgram:
    """What is launched, and the roles that give it: of one connection's programs each may have
    others. ``files`` are the rules of paths for what is transferred, as JSON, or empty: see
    :func:`tele.spawner.restricted_files.read_files`.
    """

    launched: Launched
    roles: tuple[RoleGrant, ...]
    files: bytes = b""

    @property
    def agent_forwarding(self) -> bool:
        """Whether it may use the client's agent."""
        return any(each.agent_forwarding for each in self.roles)

    def narrowed(self, request: ProgramRequest) -> ProgramRequest:
        """Return ``request`` without an agent and a display that another role gives."""
        display = any(each.x11_forwarding for each in self.roles)
        return evolve(
            request,
            agent=request.agent if self.agent_forwarding else None,
            display=request.display if display else None,
        )


def permitted(grant: Grant, request: ProgramRequest) -> PermittedProgram:
    """Return what ``request`` leads to; a forced command replaces it, as under sshd.

    Raises :class:`AccessDenied` if no role gives it.
    """
    roles = grant.program(request.kind, request.command, pty=request.pty is not None)
    if not roles:
        if all(grant.restricts(each) for each in grant.given):
            raise AccessDenied(
                "only some files may be transferred with this login, and a shell or a command"
                " cannot be restricted to them: use sftp or scp",
                "files",
            )
        # The grant may have changed since the terminal was requested.
        raise AccessDenied("a terminal is not permitted", "pty")
    launched = launched_by(request, roles[0].force_command)
    return PermittedProgram(launched, roles, _files(grant, launched, roles))


def _files(grant: Grant, launched: Launched, roles: tuple[RoleGrant, ...]) -> bytes:
    """Return the rules for what is launched: all that one of ``roles`` gives."""
    forced = launched.forced is not None and not launched.files
    if forced or not all(grant.restricts(each) for each in roles):
        return b""  # a role gives a command, whatever it transfers, or any file
    every = TransferRules(EVERY_PATH, EVERY_PATH)
    given = [each.files or every for each in roles]
    denied = grant.denied_files
    rules = {
        "upload": {
            "allow": sorted({path for each in given for path in each.upload or ()}),
            "deny": denied.upload or (),
        },
        "download": {
            "allow": sorted({path for each in given for path in each.download or ()}),
            "deny": denied.download or (),
        },
    }
    return json.dumps(rules).encode()


def forbidden(grant: Grant, request: ProgramRequest, runs: PermittedProgram) -> str:
    """Return why what ``runs`` for ``request`` may not run by ``grant``, or nothing."""
    if request.pty is None and grant.require_session_join:
        return "only a terminal can be watched, as a role demands (require_session_join)"
    try:
        now = permitted(grant, request)
    except AccessDenied as denied:
        return f"{denied} any more" if denied.reason == "pty" else str(denied)
    forced, pty = runs.launched.forced, request.pty is not None
    if now.launched.forced not in (None, forced):
        # Another command is what the request leads to now; a role may give this one as well.
        others = {each.force_command for each in grant.given if each.permit_pty or not pty}
        if forced is None or forced not in others:
            return "this command is not permitted any more"
    if now.files and now.files != runs.files and forced is None:
        return "other files may be transferred now"
    return ""


def launched_by(request: ProgramRequest, force_command: str | None) -> Launched:
    """Return what is launched for ``request`` with this forced command, or none."""
    if force_command == INTERNAL_SFTP:
        return evolve(SFTP, forced=force_command)
    if force_command is not None:
        return Launched("exec", force_command.encode(), forced=force_command)
    if request.kind == "subsystem" and request.command == SFTP.command:
        return SFTP
    return Launched(request.kind, request.command)
