"""How do a channel and a stream become one?

Laws of this file:

* Neither side is read while the other cannot take more: what waits is bounded both ways.
* The end of one direction is told to the other side; when both ended, both close.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.channel import Channel


@implementer(IHalfCloseableProtocol, IPushProducer)
class StreamEnd(Protocol):
    """The stream's side: what it receives goes to ``channel``, once that is attached."""

    transport: Any

    def __init__(self) -> None:
        self.channel: RelayChannel | None = None
        self._early: list[bytes] = []
        self._ended = False
        self._closing_writes = False
        self.lost = False
        self._paused = False

    def connectionMade(self) -> None:
        """Be told when what we write does not leave."""
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self.transport.registerProducer(self, True)

    def attach(self, channel: RelayChannel) -> None:
        """From now on everything goes to ``channel``."""
        self.channel = channel
        early, self._early = self._early, []
        for data in early:
            channel.write(data)
        if self.lost or self._ended:
            channel.send_eof()
            if self.lost:
                channel.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Pass it on; the channel says when it is too much."""
        if self.channel is not None:
            self.channel.write(data)
        else:
            self._early.append(data)
            self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        """The stream sends no more."""
        self._ended = True
        if self.channel is not None:
            self.channel.send_eof()
        self._close_if_both_ended()

    def end_writes(self) -> None:
        """The channel sends no more: tell the stream, after all that was written."""
        if self.lost or self._closing_writes:
            return
        self._closing_writes = True
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None:
            half_close()
        self._close_if_both_ended()

    def _close_if_both_ended(self) -> None:
        """Twisted leaves a connection open whose both halves are closed."""
        if self._ended and self._closing_writes and not self.lost:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The stream takes no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone: close the channel after what it said."""
        self.lost = True
        if self.channel is not None:
            self.channel.send_eof()
            self.channel.loseConnection()

    # -- what the stream's transport says of our writing
    def pauseProducing(self) -> None:
        """What was written has not left."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It has left: let the channel's peer send more."""
        self._paused = False
        if self.channel is not None:
            self.channel.stream_drained()

    def stopProducing(self) -> None:
        """See Twisted."""

    @property
    def paused(self) -> bool:
        """Whether the stream takes no more at the moment."""
        return self._paused


class RelayChannel(Channel):
    """The channel's side. ``stream`` is connected already."""

    def __init__(self, stream: StreamEnd, **named: Any) -> None:
        super().__init__(**named)
        self._stream = stream
        self._owed = 0

    def channelOpen(self, specificData: bytes) -> None:
        """The peer knows of the channel: begin."""
        self._stream.attach(self)
        if not self._stream.lost:
            self._stream.transport.resumeProducing()

    def openFailed(self, reason: Any) -> None:
        """The connection went away meanwhile."""
        self._stream.transport.loseConnection()

    def data_view(self, view: memoryview) -> None:
        """Pass it on; credit follows when the stream has taken it."""
        stream = self._stream
        if stream.lost:
            self.consumed(len(view))
            return
        self._owed += len(view)
        stream.transport.write(bytes(view))
        if not stream.paused:
            self.stream_drained()

    def stream_drained(self) -> None:
        """The stream has taken what was written to it."""
        owed, self._owed = self._owed, 0
        if owed:
            self.consumed(owed)

    def stopWriting(self) -> None:
        """The channel is full: do not read the stream."""
        if not self._stream.lost:
            self._stream.transport.pauseProducing()

    def startWriting(self) -> None:
        """There is room again."""
        if not self._stream.lost:
            self._stream.transport.resumeProducing()

    def eofReceived(self) -> None:
        """The peer sends no more: neither do we."""
        self._stream.end_writes()

    def closed(self) -> None:
        """The channel is gone: close the stream after what was written to it."""
        super().closed()
        if not self._stream.lost:
            self._stream.transport.unregisterProducer()
            self._stream.transport.loseConnection()
