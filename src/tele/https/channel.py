"""What may a peer send to the API's server, how much of it, and for how long?

Twisted's HTTP channel, with bounds on everything that a peer can make long.

Invariants:

* A request is refused as soon as its head is read and its caller is known: no body is read
  that would not be used, and none is longer than its operation allows.
* Time is bounded as a whole: a handshake, a head and a body each have a deadline that single
  bytes do not move.
* Bodies stay in memory, in no temporary files; their number and size are bounded. So is what
  a peer sends before it has the response to what it sent before.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import provider

from tele.admission.shares import Shares
from tele.https.callers import Peer
from tele.https.limits import Limits
from tele.log import make_logger
from tele.model.addresses import Address, plain_host, source_network
from tele.model.identity import Identity
from tele.sockets.tcp import notice_dead_peer_below

_log: Final = make_logger(__name__)

#: Bytes that can arrive after reading was paused: they were decrypted with those before.
IN_FLIGHT: Final = 256 * 1024


class Connections(Protocol):
    """The connections of a server; :class:`tele.https.connections.ApiFactory` is one."""

    clock: IReactorTime
    limits: Limits
    unread: Shares
    on_head: Callable[[ApiRequest, bytes, bytes, int | None], timedelta | None]
    on_body: Callable[[ApiRequest], Deferred[bool]]
    on_request: Callable[[ApiRequest], None]

    def opened(self, channel: ApiChannel) -> None:
        """Count a new connection, which is unauthenticated."""

    def authenticated(self, channel: ApiChannel) -> bool:
        """Count it no longer as unauthenticated. Returns whether it was."""

    def may_shake_hands(self, source: str) -> bool:
        """Whether one more TLS handshake may begin with a client from ``source``."""

    def member_connected(self, source: str) -> None:
        """A handshake with a client from ``source`` was a member's: it does not count."""

    def closed(self, channel: ApiChannel) -> None:
        """Forget a connection that ended."""


