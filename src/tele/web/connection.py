"""How does a protocol for streams speak over a browser's WebSocket? It has this one's transport.

Invariants:

* Back-pressure passes both ways: the browser is not read while the inner protocol pauses, and its
  producer pauses while the browser does not read.
* A broken frame ends the connection; pings are answered with at most their own bytes, and only
  while the browser reads.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import ProtocolError
from tele.https.site import Switch
from tele.log import make_logger
from tele.web.websocket import CloseCode, Control, FrameReader, Opcode, close_frame, frame

_log: Final = make_logger(__name__)


class StreamTransport:
    """The transport of the inner protocol: what it writes is sent in binary frames."""

    def __init__(self, below: Any) -> None:
        self._below = below

    def write(self, data: bytes) -> None:
        """Send bytes of the stream."""
        if data:
            self._below.write(frame(data))

    def loseConnection(self) -> None:
        """Say that it ends, and close when all is sent."""
        self._below.write(close_frame(CloseCode.NORMAL))
        self._below.loseConnection()

    def abortConnection(self) -> None:
        """Close at once."""
        self._below.abortConnection()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Pause ``producer`` while the browser does not read."""
        self._below.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._below.unregisterProducer()

    def pauseProducing(self) -> None:
        """Do not read the browser."""
        self._below.pauseProducing()

    def resumeProducing(self) -> None:
        """Read it again."""
        self._below.resumeProducing()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send what is written at once."""
        self._below.setTcpNoDelay(enabled)

    def getPeer(self) -> IAddress:
        """Return the browser's address."""
        address: IAddress = self._below.getPeer()
        return address

    def getHost(self) -> IAddress:
        """Return the address that the browser connected to."""
        address: IAddress = self._below.getHost()
        return address


@implementer(IProtocol)
class WebSocketConnection(Protocol):
    """A connection after the switch to WebSocket."""

    transport: Any

    def __init__(self, inner: IProtocol) -> None:
        self._inner = inner
        self._reader = FrameReader()
        self._ended = False

    def connectionMade(self) -> None:
        """Begin the stream."""
        transport: Any = StreamTransport(self.transport)
        self._inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the browser."""
        try:
            for found in self._reader.feed(data):
                if self._ended:
                    return
                if isinstance(found, Control):
                    self._take_control(found)
                else:
                    self._inner.dataReceived(found)
        except ProtocolError as error:
            _log.debug("websocket ended", error=str(error))
            self._end(CloseCode.PROTOCOL_ERROR)

    def _take_control(self, control: Control) -> None:
        if control.opcode is Opcode.CLOSE:
            self._end(CloseCode.NORMAL)
        elif control.opcode is Opcode.PING:
            self.transport.write(frame(control.data, Opcode.PONG))

    def _end(self, code: CloseCode) -> None:
        self._ended = True
        self.transport.write(close_frame(code))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the inner protocol."""
        self._ended = True
        self._inner.connectionLost(reason)


@frozen
class WebSocketSwitch(Switch):
    """See :class:`tele.https.site.Switch`."""

    def around(self, inner: IProtocol) -> IProtocol:
        """Return the protocol of the connection."""
        return WebSocketConnection(inner)
