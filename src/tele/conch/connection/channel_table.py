"""Which channels does a connection have, and which are open (RFC 4254, section 5)?

Invariants:

* A number that was never given out is a protocol error; one that was closed meanwhile is
  legal, and its message is dropped.
* A channel is closed once. An exception in its ``closed`` or ``openFailed`` affects no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.conch.error import ConchError
from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tele.conch.connection.channel import Channel
from tele.conch.connection.conch_channel import ConchChannelReceiver
from tele.conch.connection.receiver import Receiver
from tele.conch.connection.windows import Windows, budget_of
from tele.conch.connection.write_scheduler import WriteScheduler
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.sockets.buffers import MAX_DATA
from tele.wire import numbers as n
from tele.wire.fields import Reader, uint32

log = make_logger(__name__)

#: Most bytes that the window of one channel grows to, and all of a connection together.
WINDOW_LIMIT: Final = 16 * 1024 * 1024
WINDOWS_LIMIT: Final = 64 * 1024 * 1024


class ChannelTable(conch.SSHConnection):
    """The channels of one connection, by their numbers."""

    #: An :class:`~tele.conch.transport.datapath.IDataTransport`; ``avatar`` is on it after login.
    transport: Any
    window_limit = WINDOW_LIMIT
    windows_limit = WINDOWS_LIMIT
    _write_scheduler: WriteScheduler | None = None
    _windows: Windows | None = None

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False
        self._sessions = 0
        self._session_channels: set[Any] = set()
        #: What receives the peer's messages, for each channel that is open.
        self._receivers: dict[int, Receiver] = {}

    @property
    def _avatar(self) -> Any:
        """The avatar that logged in; None at a client's end."""
        return getattr(self.transport, "avatar", None)

    @property
    def write_scheduler(self) -> WriteScheduler:
        """The channels of this connection that wait until its socket takes more."""
        if self._write_scheduler is None:
            self._write_scheduler = WriteScheduler(self.transport)
        return self._write_scheduler

    @property
    def windows(self) -> Windows:
        """How much the peer may send on the channels of this connection."""
        if self._windows is None:
            shared = budget_of(self._avatar)
            self._windows = Windows(self, self.window_limit, self.windows_limit, shared)
        return self._windows

    # -- numbers ----------------------------------------------------------------------
    def _add(self, channel: Any) -> int:
        """Give ``channel`` its number and window; the peer does not know of it yet."""
        number = self.localChannelID
        self.localChannelID += 1
        channel.conn = self
        channel.id = number
        self.channels[number] = channel
        self.windows.open(channel)
        return number

    def _add_open(self, channel: Any, remote: int) -> None:
        """Both sides know ``channel`` now, the peer by the number ``remote``."""
        self.channelsToRemoteChannel[channel] = remote
        self.localToRemoteChannel[channel.id] = remote
        if isinstance(channel, Channel):
            self._receivers[channel.id] = channel
        else:
            # It sends as much at once as its peer allows.
            channel.remoteMaxPacket = min(channel.remoteMaxPacket, MAX_DATA)
            self._receivers[channel.id] = ConchChannelReceiver(channel, self)

    def _channel(self, number: int) -> Any | None:
        """Return the channel with our ``number``; None if it is not open."""
        if number in self._receivers:
            return self.channels[number]
        if number >= self.localChannelID:
            raise ProtocolError(f"there is no channel {number}")
        return None

    def _named(self, packet: bytes) -> Any | None:
        """Return the channel of a message that holds nothing but its number."""
        reader = Reader(packet)
        channel = self._channel(reader.uint32())
        reader.end()
        return channel

    # -- what receivers send ----------------------------------------------------------
    def adjustWindow(self, channel: SSHChannel, bytesToAdd: int) -> None:
        """Give the peer credit."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        channel.localWindowLeft += bytesToAdd
        self.transport.sendPacket(n.CHANNEL_WINDOW_ADJUST, uint32(remote) + uint32(bytesToAdd))

    def reply_to_channel(self, channel: SSHChannel, success: bool) -> None:
        """Reply to a channel request."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            number = n.CHANNEL_SUCCESS if success else n.CHANNEL_FAILURE
            self.transport.sendPacket(number, uint32(remote))

    # -- the end ----------------------------------------------------------------------
    def sendClose(self, channel: SSHChannel) -> None:
        """Send CLOSE; the channel is closed when both sides did."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        channel.localClosed = True
        self.transport.sendPacket(n.CHANNEL_CLOSE, uint32(remote))
        if channel.remoteClosed:
            self._close_channel(channel)

    def channelClosed(self, channel: SSHChannel) -> None:
        """Remove a channel and call its ``closed``."""
        self._close_channel(channel)

    def _close_channel(self, channel: Any) -> None:
        if channel not in self.channelsToRemoteChannel:
            return
        channel.localClosed = channel.remoteClosed = True
        del self.channelsToRemoteChannel[channel]
        self.localToRemoteChannel.pop(channel.id, None)
        self.channels.pop(channel.id, None)
        self._receivers.pop(channel.id, None)
        self.windows.close(channel)
        if channel in self._session_channels:
            self._session_channels.discard(channel)
            self._sessions -= 1
        for answer in self.deferreds.pop(channel.id, []):
            answer.errback(ConchError("the channel is closed"))
        self._call_safely(channel.closed)

    def _close_all(self) -> None:
        """The connection was lost."""
        for channel in list(self.channelsToRemoteChannel):
            self._close_channel(channel)
        while self.channels:
            _, channel = self.channels.popitem()
            self.windows.close(channel)
            self._call_safely(channel.openFailed, ConnectionLost())

    def _call_safely(self, function: Callable[..., object], *args: object) -> None:
        """Call a method of a channel that ends; log what it raises."""
        try:
            function(*args)
        except Exception:
            log.failure("channel failed while closing")

    def broken(self, failure: Failure) -> None:
        """End the connection for an error that occurred outside of a message's handler, with the
        code and text of an error inside of one.
        """
        error = failure.value
        if isinstance(error, ProtocolError):
            self.transport.sendDisconnect(error.disconnect_code, str(error))
            return
        log.failure("channel request or open failed", failure)
        self.transport.sendDisconnect(n.BY_APPLICATION, b"internal error")
