"""What does the proxy answer over HTTPS itself? Its own pages, and those of a site for browsers.

Invariants:

* The proxy's own pages show unauthenticated clients that the proxy is there, and nothing of the
  cluster but what auth tells anyone. They take no body; the handshake, each request head and the
  pause between requests have deadlines.
* A stream of a page to auth is a relay like any other, and is counted as one; one to SSH is an SSH
  connection like any other: who logs in, to which node, and how much of the proxy it takes is
  decided and counted there.
* Every response has the site's header fields, an error, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from tele._version import VERSION
from tele.https.channel import ApiRequest
from tele.https.connections import ApiFactory, TlsFactory
from tele.https.limits import Limits
from tele.https.site import Headers, Refusal, Site, SiteFile, StreamTo
from tele.proxy.admission import Slot
from tele.proxy.demultiplexer import TlsRoute

JSON_TYPE: Final = b"application/json"
CLUSTER_PATH: Final = b"/web/cluster.json"
#: The pages: how long the TLS handshake, the head of a request and a pause may take.
PAGES: Final = Limits(
    handshake=timedelta(seconds=10),
    head=timedelta(seconds=10),
    idle=timedelta(seconds=30),
    head_bytes=8 * 1024,
)


@frozen
class WebPages:
    """The site for browsers. ``trust()`` are the CAs (PEM) of the cluster's hosts; ``relay`` makes
    what a stream of a page to auth is connected to, and ``ssh`` the same of one to SSH.
    """

    site: Site
    trust: Callable[[], Sequence[str]]
    relay: TlsRoute
    ssh: Callable[[IAddress], IProtocol | None]

    def inner(self, to: StreamTo, address: IAddress, slot: Slot) -> IProtocol | None:
        """Return what a stream is connected to. SSH connections are counted by their server."""
        if to is StreamTo.AUTH:
            return self.relay(address, slot)
        slot.release()
        return self.ssh(address)


class Pages:
    """``/v1/ping``, ``/healthz``, ``/v1/krl``, and those of ``web``. No log of requests."""

    def __init__(
        self,
        cluster: Callable[[], str],
        clock: IReactorTime,
        auth: Callable[[], datetime | None] = lambda: None,
        krl: Callable[[], Deferred[bytes]] | None = None,
        web: WebPages | None = None,
    ) -> None:
        """``auth()`` is the date since which auth is unreachable, or None. ``krl()`` is the list of
        revoked certificates.
        """
        self._files = {} if krl is None else {b"/v1/krl": krl}
        self._web = web
        self._cluster = cluster
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
        found = self._find(path, request)
        if found is None:
            request.decision = (404, {"error": "this proxy has no such page"})
        elif method not in (b"GET", b"HEAD"):
            request.decision = (405, {"error": "the pages of a proxy are for GET"})
        elif length != 0:
            request.decision = (413, {"error": "the pages of a proxy take no body"})
        elif isinstance(found, Refusal):
            request.decision = (found.status, {"error": found.error})
        else:
            request.decision = (200, found)
            return PAGES.head
        return None

    def _find(self, path: bytes, request: ApiRequest) -> Any:
        """Return what answers a GET: a value, a function, a file, a refusal or a switch."""
        if (page := self._pages.get(path)) is not None:
            return page()
        if (file := self._files.get(path)) is not None or self._web is None:
            return file
        if path == CLUSTER_PATH:
            return self._web.site.cluster(self._cluster(), self._web.trust())
        if (to := self._web.site.stream_at(path)) is not None:
            return self._web.site.stream(to, _fields(request))
        return self._web.site.file(path, _fields(request))

    def _answer(self, request: ApiRequest) -> None:
        status, value = request.decision
        if isinstance(value, SiteFile):
            self._write(request, status, value.body, value.headers)
            return
        if isinstance(value, dict):
            self._write(request, status, _json(value))
            return
        if not callable(value):
            self._switch(request, value)
            return
        left: list[object] = []
        request.notifyFinish().addBoth(left.append)

        def write(status: int, body: bytes, kind: bytes) -> None:
            if not left:  # else the client has disconnected
                self._write(request, status, body, _plain(kind))

        found: Deferred[bytes] = value()
        found.addCallbacks(
            lambda data: write(200, data, b"application/octet-stream"),
            lambda failure: write(503, _json({"error": str(failure.value)}), JSON_TYPE),
        )

    def _switch(self, request: ApiRequest, switch: Any) -> None:
        """Connect a page's stream to auth, or to SSH."""
        channel = request.channel
        transport = channel.transport
        inner = None
        if self._web is not None:
            inner = self._web.inner(switch.to, transport.getPeer(), transport.slot)
        if inner is None:
            transport.abortConnection()
            return
        channel.switch(switch.head, switch.around(inner))

    def _write(self, request: ApiRequest, status: int, body: bytes, headers: Headers = ()) -> None:
        request.setResponseCode(status)
        own = () if self._web is None else self._web.site.headers
        for name, value in (*own, *(headers or _plain(JSON_TYPE))):
            request.setHeader(name, value)
        request.setHeader(b"content-length", b"%d" % len(body))
        if status == 405:
            request.setHeader(b"allow", b"GET, HEAD")
        request.write(body)
        request.finish()


def _plain(kind: bytes) -> Headers:
    return ((b"content-type", kind), (b"cache-control", b"no-store"))


def _fields(request: ApiRequest) -> Mapping[bytes, bytes]:
    """Return the header fields of a request; of several with one name the last."""
    return {name.lower(): values[-1] for name, values in request.requestHeaders.getAllRawHeaders()}


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
