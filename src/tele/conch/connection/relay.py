"""How are a channel and a stream connected, such as a TCP connection?

Invariants:

* Neither side is read while the other cannot take more: queues are bounded both ways. After one
  side is closed the other has a limited time.
* EOF of one direction is passed on; after both, both sides close.
* Data of a :class:`~tele.sockets.direct.DirectSocket` go from the socket into a packet, and from
  a packet into the socket, without a copy.
"""

from __future__ import annotations

import socket as sockets
import typing
from typing import Any, Final

from twisted.internet import main
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.connection.channel import Channel
from tele.conch.connection.pumps import Buffers, move
from tele.conch.connection.write_scheduler import Sender
from tele.log import make_logger
from tele.sockets.direct import DirectSocket
from tele.sockets.protocols import SocketReader

log = make_logger(__name__)

#: Seconds that a stream has to take what was written to it, after its channel was closed.
LINGER: Final = 30.0


class RelayObserver(typing.Protocol):
    """Is told what happens to one relay."""

    def opened(self, number: int) -> Deferred[None] | None:
        """The channel is open; ``number`` is ours. None: relay at once.

        Otherwise fires when the client may receive something, and fails if it must not.
        """

    def refused(self, reason: Any) -> None:
        """The peer refused the channel, or the connection was lost."""

    def closed(self, sent: int, received: int) -> None:
        """The channel is closed, after so many bytes to the stream and from it."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class StreamEnd(SocketReader, Protocol):
    """The stream's side: what it receives is sent on ``channel``, once that is attached.

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
        self._linger: IDelayedCall | None = None
        self.lost = False
        self.sent = self.received = 0
        self.observer: RelayObserver | None = None

    def connectionMade(self) -> None:
        """Register for back-pressure of the stream."""
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        if isinstance(self.transport, DirectSocket):
            self._direct = True
            self.transport.speak_to(self)
        else:
            self.transport.registerProducer(self, True)

    def attach(self, channel: RelayChannel) -> None:
        """Send on ``channel`` what was received and what follows."""
        self.channel = channel
        early, self._early = self._early, []
        for data in early:
            channel.write(data)
        if self.lost or self._ended:
            channel.send_eof()
        if self.lost:
            channel.loseConnection()
        else:
            self.update_reading()

    def release(self) -> tuple[Any, bytes]:
        """Return the connection, which has no channel yet, and what was received from it.

        Nothing of this stream is between the two from now on.
        """
        early, self._early = self._early, []
        if not self._direct:
            self.transport.unregisterProducer()
        return self.transport, b"".join(early)

    # -- from the stream --------------------------------------------------------------
    def socket_readable(self, socket: sockets.socket) -> Any:
        """Read ``socket`` into packets (see :class:`DirectSocket`)."""
        ended: Any = None

        def read(buffers: Buffers) -> int | None:
            nonlocal ended
            try:
                size = socket.recvmsg_into(buffers)[0]
            except BlockingIOError:
                return None
            except OSError:
                ended = main.CONNECTION_LOST
                return 0
            self.received += size
            return size

        if self.channel is not None and self.channel.is_writable and move(self.channel, read):
            return ended or main.CONNECTION_DONE
        self.update_reading()
        return None

    def dataReceived(self, data: bytes) -> None:
        """Send data on the channel, which pauses the stream when its queue is long."""
        self.received += len(data)
        if self.channel is not None:
            self.channel.write(data)
        else:
            self._early.append(data)
            self.transport.pauseProducing()

    def update_reading(self) -> None:
        """Read the stream if the channel takes data; else pause it until the channel does."""
        channel = self.channel
        if self.lost or self._ended:
            return
        if channel is None or (self._direct and not channel.is_writable) or channel.is_full:
            self.transport.pauseProducing()
            if self._direct and channel is not None:
                channel.schedule(self._send_scheduled)
        else:
            self.transport.resumeProducing()

    def _send_scheduled(self) -> None:
        """The connection of the channel can send: read and send at once.

        At the end of the stream the reactor reads again, and closes it.
        """
        if self.lost or self._ended or not self.transport.connected:
            return
        if self.socket_readable(self.transport.socket) is not None:
            self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """The stream ended its direction: send EOF."""
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
        """Whether data that were written to the stream are queued."""
        return self.transport.pending() > 0 if self._direct else self._paused

    def drained(self) -> None:
        """The stream has taken all data: give the channel's peer credit."""
        if self.channel is not None:
            self.channel.stream_drained()

    def pauseProducing(self) -> None:
        """See ``IPushProducer``: the stream has a long queue."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``: the stream has sent it."""
        self._paused = False
        self.drained()

    def stopProducing(self) -> None:
        """See ``IPushProducer``; ``connectionLost`` follows."""

    def end_writes(self) -> None:
        """The channel's peer sent EOF: half-close the stream after what was written."""
        if self.lost or self._closing_writes:
            return
        self._closing_writes = True
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None:
            half_close()
        self._close_if_both_ended()

    # -- the end ----------------------------------------------------------------------
    def close(self, clock: IReactorTime) -> None:
        """Close after what was written was sent, or after LINGER seconds."""
        if self.lost:
            return
        if not self._direct:
            self.transport.unregisterProducer()
        self.transport.loseConnection()
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            self._linger = clock.callLater(LINGER, abort)

    def _close_if_both_ended(self) -> None:
        """Close: Twisted keeps a connection open of which both directions have ended."""
        if self._ended and self._closing_writes and not self.lost:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """See ``IHalfCloseableProtocol``."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream was closed: close the channel after the data that it sent."""
        self.lost = True
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self.channel is not None:
            self.channel.unschedule(self._send_scheduled)
            self.channel.send_eof()
            self.channel.loseConnection()


