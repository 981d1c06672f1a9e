"""Where does auth accept calls, and what does it say when it cannot?"""

from __future__ import annotations

from typing import Final

from tele.capacity.accepting import PatientPort, PatientUnixPort
from tele.log import make_logger

_log: Final = make_logger(__name__)


class _Telling:
    """What ports of auth say."""

    def shortage(self, why: str) -> None:
        """See :class:`PatientPort`."""
        _log.warn("no calls can be accepted until it ends: {why}", why=why)

    def not_taken(self) -> None:
        """See :class:`PatientPort`."""
        _log.failure("a connection could not be taken")


class TcpPort(_Telling, PatientPort):
    """Where members and people call."""


class LocalPort(_Telling, PatientUnixPort):
    """Where the administrators of this machine call."""
