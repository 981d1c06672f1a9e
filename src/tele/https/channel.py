"""What may a peer do to the HTTP server before anybody looks at its request?

Twisted's HTTP channel, with bounds on everything that a peer can make long.

Invariants:

* A request is refused as soon as its head is known, and so is its caller: no body is read
  that would not be used, and none is longer than its operation allows.
* Time is bounded as a whole, not by "some byte came": a handshake, a head and a body
  each have a deadline that dripping does not move.
* Bodies stay in memory; their number and size are bounded, so no temporary files. So is what
  a peer sends before it has the answer to what it sent before.
* Of strangers' places one address cannot take the part of others.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import provider

from tele.admission.rate_limiter import RateLimiter
from tele.admission.shares import Shares
from tele.https.callers import Peer
from tele.https.limits import Limits as Limits
from tele.log import make_logger
from tele.model.addresses import source_network
from tele.model.identity import Identity
from tele.sockets.tcp import notice_dead_peer_below

_log: Final = make_logger(__name__)

#: What can arrive of a peer that is not read from any more: what was decrypted with the rest.
IN_FLIGHT: Final = 256 * 1024
UNBOUNDED: Final = 1 << 62
#: Networks of members that are remembered.
MEMBER_SOURCES_LIMIT: Final = 65536


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
        #: Whether the line that is looked at is not the first one of a head.
        self._head_began = False
        #: Who is at the other end of a local socket, as the kernel says.
        self.local_identity: Identity | None = None
        self._peer: Peer | None = None
        self._checking = False
        #: Whether it announced a body that was refused.
        self._unwanted = False
        self._ahead = 0
        self._unread = 0
        #: As whom this connection is counted among those of its person or machine.
        self.belongs_to = ""
        #: The network that it comes from.
        self.source = ""
        #: The proxy that passed it on.
        self.proxy: IAddress | None = None
        self._lost = False

    def callLater(self, delay: float, call: Callable[[], None]) -> IDelayedCall:
        """What Twisted's timeouts run on."""
        return self.api.clock.callLater(delay, call)

    def connectionMade(self) -> None:
        """Start the clock of the handshake."""
        silence = self.api.limits.silence
        notice_dead_peer_below(self.transport, int(silence.total_seconds()))
        self.source = _network(self.transport)
        self.api.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take decrypted bytes."""
        if self._refused:
            return
        if self._checking:
            # It is not read from: this is what was on its way, or it does not keep to TCP.
            if len(self._buffer) + len(data) > IN_FLIGHT:
                self.transport.abortConnection()
            else:
                self._buffer += data
            return
        if not self._handlingRequest and self._deadline is None:
            self.timeOut = int(self.api.limits.idle.total_seconds())
            member = self.local_identity is not None or self.peer is not None
            if member and self.api.recognised(self):
                self.api.member_came(self.source)
            self._within(self.api.limits.head)
        super().dataReceived(data)

    def moved(self, proxy: IAddress) -> None:
        """Its peer is behind the proxy at an address: it is one of that network from now on."""
        self.proxy = proxy
        stranger = self.api.recognised(self)
        self.source = _network(self.transport)
        if stranger:
            self.api.opened(self)

    def rawDataReceived(self, data: bytes) -> None:
        """Take bytes of a body; while an answer is made, so many of what follows, and no more."""
        if not self._handlingRequest:
            super().rawDataReceived(data)
            return
        # Twisted would count all it has at each byte, and not stop a peer that reads nothing.
        self._ahead += len(data)
        self._dataBuffer.append(data)
        if self._ahead > self.api.limits.ahead + IN_FLIGHT:
            self.transport.abortConnection()
        elif self._ahead > self.api.limits.ahead:
            self._networkProducer.pauseProducing()

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
        """Take a line of the head; nothing is looked at after one that was refused.

        Lines that go on (RFC 9112, section 5.2, lets a server refuse them) count as headers
        nowhere.
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
        """Refuse now what would be refused later, before its body comes."""
        request = self.requests[-1]
        time = self.api.on_head(request, self._command, self._path, self.length)
        if time is not None:
            self._within(time)
        if time is None or self.length == 0:
            self._decided(time is not None)
            return
        self._checking = True
        self.api.on_body(request).addCallback(self._checked)
        if self._checking:  # it is not decided yet
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
        """Go on with a request: with its body, or with the answer in ``found`` without it."""
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
        """The peer read what was sent to it."""
        self._read()
        if self._checking:
            self._waitingForTransport = False
        else:
            super().resumeProducing()

    def answered(self, size: int) -> None:
        """An answer of ``size`` bytes was given to the transport: it counts until it is read."""
        if self._waitingForTransport and self.belongs_to:
            self._unread += size
            self.api.unread.take(self.belongs_to, size)

    def _read(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, 0
            self.api.unread.give_back(self.belongs_to, unread)

    def allContentReceived(self) -> None:
        """The request is complete; how long its answer takes is not the peer's fault."""
        self._stop_deadline()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """Go on with the next request, whose time starts if it is here already."""
        self._ahead = 0
        super().requestDone(request)
        if not self.persistent:
            self._refused = True  # what it still sends is not looked at
            limits = self.api.limits
            self._within(limits.last_answers if self._unwanted else limits.idle)
        elif self.requests and not self._handlingRequest and self._deadline is None:
            self._within(self.api.limits.head)

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Called for every malformed head. Twisted would go on to read lines that
        # came together with the bad one, and say 400 whatever is wrong.
        if not self._refused:
            self._refused = True
            said = b"400 Bad Request"
            if self._receivedHeaderSize > self.totalHeadersSize and not self._head_began:
                said = b"414 URI Too Long"
            elif (
                self._receivedHeaderSize > self.totalHeadersSize
                or self._receivedHeaderCount > self.maxHeaders
            ):
                said = b"431 Request Header Fields Too Large"
            self.transport.write(
                b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % said
            )
            self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it."""
        self._lost = True
        self._stop_deadline()
        self._read()
        self.api.closed(self)
        super().connectionLost(reason)


def _network(transport: Any) -> str:
    return source_network(getattr(transport.getPeer(), "host", "") or "")


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


class ApiFactory(ServerFactory):
    """Makes connections and counts them.

    ``on_head(request, method, target, length)`` says how long the body may take, or
    None when the request is refused (it put the answer into ``request.found``);
    ``length`` is None for a chunked body. ``on_request(request)`` answers.

    Between the two, if a body is announced, ``on_body(request)`` says whether it may come; the
    Deferred never fails.

    Over the limit of all connections, new ones are dropped. Strangers have a smaller
    limit of their own, over which the oldest of those is dropped that come from the network with
    the most of them: so they can neither keep members out nor, by sitting or by coming in
    thousands, each other.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        on_head: Callable[[ApiRequest, bytes, bytes, int | None], timedelta | None],
        on_request: Callable[[ApiRequest], None],
        on_body: Callable[[ApiRequest], Deferred[bool]] = lambda _: succeed(True),
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.on_head = on_head
        self.on_body = on_body
        self.on_request = on_request
        self._all: set[ApiChannel] = set()
        self._empty: Deferred[None] | None = None
        self._strangers: dict[str, dict[ApiChannel, None]] = {}
        self._strangers_count = 0
        self._members = Shares(limits.connections_per_caller, limits.connections)
        self._handshakes, self._home_handshakes = (
            RateLimiter(factor * limits.handshakes_burst, factor * limits.handshakes_per_second)
            for factor in (1, limits.home_factor)
        )
        #: Networks from which members came, the last ones at the end.
        self._homes: dict[str, None] = {}
        #: What was answered and is not read yet, by caller.
        self.unread = Shares(UNBOUNDED, UNBOUNDED)

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
        self._strangers.setdefault(channel.source, {})[channel] = None
        self._strangers_count += 1
        if self._strangers_count > self.limits.strangers:
            most = max(self._strangers.values(), key=len)
            oldest = next(iter(most))
            self.recognised(oldest)
            oldest.transport.abortConnection()

    def recognised(self, channel: ApiChannel) -> bool:
        """It showed a client certificate, or goes: it is no stranger's any more, if it was one."""
        of_source = self._strangers.get(channel.source, {})
        if channel not in of_source:
            return False
        del of_source[channel]
        self._strangers_count -= 1
        if not of_source:
            del self._strangers[channel.source]
        return True

    def may_shake_hands(self, source: str) -> bool:
        """Whether one more TLS handshake may begin with somebody from ``source``."""
        rates = self._home_handshakes if source in self._homes else self._handshakes
        return rates.take(source, self.clock.seconds())

    def member_came(self, source: str) -> None:
        """A handshake with somebody from ``source`` was a member's."""
        rates = self._home_handshakes if source in self._homes else self._handshakes
        rates.give_back(source)
        self._homes.pop(source, None)
        while len(self._homes) >= MEMBER_SOURCES_LIMIT:
            del self._homes[next(iter(self._homes))]
        self._homes[source] = None

    def belongs(self, channel: ApiChannel, caller: str) -> bool:
        """It is a connection of ``caller``. False: they have too many already."""
        if not channel.belongs_to and self._members.take(caller):
            channel.belongs_to = caller
        return bool(channel.belongs_to)

    def closed(self, channel: ApiChannel) -> None:
        """A connection ended."""
        self._all.discard(channel)
        self.recognised(channel)
        if channel.belongs_to:
            self._members.give_back(channel.belongs_to)
            channel.belongs_to = ""
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
