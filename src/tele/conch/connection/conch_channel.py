"""How does a channel class of Conch's own receive what a peer sends?

Invariant: data count as consumed when the channel's ``dataReceived`` returns, as in Conch.
"""

from __future__ import annotations

from typing import Protocol

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import maybeDeferred

from tele.errors import ProtocolError


class _Connection(Protocol):
    """What of a connection is needed here."""

    def adjustWindow(self, channel: SSHChannel, bytesToAdd: int) -> None:
        """Give the peer credit."""

    def reply_to_channel(self, channel: SSHChannel, success: bool) -> None:
        """Reply to a channel request."""


class ConchChannelReceiver:
    """The :class:`~tele.conch.connection.receiver.Receiver` of a channel that is not ours."""

    __slots__ = ("_channel", "_connection")

    def __init__(self, channel: SSHChannel, connection: _Connection) -> None:
        self._channel = channel
        self._connection = connection

    def receive(self, view: memoryview, code: int | None = None) -> None:
        """See :class:`Receiver`."""
        channel = self._channel
        length = len(view)
        if length > channel.localWindowLeft or length > channel.localMaxPacket:
            raise ProtocolError("more data than the window allows")
        channel.localWindowLeft -= length
        if code is None:
            channel.dataReceived(bytes(view))
        else:
            channel.extReceived(code, bytes(view))
        if channel.localWindowLeft < channel.localWindowSize // 2 and not channel.localClosed:
            self._connection.adjustWindow(
                channel, channel.localWindowSize - channel.localWindowLeft
            )

    def receive_eof(self) -> None:
        """See :class:`Receiver`."""
        self._channel.eofReceived()

    def receive_request(self, name: bytes, data: bytes, want_reply: bool) -> None:
        """See :class:`Receiver`. An exception refuses the request."""
        answer = maybeDeferred(self._channel.requestReceived, name, data)
        answer.addErrback(lambda _: False)
        if want_reply:
            answer.addCallback(
                lambda success: self._connection.reply_to_channel(self._channel, bool(success))
            )
