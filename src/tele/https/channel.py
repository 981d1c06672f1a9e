"""What may a peer do to the HTTP server before anybody looks at its request?

Twisted's HTTP channel, with bounds on everything that a peer can make long.

Laws of this file:

* A request is refused as soon as its head is known: no body is read that would not
  be used, and none is longer than its operation allows.
* Time is bounded as a whole, not by "some byte came": a handshake, a head and a body
  each have a deadline that dripping does not move.
* Bodies stay in memory; their number and size are bounded, so no temporary files.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import provider

from tele.https.callers import Peer
from tele.loop import make_logger
from tele.model.identity import Identity

_log: Final = make_logger(__name__)


@frozen
class Limits:
    """Bounds of the server. A stranger is a connection without a client certificate.

    ``backlog`` is how many bytes a stream may be ahead of its reader; ``silence``
    how long a peer may leave what was sent to it unacknowledged, ``last_answers`` how
    long answers are waited for when the server closes.
    """

    handshake: timedelta = timedelta(seconds=15)
    head: timedelta = timedelta(seconds=15)
    idle: timedelta = timedelta(seconds=75)
    keepalive: timedelta = timedelta(seconds=15)
    silence: timedelta = timedelta(seconds=45)
    last_answers: timedelta = timedelta(seconds=5)
    head_bytes: int = 16 * 1024
    headers: int = 64
    connections: int = 65536
    strangers: int = 512
    backlog: int = 8 * 1024 * 1024


@provider(INonQueuedRequestFactory)
class ApiRequest(Request):
    """One request. What to do with it is the factory's ``on_head`` and ``on_request``."""

    #: Set by ``on_head``: what the request was found to be.
    found: Any = None
    #: Whether the answer has no end of its own.
    streaming = False
    channel: ApiChannel
    content: BytesIO

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory: its length was checked already."""
        self.content = BytesIO()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take the complete request. Twisted's own would parse forms, which we have none of."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.content.seek(0)
        self.channel.api.on_request(self)


class ApiChannel(HTTPChannel):
    """One connection."""

    requestFactory = ApiRequest
    requests: list[ApiRequest]
    transport: Any

    def __init__(self, api: ApiFactory) -> None:
        super().__init__()
        self.api = api
        self.maxHeaders = api.limits.headers
        self.totalHeadersSize = api.limits.head_bytes
        self.timeOut = int(api.limits.handshake.total_seconds())
        self._deadline: IDelayedCall | None = None
        self._refused = False
        #: Who is at the other end of a local socket, as the kernel says.
        self.local_identity: Identity | None = None
        self._peer: Peer | None = None

    def callLater(self, delay: float, call: Callable[[], None]) -> IDelayedCall:
        """What Twisted's timeouts run on."""
        return self.api.clock.callLater(delay, call)

    def connectionMade(self) -> None:
        """Start the clock of the handshake."""
        _notice_dead_peers(self.transport, self.api.limits.silence)
        self.api.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take decrypted bytes."""
        if self._refused:
            return
        if not self._handlingRequest and self._deadline is None:
            self.timeOut = int(self.api.limits.idle.total_seconds())
            if self.local_identity is not None or self.peer is not None:
                self.api.recognised(self)
            self._within(self.api.limits.head)
        super().dataReceived(data)

    @property
    def peer(self) -> Peer | None:
        """Who showed a certificate at the other end, or None."""
        if self._peer is None and self.local_identity is None:
            shown = self.transport.getPeerCertificate
            if shown() is not None:
                self._peer = Peer(lambda: shown().to_cryptography())
        return self._peer

    @property
    def answering(self) -> bool:
        """Whether a request waits for its one answer."""
        return self._handlingRequest and not self.requests[0].streaming

    def _within(self, time: timedelta) -> None:
        self._stop_deadline()
        self._deadline = self.api.clock.callLater(time.total_seconds(), self._too_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self.timeoutConnection()

    def timeoutConnection(self) -> None:
        """Give up on a peer that is too slow: whoever dribbles will not read an answer."""
        _log.debug("connection from {peer!r} timed out", peer=self.transport.getPeer())
        self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the head; nothing is looked at after one that was refused."""
        if not self._refused:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """Refuse now what would be refused later, before its body comes."""
        request = self.requests[-1]
        time = self.api.on_head(request, self._command, self._path, self.length)
        if time is None:
            # The answer is in ``found``. The body, if any, is not waited for.
            request.requestHeaders.removeHeader(b"expect")
            super().allHeadersReceived()
            if self.length != 0:
                request.responseHeaders.setRawHeaders(b"connection", [b"close"])
                self.persistent = False
                self.length = 0
            return
        self._within(time)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is complete; how long its answer takes is not the peer's fault."""
        self._stop_deadline()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """Go on with the next request, whose time starts if it is here already."""
        super().requestDone(request)
        if self.requests and not self._handlingRequest and self._deadline is None:
            self._within(self.api.limits.head)

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Called for every malformed head. Twisted would go on to read lines that
        # came together with the bad one.
        if not self._refused:
            self._refused = True
            super()._respondToBadRequestAndDisconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it."""
        self._stop_deadline()
        self.api.closed(self)
        super().connectionLost(reason)


def _notice_dead_peers(transport: Any, silence: timedelta) -> None:
    # The TLS protocol's own transport is the TCP one; in memory there is no socket.
    connected = getattr(getattr(transport, "transport", None), "socket", None)
    if isinstance(connected, socket.socket):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(silence.total_seconds() * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


class TlsFactory(TLSMemoryBIOFactory):
    """Wraps :class:`ApiFactory` in TLS; drops connections over the limit before any work."""

    noisy = False
    wrappedFactory: ApiFactory

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection, or None to drop it."""
        if self.wrappedFactory.full:
            _log.warn("too many connections: {peer!r} is dropped", peer=addr)
            return None
        return super().buildProtocol(addr)


