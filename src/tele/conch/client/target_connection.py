"""What may a server do on our connection to it?

Invariants:

* It opens the channels that the owner of the connection accepts; all others are refused.
* Its global requests are refused, keepalives too: that is an answer. It renews no host keys here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred

from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED
from tele.conch.connection.windows import WindowBudget, Windows


class ChannelAcceptor(Protocol):
    """Decides about channels that a server opens."""

    def accept(
        self, kind: bytes, data: bytes, remoteWindow: int, remoteMaxPacket: int
    ) -> Deferred[Any]:
        """Return the channel for what the server opens. Fails with what it is refused for."""


class TargetConnection(SSHConnection):
    """The connection service of a client whose server may open channels to it.

    ``budget``: what the windows of all connections of a user may have together.
    """

    def __init__(self, budget: WindowBudget | None = None) -> None:
        super().__init__()
        self._budget = budget
        #: Who accepts channels; without one all are refused.
        self.acceptor: ChannelAcceptor | None = None
        #: The command that the server runs instead of any other, by the certificate of the login.
        self.forced_command: str | None = None
        self._on_lost: list[Callable[[], None]] = []

    @property
    def windows(self) -> Windows:
        """See :class:`SSHConnection`."""
        if self._windows is None:
            self._windows = Windows(self, self.window_limit, self.windows_limit, self._budget)
        return self._windows

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or about to go."""
        return self._stopped or self.transport is None or bool(self.transport.closing)

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the connection is gone."""
        self._on_lost.append(callback)

    def serviceStopped(self) -> None:
        """See :class:`SSHConnection`."""
        super().serviceStopped()
        callbacks, self._on_lost = self._on_lost, []
        for callback in callbacks:
            callback()

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        """See :class:`SSHConnection`."""
        if self.acceptor is None:
            raise ConchError(ADMINISTRATIVELY_PROHIBITED, "nothing was asked of the client")
        return self.acceptor.accept(channelType, data, windowSize, maxPacket)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> bool:
        """Refuse each: ``hostkeys-00@openssh.com`` is between us and the server."""
        return False
