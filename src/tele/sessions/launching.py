"""What is launched for what a client requests?

Invariant: it is decided once, in one value; recordings depend on that, never on the request.
"""

from __future__ import annotations

from typing import Final

from tele.conch.session.programs import ProgramRequest
from tele.model.access import INTERNAL_SFTP
from tele.model.session import Launched

SFTP: Final = Launched("subsystem", b"sftp", files=True)


def launched_by(request: ProgramRequest, force_command: str | None) -> Launched:
    """Return what ``request`` leads to; a forced command replaces it, as under sshd."""
    if force_command == INTERNAL_SFTP:
        return SFTP
    if force_command is not None:
        return Launched("exec", force_command.encode())
    if request.kind == "subsystem" and request.command == SFTP.command:
        return SFTP
    return Launched(request.kind, request.command)
