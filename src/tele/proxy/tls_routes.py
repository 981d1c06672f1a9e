"""What serves TLS connections at the proxy's port: a relay to auth, and the proxy's own pages?

Invariants:

* TLS for auth is relayed unchanged; the proxy only sends the signed client address before it.
* A relay has a deadline until auth has answered, which received bytes do not move. After that it
  ends when it is idle for longer than a connection of the API may be.
* The pages show unauthenticated clients that the proxy is there, and nothing of the cluster. They
  take no body; the handshake, each request head and the pause between requests have deadlines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, IStreamClientEndpoint
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

#: From the connection until auth has answered the end of the client's handshake.
HANDSHAKE_SECONDS: Final = 20.0
#: How long a relay may be idle. Longer than any call of the API takes, than auth waits for the next
#: one, and than the pause between two keepalives of a stream.
RELAY_IDLE_SECONDS: Final = 360.0
JSON_TYPE: Final = b"application/json"
#: The pages: how long the TLS handshake, the head of a request and a pause may take.
PAGES: Final = Limits(
    handshake=timedelta(seconds=10),
    head=timedelta(seconds=10),
    idle=timedelta(seconds=30),
    head_bytes=8 * 1024,
)


class _Upstream(Protocol):
    """Auth's side of a relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connectionMade(self) -> None:
        self._relay.upstream_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._relay.upstream_sent(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._relay.upstream_lost()


class Relay(Protocol):
    """The client's side: all data go to ``endpoint``, after ``preface``.

    Each side is the other's producer: neither is read while the other does not read.
    """

    transport: Any

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        slot: Slot,
        clock: IReactorTime,
        preface: bytes = b"",
        attempted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``attempted(error)`` is called after each attempt to connect to auth."""
        self._attempted = attempted
        self._endpoint = endpoint
        self._slot = slot
        self._clock = clock
        self._early: list[bytes] = [preface] if preface else []
        self._upstream: Any = None
        self._connecting: Deferred[IProtocol] | None = None
        self._lost = False
        self._handshake = Handshake()
        self._active_at = 0.0

    def connectionMade(self) -> None:
        """Connect to auth; the client is not read until that is done."""
        self._slot.set_deadline(HANDSHAKE_SECONDS)
        factory = Factory.forProtocol(lambda: _Upstream(self))
        factory.noisy = False
        self._connecting = self._endpoint.connect(factory)
        self._connecting.addErrback(self._failed)

    def dataReceived(self, data: bytes) -> None:
        """Relay data to auth."""
        if self._handshake.answered:
            self._active_at = self._clock.seconds()
        else:
            self._handshake.client_sent(data)
        if self._upstream is None:
            self._early.append(data)
            self.transport.pauseProducing()
        else:
            self._upstream.write(data)

    def upstream_connected(self, upstream: Any) -> None:
        """Auth accepted the connection."""
        self._connecting = None
        if self._lost:
            upstream.abortConnection()
            return
        self._upstream = upstream
        self._attempted("")
        upstream.registerProducer(self.transport, True)
        self.transport.registerProducer(upstream, True)
        early, self._early = self._early, []
        for data in early:
            upstream.write(data)
        self.transport.resumeProducing()

    def upstream_sent(self, data: bytes) -> None:
        """Relay data to the client."""
        if self._handshake.answered:
            self._active_at = self._clock.seconds()
        elif self._handshake.server_sent(data):
            self._slot.answered()
            self._active_at = self._clock.seconds()
            self._slot.set_deadline(RELAY_IDLE_SECONDS, self._check_idle)
        self.transport.write(data)

    def _check_idle(self) -> None:
        """Close the connection if it is idle; check again when it would be."""
        left = self._active_at + RELAY_IDLE_SECONDS - self._clock.seconds()
        if left > 0:
            self._slot.set_deadline(left, self._check_idle)
        else:
            self._slot.end()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not self._lost:
            self._attempted(str(failure.value) or type(failure.value).__name__)
            self._slot.end()

    def upstream_lost(self) -> None:
        """Auth closed the connection: the client has a deadline to read what is left."""
        self._upstream = None
        if not self._lost:
            self._slot.set_deadline(HANDSHAKE_SECONDS)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client disconnected."""
        self._lost = True
        self._slot.release()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.unregisterProducer()
            upstream.loseConnection()


class Pages:
    """The proxy's own pages: ``/v1/ping``, ``/healthz`` and ``/v1/krl``. No banner, no log of
    requests.
    """

    def __init__(
        self,
        cluster: Callable[[], str],
        clock: IReactorTime,
        auth: Callable[[], datetime | None] = lambda: None,
        krl: Callable[[], Deferred[bytes]] | None = None,
    ) -> None:
        """``auth()`` is the date since which auth is unreachable, or None. ``krl()`` is the list of
        revoked certificates.
        """
        self._files = {} if krl is None else {b"/v1/krl": krl}
        self.factory = ApiFactory(clock, PAGES, self._head_received, self._answer)
        self._pages: dict[bytes, Callable[[], dict[str, Any]]] = {
            b"/healthz": lambda: {"status": "ok"},
            b"/v1/ping": lambda: {"cluster": cluster(), "version": VERSION, **_auth(auth())},
        }

    def _head_received(
        self, request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> timedelta | None:
        """Choose the response; None refuses a body, which no page takes."""
        path = target.partition(b"?")[0]
        page, file = self._pages.get(path), self._files.get(path)
        if page is None and file is None:
            request.decision = (404, {"error": "this proxy has no such page"})
        elif method not in (b"GET", b"HEAD"):
            request.decision = (405, {"error": "the pages of a proxy are for GET"})
        elif length != 0:
            request.decision = (413, {"error": "the pages of a proxy take no body"})
        else:
            request.decision = (200, file if page is None else page())
            return PAGES.head
        return None

    def _answer(self, request: ApiRequest) -> None:
        status, value = request.decision
        if not callable(value):
            self._write(request, status, _json(value))
            return
        left: list[object] = []
        request.notifyFinish().addBoth(left.append)

        def write(status: int, body: bytes, kind: bytes) -> None:
            if not left:  # else the client has disconnected
                self._write(request, status, body, kind)

        found: Deferred[bytes] = value()
        found.addCallbacks(
            lambda data: write(200, data, b"application/octet-stream"),
            lambda failure: write(503, _json({"error": str(failure.value)}), JSON_TYPE),
        )

    def _write(
        self, request: ApiRequest, status: int, body: bytes, kind: bytes = JSON_TYPE
    ) -> None:
        request.setResponseCode(status)
        request.setHeader(b"content-type", kind)
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"content-length", b"%d" % len(body))
        if status == 405:
            request.setHeader(b"allow", b"GET, HEAD")
        request.write(body)
        request.finish()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _auth(since: datetime | None) -> dict[str, str]:
    if since is None:
        return {"auth": "ok"}
    return {"auth": "unreachable", "auth_since": since.isoformat(timespec="seconds")}


class _PagesConnection(TLSMemoryBIOProtocol):
    """TLS for the pages, counted until it ends."""

    slot: Slot

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See Twisted."""
        self.slot.release()
        super().connectionLost(reason)


def https_route(tls: Any, pages: Pages, clock: IReactorTime) -> TlsRoute:
    """Return the route to ``pages`` over TLS that ends here."""
    factory: Any = TlsFactory(tls, False, pages.factory, clock=clock)
    factory.protocol = _PagesConnection

    def build(address: IAddress, slot: Slot) -> IProtocol | None:
        protocol: Any = factory.buildProtocol(address)
        if protocol is not None:
            slot.clear_deadline()
            protocol.slot = slot
        made: IProtocol | None = protocol
        return made

    return build
