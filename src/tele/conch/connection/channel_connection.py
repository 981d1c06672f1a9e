"""What does a channel need of the connection that it is on?

Invariant: a channel knows no more of its connection than this.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.windows import Windows
from tele.conch.connection.write_scheduler import WriteScheduler


class ChannelConnection(Protocol):
    """What a channel needs of its connection."""

    #: An :class:`~tele.conch.transport.datapath.IDataTransport`.
    transport: Any
    #: Its channels, by our numbers.
    channels: dict[int, Any]
    #: The peer's numbers of the channels that are open.
    channelsToRemoteChannel: dict[Any, Any]

    @property
    def write_scheduler(self) -> WriteScheduler:
        """The channels that wait until the socket takes more."""

    @property
    def windows(self) -> Windows:
        """How much the peer may send."""

    def adjustWindow(self, channel: SSHChannel, bytesToAdd: int) -> None:
        """Give the peer credit."""

    def sendRequest(
        self, channel: Any, requestType: bytes | str, data: bytes, wantReply: bool | int = False
    ) -> Deferred[Any] | None:
        """Make a request on the peer's channel."""

    def reply_to_channel(self, channel: SSHChannel, success: bool) -> None:
        """Reply to a channel request."""

    def sendEOF(self, channel: SSHChannel) -> None:
        """Send EOF."""

    def sendClose(self, channel: SSHChannel) -> None:
        """Send CLOSE."""

    def openChannel(self, channel: SSHChannel, extra: bytes = b"") -> None:
        """Ask the peer for a channel."""

    def broken(self, failure: Failure) -> None:
        """End the connection."""
