"""What is behind the proxy's port, other than SSH?

Invariants:

* What is meant for auth passes through as it is: the proxy neither reads nor changes it, and
  only says before it where it comes from.
* A connection to auth has a deadline until auth has answered it, which bytes do not move; after
  that it ends when nothing was sent for longer than the API lets it be quiet.
* The proxy's own HTTPS tells strangers that it is there, and nothing of the cluster's inside. It
  takes no body, and its handshake, each head and the pause between requests have deadlines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from tele._version import VERSION
from tele.https.channel import ApiRequest
from tele.https.connections import ApiFactory, TlsFactory
from tele.https.limits import Limits
from tele.proxy.admission import Slot
from tele.proxy.demultiplexer import TlsRoute
from tele.proxy.tls_records import Handshake

#: From the connection on until auth has answered the end of the client's handshake.
HANDSHAKE_SECONDS: Final = 20.0
#: Silence both ways on a connection to auth. Longer than any call of the API takes, than auth
#: waits for the next one, and than a stream is without a sign of life.
RELAY_IDLE_SECONDS: Final = 180.0
#: Our own pages: what a connection may take for its TLS handshake, for the head of a request, and
#: between requests.
PAGES: Final = Limits(
    handshake=timedelta(seconds=10),
    head=timedelta(seconds=10),
    idle=timedelta(seconds=30),
    head_bytes=8 * 1024,
)


class _Upstream(Protocol):
    """Auth's side of a relay."""

    def __init__(self, visitor: Relay) -> None:
        self._visitor = visitor

    def connectionMade(self) -> None:
        self._visitor.upstream_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._visitor.upstream_sent(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._visitor.upstream_lost()


class Relay(Protocol):
    """The visitor's side: everything goes to what ``endpoint`` connects to, after ``preface``.

    Each side is the other's producer: neither is read while the other takes nothing.
    """

    transport: Any

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        slot: Slot,
        clock: Any,
        preface: bytes = b"",
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``reached`` is told of each attempt why auth cannot be reached, or nothing."""
        self._reached = reached
        self._endpoint = endpoint
        self._slot = slot
        self._clock = clock
        self._early: list[bytes] = [preface] if preface else []
        self._upstream: Any = None
        self._connecting: Any = None
        self._lost = False
        self._handshake = Handshake()
        self._heard = 0.0

    def connectionMade(self) -> None:
        """Connect, and read nothing more until that is done."""
        self._slot.within(HANDSHAKE_SECONDS)
        factory = Factory.forProtocol(lambda: _Upstream(self))
        factory.noisy = False
        self._connecting = self._endpoint.connect(factory)
        self._connecting.addErrback(self._failed)

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        if self._handshake.answered:
            self._heard = self._clock.seconds()
        else:
            self._handshake.client_sent(data)
        if self._upstream is None:
            self._early.append(data)
            self.transport.pauseProducing()
        else:
            self._upstream.write(data)

    def upstream_connected(self, upstream: Any) -> None:
        """Auth took the connection."""
        self._connecting = None
        if self._lost:
            upstream.abortConnection()
            return
        self._upstream = upstream
        self._reached("")
        upstream.registerProducer(self.transport, True)
        self.transport.registerProducer(upstream, True)
        early, self._early = self._early, []
        for data in early:
            upstream.write(data)
        self.transport.resumeProducing()

    def upstream_sent(self, data: bytes) -> None:
        """Auth sent something."""
        if self._handshake.answered:
            self._heard = self._clock.seconds()
        elif self._handshake.server_sent(data):
            self._slot.prove()
            self._heard = self._clock.seconds()
            self._slot.within(RELAY_IDLE_SECONDS, self._look)
        self.transport.write(data)

    def _look(self) -> None:
        """End the connection if it was silent; look again when it would have been."""
        left = self._heard + RELAY_IDLE_SECONDS - self._clock.seconds()
        if left > 0:
            self._slot.within(left, self._look)
        else:
            self._slot.end()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not self._lost:
            self._reached(str(failure.value) or type(failure.value).__name__)
            self._slot.end()

    def upstream_lost(self) -> None:
        """Auth closed the connection. Who does not read its last words loses them in time."""
        self._upstream = None
        if not self._lost:
            self._slot.within(HANDSHAKE_SECONDS)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The visitor left."""
        self._lost = True
        self._slot.leave()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.unregisterProducer()
            upstream.loseConnection()


class Pages:
    """The proxy's own pages: ``/v1/ping`` and ``/healthz``. No banner, no log of requests."""

    def __init__(
        self,
        cluster: Callable[[], str],
        clock: Any,
        auth: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        """``auth()`` is the date since which auth cannot be reached; None: it can."""
        self.factory = ApiFactory(clock, PAGES, self._head_received, self._answer)
        self._pages: dict[bytes, Callable[[], dict[str, Any]]] = {
            b"/healthz": lambda: {"status": "ok"},
            b"/v1/ping": lambda: {"cluster": cluster(), "version": VERSION, **_auth(auth())},
        }

    def _head_received(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> timedelta | None:
        """Find out what is asked for; None refuses the body, of which no page has one."""
        page = self._pages.get(target.partition(b"?")[0])
        if page is None:
            request.decision = (404, {"error": "this proxy has no such page"})
        elif method not in (b"GET", b"HEAD"):
            request.decision = (405, {"error": "the pages of a proxy are for GET"})
        elif length != 0:
            request.decision = (413, {"error": "the pages of a proxy take no body"})
        else:
            request.decision = (200, page())
            return PAGES.head
        return None

    def _answer(self, request: ApiRequest) -> None:
        status, value = request.decision
        body = json.dumps(value).encode() + b"\n"
        request.setResponseCode(status)
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"content-length", b"%d" % len(body))
        if status == 405:
            request.setHeader(b"allow", b"GET, HEAD")
        request.write(body)
        request.finish()


def _auth(since: datetime | None) -> dict[str, str]:
    if since is None:
        return {"auth": "ok"}
    return {"auth": "unreachable", "auth_since": since.isoformat(timespec="seconds")}


class _PagesConnection(TLSMemoryBIOProtocol):
    """TLS for our pages, counted until it ends."""

    slot: Slot

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See Twisted."""
        self.slot.leave()
        super().connectionLost(reason)


def https_route(tls: Any, pages: Pages, clock: Any) -> TlsRoute:
    """Return the door to ``pages`` behind TLS that ends here."""
    factory: Any = TlsFactory(tls, False, pages.factory, clock=clock)
    factory.protocol = _PagesConnection

    def build(address: IAddress, slot: Slot) -> IProtocol | None:
        protocol: Any = factory.buildProtocol(address)
        if protocol is not None:
            slot.timed_elsewhere()
            protocol.slot = slot
        made: IProtocol | None = protocol
        return made

    return build
