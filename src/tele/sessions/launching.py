"""What is launched for what a client requests?

Invariant: it is decided once, in one value; recordings depend on that, never on the request.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, InvalidInput
from tele.model.access import INTERNAL_SFTP, Grant, RoleGrant
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
    others.
    """

    launched: Launched
    roles: tuple[RoleGrant, ...]

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
    if not roles:  # The grant may have changed since the terminal was requested.
        raise AccessDenied("a terminal is not permitted", "pty")
    return PermittedProgram(launched_by(request, roles[0].force_command), roles)


def launched_by(request: ProgramRequest, force_command: str | None) -> Launched:
    """Return what is launched for ``request`` with this forced command, or none."""
    if force_command == INTERNAL_SFTP:
        return evolve(SFTP, forced=force_command)
    if force_command is not None:
        return Launched("exec", force_command.encode(), forced=force_command)
    if request.kind == "subsystem" and request.command == SFTP.command:
        return SFTP
    return Launched(request.kind, request.command)
