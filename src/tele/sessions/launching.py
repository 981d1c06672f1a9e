"""What is launched for what a client requests?

Invariant: it is decided once, in one value; recordings depend on that, never on the request.
"""

from __future__ import annotations

from typing import Final

from tele.conch.session.programs import ProgramRequest
from tele.errors import InvalidInput
from tele.model.access import INTERNAL_SFTP
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


def launched_by(request: ProgramRequest, force_command: str | None) -> Launched:
    """Return what ``request`` leads to; a forced command replaces it, as under sshd."""
    if force_command == INTERNAL_SFTP:
        return SFTP
    if force_command is not None:
        return Launched("exec", force_command.encode())
    if request.kind == "subsystem" and request.command == SFTP.command:
        return SFTP
    return Launched(request.kind, request.command)