@provider(INonQueuedRequestFactory)
class ApiRequest(Request):
    """One request. What to do with it is the factory's ``on_head`` and ``on_request``."""

    #: Set by ``on_head``: how the request is answered (:mod:`tele.https.decisions`).
    decision: Any = None
    #: Whether the response is a stream.
    streaming = False
    channel: ApiChannel
    content: BytesIO

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory: its length was checked already."""
        self.content = BytesIO()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take the complete request. Twisted's own would parse forms, which the API has none of."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.content.seek(0)
        self.channel.api.on_request(self)


class ApiChannel(HTTPChannel):
    """One connection."""

    requestFactory = ApiRequest
    requests: list[ApiRequest]
    transport: Any

    def __init__(self, api: Connections) -> None:
        super().__init__()
        self.api = api
        self.maxHeaders = api.limits.headers
        self.totalHeadersSize = api.limits.head_bytes
        self.timeOut = int(api.limits.handshake.total_seconds())
        self._deadline: IDelayedCall | None = None
        self._refused = False
        #: Whether the current line is not the first one of a head.
        self._head_began = False
        #: The peer of a local socket, by its account.
        self.local_identity: Identity | None = None
        self._peer: Peer | None = None
        self._checking = False
        #: Whether it announced a body that was refused.
        self._unwanted = False
        self._ahead = 0
        self._unread = 0
        #: The user or host whose connection it is counted as.
        self.caller_key = ""
        #: The network of the client.
        self.source = ""
        #: The proxy that relays it.
        self.proxy: IAddress | None = None
        self._lost = False
        self._switched: IProtocol | None = None

    def callLater(self, delay: float, call: Callable[[], None]) -> IDelayedCall:
        """Return a timer of the clock, for Twisted's timeouts."""
        return self.api.clock.callLater(delay, call)

    def connectionMade(self) -> None:
        """Start the timeout of the handshake."""
        silence = self.api.limits.silence
        notice_dead_peer_below(self.transport, int(silence.total_seconds()))
        self.source = _network(self.transport)
        self.api.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take decrypted bytes."""
        if self._switched is not None:
            self._switched.dataReceived(data)
            return
        if self._refused:
            return
        if self._checking:
            # Reading is paused: these bytes were in flight, or the peer ignores TCP's window.
            if len(self._buffer) + len(data) > IN_FLIGHT:
                self.transport.abortConnection()
            else:
                self._buffer += data
            return
        if not self._handlingRequest and self._deadline is None:
            self.timeOut = int(self.api.limits.idle.total_seconds())
            member = self.local_identity is not None or self.peer is not None
            if member and self.api.authenticated(self):
                self.api.member_connected(self.source)
            self._within(self.api.limits.head)
        super().dataReceived(data)

    def relayed_by(self, proxy: IAddress) -> None:
        """The client is behind ``proxy``: the connection counts for the client's network."""
        self.proxy = proxy
        is_new = self.api.authenticated(self)
        self.source = _network(self.transport)
        if is_new:
            self.api.opened(self)

    def rawDataReceived(self, data: bytes) -> None:
        """Take bytes of a body; while a response is made, a bounded number of what follows."""
        if not self._handlingRequest:
            super().rawDataReceived(data)
            return
        # Twisted would count all its bytes each time, and not stop a peer that reads nothing.
        self._ahead += len(data)
        self._dataBuffer.append(data)
        if self._ahead > self.api.limits.ahead + IN_FLIGHT:
            self.transport.abortConnection()
        elif self._ahead > self.api.limits.ahead:
            self._networkProducer.pauseProducing()

    @property
    def peer(self) -> Peer | None:
        """The peer by the certificate that it showed, or None."""
        if self._peer is None and self.local_identity is None:
            shown = self.transport.getPeerCertificate
            if shown() is not None:
                self._peer = Peer(lambda: shown().to_cryptography())
        return self._peer

    @property
    def answering(self) -> bool:
        """Whether a request waits for its response."""
        return self._handlingRequest and not self.requests[0].streaming

    def _within(self, time: timedelta) -> None:
        self._stop_deadline()
        self._deadline = self.api.clock.callLater(time.total_seconds(), self._time_out)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        self.timeoutConnection()

    def timeoutConnection(self) -> None:
        """Abort: a peer that sends too slowly would not read a response."""
        _log.debug("connection timed out", peer=address_text(self.transport.getPeer()))
        self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the head; lines after one that was refused are dropped.

        Folded lines are refused (RFC 9112, section 5.2): Twisted does not count them as headers.
        """
        if not self._refused:
            if line[:1] in (b" ", b"\t"):
                self._respondToBadRequestAndDisconnect()
            else:
                self._head_began = self._receivedHeaderSize > 0
                super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line of the head that is longer than all of it may be."""
        self._head_began = self._receivedHeaderSize > 0
        self._receivedHeaderSize += len(line)
        self._respondToBadRequestAndDisconnect()

    def allHeadersReceived(self) -> None:
        """Decide by the head, before the body is read."""
        request = self.requests[-1]
        time = self.api.on_head(request, self._command, self._path, self.length)
        if time is not None:
            self._within(time)
        if time is None or self.length == 0:
            self._decided(time is not None)
            return
        self._checking = True
        self.api.on_body(request).addCallback(self._checked)
        if self._checking:
            self.paused = True
            self._networkProducer.pauseProducing()

    def _checked(self, allowed: bool) -> None:
        self._checking = False
        if not self.paused:
            self._decided(allowed)
            return
        self.paused = False
        if self._lost:
            return
        self._decided(allowed)
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()
        if allowed:
            self.dataReceived(b"")
        else:
            self.allContentReceived()

    def _decided(self, allowed: bool) -> None:
        """Read the body of a request, or answer it by its decision without the body."""
        request = self.requests[-1]
        if allowed:
            super().allHeadersReceived()
            return
        request.requestHeaders.removeHeader(b"expect")
        super().allHeadersReceived()
        if self.length != 0:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            self.persistent = False
            self.length = 0
            self._buffer = b""
            self._unwanted = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``: the peer has read what was sent to it."""
        self._read()
        if self._checking:
            self._waitingForTransport = False
        else:
            super().resumeProducing()

    def answered(self, size: int) -> None:
        """A response of ``size`` bytes was given to the transport: it counts until it is read."""
        if self._waitingForTransport and self.caller_key:
            self._unread += size
            self.api.unread.take(self.caller_key, size)

    def switch(self, head: bytes, protocol: IProtocol) -> None:
        """Answer a request with ``head``; ``protocol`` has the connection from then on.

        It does not count as one of this server any more. What the client sent after its request,
        without waiting for the answer, is dropped.
        """
        self.api.closed(self)
        self._stop_deadline()
        self.setTimeout(None)
        self.transport.unregisterProducer()
        self.transport.write(head)
        self._switched = protocol
        protocol.makeConnection(self.transport)

    def _read(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, 0
            self.api.unread.give_back(self.caller_key, unread)

    def allContentReceived(self) -> None:
        """The request is complete: the time that its response takes is not the peer's."""
        self._stop_deadline()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """Begin the next request, whose time starts if it has arrived already."""
        self._ahead = 0
        super().requestDone(request)
        if not self.persistent:
            self._refused = True  # what it still sends is dropped
            limits = self.api.limits
            self._within(limits.last_answers if self._unwanted else limits.idle)
        elif self.requests and not self._handlingRequest and self._deadline is None:
            self._within(self.api.limits.head)

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Called for every malformed head. Twisted would read on lines that came together
        # with the bad one, and always answer 400.
        if not self._refused:
            self._refused = True
            status = b"400 Bad Request"
            if self._receivedHeaderSize > self.totalHeadersSize and not self._head_began:
                status = b"414 URI Too Long"
            elif (
                self._receivedHeaderSize > self.totalHeadersSize
                or self._receivedHeaderCount > self.maxHeaders
            ):
                status = b"431 Request Header Fields Too Large"
            self.transport.write(
                b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status
            )
            self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self._lost = True
        self._stop_deadline()
        self._read()
        self.api.closed(self)
        super().connectionLost(reason)
        if self._switched is not None:
            self._switched.connectionLost(reason)


def _network(transport: Any) -> str:
    return source_network(getattr(transport.getPeer(), "host", "") or "")


def address_text(peer: Any) -> str:
    """Return ``host:port`` of one of Twisted's addresses; nothing if it has no host."""
    host = plain_host(getattr(peer, "host", ""))
    return str(Address(host, peer.port)) if host else ""
