"""What is behind the proxy's port, other than SSH?

Laws of this file:

* What is meant for auth passes through as it is: the proxy neither reads nor changes it.
* The proxy's own HTTPS tells strangers that it is there, and nothing of the cluster's inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from tele._version import VERSION
from tele.loop import make_logger

log = make_logger(__name__)

CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 60.0


class _Upstream(Protocol):
    """Auth's side of a relay."""

    def __init__(self, visitor: Relay) -> None:
        self._visitor = visitor

    def connectionMade(self) -> None:
        self._visitor.upstream_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._visitor.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._visitor.upstream_lost()


class Relay(Protocol):
    """The visitor's side: everything goes to what ``endpoint`` connects to.

    Each side is the other's producer: neither is read while the other takes nothing.
    """

    transport: Any

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._early: list[bytes] = []
        self._upstream: Any = None
        self._connecting: Any = None
        self._lost = False

    def connectionMade(self) -> None:
        """Connect, and read nothing more until that is done."""
        factory = Factory.forProtocol(lambda: _Upstream(self))
        factory.noisy = False
        self._connecting = self._endpoint.connect(factory)
        self._connecting.addErrback(self._failed)

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        if self._upstream is None:
            self._early.append(data)
            self.transport.pauseProducing()
        else:
            self._upstream.write(data)

    def upstream_connected(self, upstream: Any) -> None:
        """Auth answered."""
        self._connecting = None
        if self._lost:
            upstream.abortConnection()
            return
        self._upstream = upstream
        upstream.registerProducer(self.transport, True)
        self.transport.registerProducer(upstream, True)
        early, self._early = self._early, []
        for data in early:
            upstream.write(data)
        self.transport.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not self._lost:
            log.warn("auth cannot be reached: {why!s}", why=failure.value)
            self.transport.abortConnection()

    def upstream_lost(self) -> None:
        """Auth closed the connection."""
        self._upstream = None
        if not self._lost:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The visitor left."""
        self._lost = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.unregisterProducer()
            upstream.loseConnection()


class _Fixed(Resource):
    """A page that is the same for everybody."""

    isLeaf = True

    def __init__(self, value: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._value = value

    def render_GET(self, request: Request) -> bytes:
        """Give the value as JSON."""
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return json.dumps(self._value()).encode() + b"\n"


class _Pages(Site):
    """The proxy's own pages. No server banner, no log of requests, short patience."""

    def log(self, request: Request) -> None:
        """Requests of strangers are not worth a line each."""


def make_pages(cluster: Callable[[], str]) -> Site:
    """Return the site: ``/v1/ping`` and ``/healthz``."""
    root = Resource()
    version = Resource()
    root.putChild(b"v1", version)
    root.putChild(b"healthz", _Fixed(lambda: {"status": "ok"}))
    version.putChild(b"ping", _Fixed(lambda: {"cluster": cluster(), "version": VERSION}))
    return _Pages(root, timeout=IDLE_SECONDS)


def https_door(tls: Any, site: Site, clock: Any) -> Callable[[IAddress], IProtocol | None]:
    """Return the door to ``site`` behind TLS that ends here."""
    factory: Any = TLSMemoryBIOFactory(tls, False, site, clock=clock)
    site.startFactory()
    build: Callable[[IAddress], IProtocol | None] = factory.buildProtocol
    return build
