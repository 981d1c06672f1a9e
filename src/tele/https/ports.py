"""Which ports does auth listen on, and what is logged when they cannot accept?"""

from __future__ import annotations

from typing import Final

from tele.capacity.accepting import PatientPort, PatientUnixPort
from tele.log import make_logger

_log: Final = make_logger(__name__)


class _PortLog:
    """Log lines of auth's ports."""

    def shortage(self, why: str) -> None:
        """See :class:`PatientPort`."""
        _log.warn("no connections can be accepted", error=why)

    def not_taken(self) -> None:
        """See :class:`PatientPort`."""
        _log.failure("connection not accepted")


class TcpPort(_PortLog, PatientPort):
    """The port for members and users."""


class LocalPort(_PortLog, PatientUnixPort):
    """The socket for the administrators of this machine."""