class LocalFactory(ServerFactory):
    """Serves the same API on a Unix socket: the kernel says which account is at the other end.

    ``identify(uid)`` returns who that is to the API, or None to close the connection.
    """

    noisy = False

    def __init__(self, api: ApiFactory, identify: Callable[[int], Identity | None]) -> None:
        self._api = api
        self._identify = identify

    def buildProtocol(self, addr: IAddress | None) -> LocalChannel | None:
        """Return the protocol of a new connection."""
        if self._api.full:
            return None
        channel = LocalChannel(self._api)
        channel.factory = self._api
        channel.identify = self._identify
        return channel


class LocalChannel(ApiChannel):
    """One connection on a Unix socket."""

    identify: Callable[[int], Identity | None]

    def connectionMade(self) -> None:
        """Ask the kernel who it is (unix(7), SO_PEERCRED) before anything is read."""
        credentials = self.transport.socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        _, uid, _ = struct.unpack("3i", credentials)
        self.local_identity = self.identify(uid)
        super().connectionMade()
        if self.local_identity is None:
            self.transport.abortConnection()


class ApiFactory(ServerFactory):
    """Makes connections and counts them.

    ``on_head(request, method, target, length)`` says how long the body may take, or
    None when the request is refused (it put the answer into ``request.found``);
    ``length`` is None for a chunked body. ``on_request(request)`` answers.

    Over the limit of all connections, new ones are dropped. Strangers have a smaller
    limit of their own, over which the oldest of them is dropped: so they can neither
    keep members out nor, by sitting, each other.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        on_head: Callable[[ApiRequest, bytes, bytes, int | None], timedelta | None],
        on_request: Callable[[ApiRequest], None],
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.on_head = on_head
        self.on_request = on_request
        self._all: set[ApiChannel] = set()
        self._empty: Deferred[None] | None = None
        self._strangers: OrderedDict[ApiChannel, None] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether there is no room for another connection."""
        return len(self._all) >= self.limits.connections

    def buildProtocol(self, addr: IAddress | None) -> ApiChannel:
        """Return the protocol of a new connection."""
        channel = ApiChannel(self)
        channel.factory = self
        return channel

    def opened(self, channel: ApiChannel) -> None:
        """A connection starts, as a stranger's."""
        self._all.add(channel)
        self._strangers[channel] = None
        if len(self._strangers) > self.limits.strangers:
            oldest, _ = self._strangers.popitem(last=False)
            oldest.transport.abortConnection()

    def recognised(self, channel: ApiChannel) -> None:
        """It showed a client certificate."""
        self._strangers.pop(channel, None)

    def closed(self, channel: ApiChannel) -> None:
        """A connection ended."""
        self._all.discard(channel)
        self._strangers.pop(channel, None)
        if self._empty is not None and not self._all:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def close_all(self) -> None:
        """End all connections at once."""
        for channel in list(self._all):
            channel.transport.abortConnection()

    async def wind_down(self, time: timedelta) -> None:
        """End all connections, those that wait for an answer when they have it.

        What is not done within ``time`` is cut off, and so are streams.
        """
        for channel in list(self._all):
            if channel.answering:
                channel.persistent = False
            else:
                channel.transport.abortConnection()
        if self._all:
            self._empty = Deferred()
            end = self.clock.callLater(time.total_seconds(), self.close_all)
            await self._empty
            if end.active():
                end.cancel()

    def log(self, request: Request) -> None:
        """Twisted's access log; ours is the audit."""