class RelayChannel(Channel):
    """The channel's side. ``stream`` is connected already."""

    def __init__(self, stream: StreamEnd, **named: Any) -> None:
        super().__init__(**named)
        self._stream = stream
        self._uncredited = 0

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open: start relaying."""
        observer = self._stream.observer
        wait = None if observer is None else observer.opened(self.id)
        if wait is None:
            self._stream.attach(self)
        else:
            wait.addCallbacks(self._may_relay, self._must_not)

    def _may_relay(self, _: None) -> None:
        if self.is_open:
            self._stream.attach(self)

    def _must_not(self, failure: Failure) -> None:
        """The connection ends."""
        if self.is_open:
            log.info("forward closed", error=failure.getErrorMessage())
            self.withdraw()

    def withdraw(self) -> None:
        """See :class:`Channel`: the stream is aborted."""
        stream = self._stream
        if not stream.lost:
            stream.lost = True  # nothing is written to it from now on
            stream.transport.abortConnection()
        super().withdraw()

    def openFailed(self, reason: Any) -> None:
        """The peer refused the channel, or the connection was lost."""
        self._stream.transport.loseConnection()
        if self._stream.observer is not None:
            self._stream.observer.refused(reason)

    # -- to the stream ----------------------------------------------------------------
    def data_view(self, view: memoryview) -> None:
        """Write to the stream; credit follows when the stream has taken it."""
        stream = self._stream
        if stream.lost:
            self.consumed(len(view))
            return
        self._uncredited += len(view)
        stream.send(view)
        if not stream.busy:
            self.stream_drained()

    def stream_drained(self) -> None:
        """The stream has taken what was written to it: give credit."""
        count, self._uncredited = self._uncredited, 0
        if count:
            self.consumed(count)

    def eofReceived(self) -> None:
        """The peer sent EOF: pass it on."""
        self._stream.end_writes()

    # -- from the stream --------------------------------------------------------------
    @property
    def is_full(self) -> bool:
        """Whether the queue is so long that the stream should not be read."""
        return self._stopped

    def schedule(self, sender: Sender) -> None:
        """Call ``sender`` when the connection can send, unless the window is used up."""
        if self.is_open and self.remoteWindowLeft > 0:
            self.conn.write_scheduler.wait(sender)

    def unschedule(self, sender: Sender) -> None:
        """Do not call ``sender`` any more."""
        self.conn.write_scheduler.cancel(sender)

    def window_opened(self) -> None:
        """See :class:`Channel`."""
        super().window_opened()
        self._stream.update_reading()

    def drained(self) -> None:
        """See :class:`Channel`."""
        self._stream.update_reading()

    def stopWriting(self) -> None:
        """The queue is long: pause the stream."""
        self._stream.update_reading()

    def startWriting(self) -> None:
        """The queue is short again: resume the stream."""
        self._stream.update_reading()

    def closed(self) -> None:
        """The channel is closed: close the stream after what was written to it."""
        super().closed()
        stream = self._stream
        stream.close(self.conn.transport.clock)
        if stream.observer is not None:
            stream.observer.closed(stream.sent, stream.received)
