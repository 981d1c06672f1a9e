"""How is a channel opened, and how many may be on a connection (RFC 4254, section 5.1)?

Invariants:

* A channel is confirmed when it is open, and refused with the true reason.
* Channels that are being opened count for the limits.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tele.conch.connection import refusals
from tele.conch.connection.channel_table import ChannelTable
from tele.conch.connection.permissions import permissions_of
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.wire import numbers as n
from tele.wire.fields import Reader, string, uint32

log = make_logger(__name__)

CHANNELS_LIMIT: Final = 4096
TEXT_LIMIT: Final = 256

_SESSION: Final = b"session"


class ChannelOpening(ChannelTable):
    """Opens channels for the peer, and asks it for channels."""

    #: Most channels, those that are being opened included.
    channels_limit = CHANNELS_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self._opening = 0
        self._no_more_sessions = False

    # -- for the peer -----------------------------------------------------------------
    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """The peer asks for a channel."""
        reader = Reader(packet)
        kind, sender = reader.string(64), reader.uint32()
        window, max_packet = reader.uint32(), reader.uint32()
        data = reader.rest()
        if max_packet == 0:
            raise ProtocolError("CHANNEL_OPEN with a maximum packet size of 0")
        problem = self._may_open(kind)
        if problem is not None:
            self._refuse_open(sender, refusals.RESOURCE_SHORTAGE, problem)
            return
        is_session = kind == _SESSION
        self._sessions += is_session
        self._opening += 1
        opening = maybeDeferred(self.getChannel, kind, window, max_packet, data)
        opening.addCallbacks(
            self._opened,
            self._not_opened,
            callbackArgs=(sender, data, is_session),
            errbackArgs=(sender, is_session),
        )
        opening.addErrback(self.broken)

    def _may_open(self, kind: bytes) -> str | None:
        """Return why the peer may not open another channel of type ``kind``, or None."""
        if len(self.channels) + self._opening >= self.channels_limit:
            return f"no more than {self.channels_limit} channels on a connection"
        if kind == _SESSION:
            if self._no_more_sessions:
                return "the client said that it opens no more sessions"
            limit = permissions_of(self._avatar).max_sessions
            if self._sessions >= limit:
                return f"no more than {limit} sessions on a connection"
        return None

    def _opened(self, channel: Any, sender: int, data: bytes, is_session: bool) -> None:
        self._opening -= 1
        if self._stopped:
            self._sessions -= is_session
            self._call_safely(channel.openFailed, ConnectionLost())
            return
        if channel is None:
            self._sessions -= is_session
            self._refuse_open(sender, refusals.UNKNOWN_CHANNEL_TYPE, "unknown channel")
            return
        number = self._add(channel)
        self._add_open(channel, sender)
        if is_session:
            self._session_channels.add(channel)
        self.transport.sendPacket(
            n.CHANNEL_OPEN_CONFIRMATION,
            uint32(sender)
            + uint32(number)
            + uint32(channel.localWindowSize)
            + uint32(channel.localMaxPacket)
            + channel.specificData,
        )
        self._start(channel, data)

    def _start(self, channel: SSHChannel, data: bytes) -> None:
        """Tell ``channel`` that it is open. An exception closes it, and no other."""
        try:
            channel.channelOpen(data)
        except ProtocolError:
            raise
        except Exception:
            log.failure("channel failed while opening")
            self.sendClose(channel)

    def _not_opened(self, failure: Failure, sender: int, is_session: bool) -> None:
        self._opening -= 1
        self._sessions -= is_session
        if self._stopped:
            return
        code, text = refusals.refusal(failure)
        self._refuse_open(sender, code, text)

    def _refuse_open(self, sender: int, code: int, text: str) -> None:
        self.transport.sendPacket(
            n.CHANNEL_OPEN_FAILURE,
            uint32(sender) + uint32(code) + string(text.encode("utf-8")[:TEXT_LIMIT]) + string(b""),
        )

    # -- from the peer ----------------------------------------------------------------
    def openChannel(self, channel: SSHChannel, extra: bytes = b"") -> None:
        """Ask the peer for ``channel``: its ``channelOpen`` or ``openFailed`` is called."""
        if self._stopped:
            self._call_safely(channel.openFailed, ConnectionLost())
            return
        number = self._add(channel)
        self.transport.sendPacket(
            n.CHANNEL_OPEN,
            string(channel.name)
            + uint32(number)
            + uint32(channel.localWindowSize)
            + uint32(channel.localMaxPacket)
            + extra,
        )

    def ssh_CHANNEL_OPEN_CONFIRMATION(self, packet: bytes) -> None:
        """The peer opened a channel that we asked for."""
        reader = Reader(packet)
        number, remote = reader.uint32(), reader.uint32()
        window, max_packet = reader.uint32(), reader.uint32()
        channel = self._requested(number)
        if max_packet == 0:
            raise ProtocolError("CHANNEL_OPEN_CONFIRMATION with a maximum packet size of 0")
        channel.remoteWindowLeft = window
        channel.remoteMaxPacket = max_packet
        self._add_open(channel, remote)
        self._start(channel, reader.rest())

    def ssh_CHANNEL_OPEN_FAILURE(self, packet: bytes) -> None:
        """The peer refused a channel that we asked for."""
        reader = Reader(packet)
        number, code, text = reader.uint32(), reader.uint32(), reader.string()
        reader.string()
        reader.end()
        channel = self._requested(number)
        del self.channels[number]
        self.windows.close(channel)
        self._call_safely(channel.openFailed, refusals.ChannelRefused(text[:TEXT_LIMIT], code))

    def _requested(self, number: int) -> Any:
        """Return the channel that we asked the peer for by our ``number``."""
        channel = self.channels.get(number)
        if channel is None or channel in self.channelsToRemoteChannel:
            raise ProtocolError(f"channel {number} is not being opened")
        return channel
