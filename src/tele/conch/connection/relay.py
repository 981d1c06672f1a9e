"""How do a channel and a stream become one?

Invariants:

* Neither side is read while the other cannot take more: what waits is bounded both ways,
  and so is how long, once one of them is gone.
* The end of one direction is told to the other side; when both ended, both close.
* Over a socket of ours the bytes go from it straight into a packet, and back.
"""

from __future__ import annotations

import socket as sockets
from typing import Any, Final
from typing import Protocol as Shape

from twisted.internet import main
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.channel import Channel
from tele.conch.connection.pumps import Rooms, move
from tele.sockets.direct import DirectSocket

#: Seconds that a stream has to take the rest, when its channel is gone.
LINGER: Final = 30.0


class RelayWatch(Shape):
    """Hears what becomes of one relay."""

    def opened(self, number: int) -> None:
        """The peer knows of the channel, which has our ``number``."""

    def refused(self, reason: Any) -> None:
        """There is no channel: the peer refused it, or is gone."""

    def closed(self, sent: int, received: int) -> None:
        """The channel is gone, after so many bytes to the stream and from it."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class StreamEnd(Protocol):
    """The stream's side: what it receives goes to ``channel``, once that is attached.

    ``sent`` and ``received`` count the bytes to the stream and from it.
    """

    transport: Any

    def __init__(self) -> None:
        self.channel: RelayChannel | None = None
        self._early: list[bytes] = []
        self._ended = False
        self._closing_writes = False
        self._paused = False
        self._direct = False
        self._linger: Any = None
        self.lost = False
        self.sent = self.received = 0
        self.watch: RelayWatch | None = None

    def connectionMade(self) -> None:
        """Be told when what we write does not leave."""
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        if isinstance(self.transport, DirectSocket):
            self._direct = True
            self.transport.speak_to(self)
        else:
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
        else:
            self.look()

    # -- from the stream --------------------------------------------------------------
    def socket_readable(self, socket: sockets.socket) -> Any:
        """Read ``socket`` into packets (see :class:`DirectSocket`)."""
        ended: Any = None

        def read(rooms: Rooms) -> int | None:
            nonlocal ended
            try:
                size = socket.recvmsg_into(rooms)[0]
            except BlockingIOError:
                return None
            except OSError:
                ended = main.CONNECTION_LOST
                return 0
            self.received += size
            return size

        if self.channel is not None and self.channel.has_room and move(self.channel, read):
            return ended or main.CONNECTION_DONE
        self.look()
        return None

    def dataReceived(self, data: bytes) -> None:
        """Pass it on; the channel says when it is too much."""
        self.received += len(data)
        if self.channel is not None:
            self.channel.write(data)
        else:
            self._early.append(data)
            self.transport.pauseProducing()

    def look(self) -> None:
        """Read the stream if the channel has room for it; wait for its turn if it has none."""
        channel = self.channel
        if self.lost or self._ended:
            return
        if channel is None or (self._direct and not channel.has_room) or channel.is_full:
            self.transport.pauseProducing()
            if self._direct and channel is not None:
                channel.wait_for_turn(self._turn)
        else:
            self.transport.resumeProducing()

    def _turn(self) -> None:
        """The socket of the channel's connection has room: use it before others do.

        The end of the stream is left to the reactor to find, which knows what to do about it.
        """
        if self.lost or self._ended or not self.transport.connected:
            return
        if self.socket_readable(self.transport.socket) is not None:
            self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """The stream sends no more."""
        self._ended = True
        if self.channel is not None:
            self.channel.send_eof()
        self._close_if_both_ended()

    # -- to the stream ----------------------------------------------------------------
    def send(self, view: memoryview) -> None:
        """Write to the stream."""
        self.sent += len(view)
        if self._direct:
            self.transport.send_now(view)
        else:
            self.transport.write(bytes(view))

    @property
    def busy(self) -> bool:
        """Whether the stream has not taken all that was written to it."""
        return self.transport.pending() > 0 if self._direct else self._paused

    def drained(self) -> None:
        """The stream has taken everything: let the channel's peer send more."""
        if self.channel is not None:
            self.channel.stream_drained()

    def pauseProducing(self) -> None:
        """What was written has not left."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It has left."""
        self._paused = False
        self.drained()

    def stopProducing(self) -> None:
        """See Twisted."""

    def end_writes(self) -> None:
        """The channel sends no more: tell the stream, after all that was written."""
        if self.lost or self._closing_writes:
            return
        self._closing_writes = True
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None:
            half_close()
        self._close_if_both_ended()

    # -- the end ----------------------------------------------------------------------
    def close(self, clock: Any) -> None:
        """Close after what was written, which has its time."""
        if self.lost:
            return
        if not self._direct:
            self.transport.unregisterProducer()
        self.transport.loseConnection()
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            self._linger = clock.callLater(LINGER, abort)

    def _close_if_both_ended(self) -> None:
        """Twisted leaves a connection open whose both halves are closed."""
        if self._ended and self._closing_writes and not self.lost:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The stream takes no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone: close the channel after what it said."""
        self.lost = True
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self.channel is not None:
            self.channel.give_up_turn(self._turn)
            self.channel.send_eof()
            self.channel.loseConnection()


class RelayChannel(Channel):
    """The channel's side. ``stream`` is connected already."""

    def __init__(self, stream: StreamEnd, **named: Any) -> None:
        super().__init__(**named)
        self._stream = stream
        self._owed = 0

    def channelOpen(self, specificData: bytes) -> None:
        """The peer knows of the channel: begin."""
        if self._stream.watch is not None:
            self._stream.watch.opened(self.id)
        self._stream.attach(self)

    def openFailed(self, reason: Any) -> None:
        """The peer refused the channel, or the connection went away meanwhile."""
        self._stream.transport.loseConnection()
        if self._stream.watch is not None:
            self._stream.watch.refused(reason)

    # -- to the stream ----------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Pass it on; credit follows when the stream has taken it."""
        stream = self._stream
        if stream.lost:
            self.consumed(len(view))
            return
        self._owed += len(view)
        stream.send(view)
        if not stream.busy:
            self.stream_drained()

    def stream_drained(self) -> None:
        """The stream has taken what was written to it."""
        owed, self._owed = self._owed, 0
        if owed:
            self.consumed(owed)

    def eofReceived(self) -> None:
        """The peer sends no more: neither do we."""
        self._stream.end_writes()

    # -- from the stream --------------------------------------------------------------
    @property
    def is_full(self) -> bool:
        """Whether so much waits that the stream should not be read."""
        return self._stopped

    def wait_for_turn(self, sender: Any) -> None:
        """Have ``sender`` called when the connection can send; not for want of window."""
        if self.is_open and self.remoteWindowLeft > 0:
            self.conn.turns.wait(sender)

    def give_up_turn(self, sender: Any) -> None:
        """``sender`` has nothing to send any more."""
        self.conn.turns.leave(sender)

    def window_opened(self) -> None:
        """There is credit again."""
        super().window_opened()
        self._stream.look()

    def drained(self) -> None:
        """What waited has left."""
        self._stream.look()

    def stopWriting(self) -> None:
        """The channel is full: do not read the stream."""
        self._stream.look()

    def startWriting(self) -> None:
        """There is room again."""
        self._stream.look()

    def closed(self) -> None:
        """The channel is gone: close the stream after what was written to it."""
        super().closed()
        stream = self._stream
        stream.close(self.conn.transport.clock)
        if stream.watch is not None:
            stream.watch.closed(stream.sent, stream.received)
