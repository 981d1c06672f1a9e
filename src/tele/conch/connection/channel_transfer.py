"""How do data, credit, EOF and CLOSE of channels pass (RFC 4254, sections 5.2 and 5.3)?

Invariants:

* What comes for a channel that was closed meanwhile is dropped.
* Nothing leaves for a channel after our CLOSE.
"""

from __future__ import annotations

import struct
from typing import Final

from twisted.conch.ssh.channel import SSHChannel
from zope.interface import implementer

from tele.conch.connection.channel_table import ChannelTable
from tele.conch.transport.datapath import IDataService
from tele.errors import ProtocolError
from tele.wire import numbers as n
from tele.wire.fields import Reader, string, uint32

_MAX_WINDOW: Final = 0xFFFF_FFFF
_TWO_NUMBERS: Final = struct.Struct(">II")


@implementer(IDataService)
class ChannelTransfer(ChannelTable):
    """Receives and sends what belongs to open channels."""

    # -- receiving --------------------------------------------------------------------
    def channel_data(self, number: int, view: memoryview) -> None:
        """See :class:`IDataService`."""
        receiver = self._receivers.get(number)
        if receiver is not None:
            receiver.receive(view)
        else:
            self._channel(number)

    def channel_extended_data(self, number: int, code: int, view: memoryview) -> None:
        """See :class:`IDataService`."""
        receiver = self._receivers.get(number)
        if receiver is not None:
            receiver.receive(view, code)
        else:
            self._channel(number)

    def ssh_CHANNEL_DATA(self, packet: bytes) -> None:
        """CHANNEL_DATA from a transport that is not an ``IDataTransport``."""
        reader = Reader(packet)
        number, data = reader.uint32(), reader.string()
        reader.end()
        self.channel_data(number, memoryview(data))

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """CHANNEL_EXTENDED_DATA, likewise."""
        reader = Reader(packet)
        number, code, data = reader.uint32(), reader.uint32(), reader.string()
        reader.end()
        self.channel_extended_data(number, code, memoryview(data))

    def ssh_CHANNEL_WINDOW_ADJUST(self, packet: bytes) -> None:
        """The peer gives credit."""
        if len(packet) != 8:
            raise ProtocolError("CHANNEL_WINDOW_ADJUST of a wrong length")
        self.channel_credit(*_TWO_NUMBERS.unpack(packet))

    def channel_credit(self, number: int, credit: int) -> None:
        """See :class:`IDataService`."""
        channel = self._channel(number)
        if channel is not None:
            if channel.remoteWindowLeft + credit > _MAX_WINDOW:
                raise ProtocolError(f"a window of more than {_MAX_WINDOW} bytes")
            channel.addWindowBytes(credit)

    def ssh_CHANNEL_EOF(self, packet: bytes) -> None:
        """The peer sends no more data on a channel."""
        channel = self._named(packet)
        if channel is not None and not channel.localClosed:
            self._receivers[channel.id].receive_eof()

    def ssh_CHANNEL_CLOSE(self, packet: bytes) -> None:
        """The peer closes a channel."""
        channel = self._named(packet)
        if channel is None:
            return
        channel.remoteClosed = True
        was_closed = channel.localClosed
        self._call_safely(channel.closeReceived)
        if was_closed:
            self._close_channel(channel)
        elif not channel.localClosed and channel in self.channelsToRemoteChannel:
            self.sendClose(channel)

    # -- sending ----------------------------------------------------------------------
    def sendData(self, channel: SSHChannel, data: bytes) -> None:
        """Send data that fit the window. For channel classes of Conch's own."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            self.transport.sendPacket(n.CHANNEL_DATA, uint32(remote) + string(data))

    def sendExtendedData(self, channel: SSHChannel, dataType: int, data: bytes) -> None:
        """Send extended data that fit the window, as :meth:`sendData`."""
        remote = self.channelsToRemoteChannel.get(channel)
        if remote is not None and not channel.localClosed:
            body = uint32(remote) + uint32(dataType) + string(data)
            self.transport.sendPacket(n.CHANNEL_EXTENDED_DATA, body)

    def sendEOF(self, channel: SSHChannel) -> None:
        """Send EOF; not after CLOSE."""
        if channel.localClosed or channel not in self.channelsToRemoteChannel:
            return
        remote = self.channelsToRemoteChannel[channel]
        self.transport.sendPacket(n.CHANNEL_EOF, uint32(remote))
