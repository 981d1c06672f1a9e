"""How is one request sent, and its answer read, within bounds of time and memory?

By Twisted's own ``Agent``: it has pooled connections, checks certificates, and tells a body that
ended from one that was cut. treq would add redirects, cookies and decoding, none of which may
happen to a signed request.

Invariants:

* Each step has a time limit: connecting, and then each stretch without a byte of progress either
  way. The whole request has one, too: a peer that drips bytes does not hold it.
* An answer larger than its limit is refused while it arrives. One that was cut is never used.
* TLS certificates are checked: by those of the system, or of ``ca_file`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.outbound.hostname_endpoint import hostname_endpoint
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.recording.archives.s3.location import Location
from tele.workers import in_thread_pool

CONNECT_SECONDS: Final = 15.0
#: Without any progress: no byte could be sent, and none arrived.
STALL_SECONDS: Final = 30.0
WHOLE_SECONDS: Final = 600.0
#: Parallel connections that are kept.
KEPT: Final = 8
_PIECE: Final = 64 * 1024


@frozen
class Response:
    """An answer. Names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpTransport:
    """Sends requests to the host of ``location``. The limits are in seconds."""

    def __init__(
        self,
        reactor: IReactorTime,
        location: Location,
        *,
        connect: float = CONNECT_SECONDS,
        stall: float = STALL_SECONDS,
        whole: float = WHOLE_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._location = location
        self._trust = None if location.ca_file is None else _trust_of(location.ca_file)
        self._stall = stall
        self._whole = whole
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = KEPT
        self._pool.cachedConnectionTimeout = 20
        self._pool.retryAutomatically = False  # requests are repeated with a new signature
        self._endpoints = _Endpoints(reactor, location, connect)
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, self._pool)
        self._origin = f"{'https' if location.tls else 'http'}://{location.authority}"

    def url(self, path: str) -> str:
        """Return the URL of a path with its query."""
        return self._origin + path

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limit: int, what: str
    ) -> Response:
        """Send one request; ``limit`` is that of the answer's body, in bytes.

        Raises :class:`BucketError` if there is no whole answer; ``what`` is the request in words.
        """
        await self._prepare()
        watch = _Watch(self._reactor, self._stall, self._whole)
        sent = Headers({name: [value] for name, value in headers.items()})
        producer = _Body(body, watch) if body or method in ("PUT", "POST") else None
        try:
            response: IResponse = await watch.over(
                self._agent.request(method.encode(), self.url(path).encode(), sent, producer)
            )
            found = {
                name.decode("latin-1").lower(): values[-1].decode("latin-1")
                for name, values in response.headers.getAllRawHeaders()
            }
            received = await watch.over(_receive(response, limit, watch))
        except Exception as problem:
            if not watch.expired and any(isinstance(p, CancelledError) for p in _causes(problem)):
                raise CancelledError from None  # the caller's wish
            raise _error_of(problem, watch, what) from None
        finally:
            watch.stop()
        return Response(response.code, found, received)

    async def _prepare(self) -> None:
        """Load the trusted authorities, once, in a thread."""
        if self._location.tls and self._endpoints.options is None:
            self._endpoints.options = await in_thread_pool(
                self._reactor,
                partial(optionsForClientTLS, trustRoot=self._trust),
                self._location.host,
            )

    def close(self) -> Deferred[None]:
        """Close the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


@define(eq=False)
class _Watch:
    """Cancels what is awaited when nothing moves any more, or it takes too long in all."""

    _reactor: IReactorTime
    _stall: float
    _whole: float
    expired: str = field(default="", init=False)
    _awaited: Deferred[Any] | None = field(default=None, init=False)
    _timers: list[IDelayedCall] = field(factory=list, init=False)

    def over(self, answer: Deferred[Any]) -> Deferred[Any]:
        """Watch over ``answer``."""
        self._awaited = answer
        if not self._timers:
            quiet = f"nothing moved for {self._stall:g} s"
            late = f"it took more than {self._whole:g} s"
            self._timers = [
                self._reactor.callLater(self._stall, self._expire, quiet),
                self._reactor.callLater(self._whole, self._expire, late),
            ]
        self.progress()
        return answer

    def progress(self) -> None:
        """Bytes moved."""
        if self._timers and self._timers[0].active():
            self._timers[0].reset(self._stall)

    def stop(self) -> None:
        """The request is over."""
        for timer in self._timers:
            if timer.active():
                timer.cancel()

    def _expire(self, why: str) -> None:
        self.expired = why
        if self._awaited is not None:
            self._awaited.cancel()


@implementer(IBodyProducer)
class _Body:
    """Bytes that are sent as fast as the connection takes them."""

    def __init__(self, data: bytes, watch: _Watch) -> None:
        self.length = len(data)
        self._data = memoryview(data)
        self._watch = watch
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred()
        self._running = False
        self._paused = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See ``IBodyProducer``."""
        self._consumer = consumer
        self._go_on()
        return self._done

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """See ``IProducer``: the connection is gone."""
        self._data = self._data[:0]
        self._consumer = None

    def _go_on(self) -> None:
        if self._running or self._consumer is None:
            return
        self._running = True
        self._watch.progress()
        while self._data and not self._paused and self._consumer is not None:
            piece, self._data = self._data[:_PIECE], self._data[_PIECE:]
            self._consumer.write(bytes(piece))
        self._running = False
        if not self._data and not self._paused and not self._done.called:
            self._consumer = None
            self._done.callback(None)


class _Receiver(Protocol):
    """Collects an answer's body."""

    def __init__(self, done: Deferred[bytes], limit: int, watch: _Watch) -> None:
        self._done = done
        self._limit = limit
        self._watch = watch
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """See ``Protocol``."""
        self._watch.progress()
        self._data += data
        if len(self._data) > self._limit and not self._done.called:
            self._done.errback(BucketError("the answer of the bucket is too long", Trouble.REFUSED))
            self.cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``Protocol``."""
        if self._done.called:
            return
        if reason.check(ResponseDone):
            self._done.callback(bytes(self._data))
        else:
            self._done.errback(reason)

    def cut(self) -> None:
        """Want nothing more of it."""
        if self.transport is not None:
            self.transport.loseConnection()


def _receive(response: IResponse, limit: int, watch: _Watch) -> Deferred[bytes]:
    done: Deferred[bytes] = Deferred(lambda _: receiver.cut())
    receiver = _Receiver(done, limit, watch)
    response.deliverBody(receiver)
    return done


@implementer(IAgentEndpointFactory)
@define(eq=False)
class _Endpoints:
    """Connects to the host of the bucket, and to no other."""

    _reactor: IReactorTime
    _location: Location
    _connect: float
    options: IOpenSSLClientConnectionCreator | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See ``IAgentEndpointFactory``."""
        location = self._location
        plain = hostname_endpoint(self._reactor, location.host, location.port, self._connect)
        if self.options is None:
            return plain
        wrapped: IStreamClientEndpoint = _Tls(self._reactor, self.options, plain)
        return wrapped


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Tls:
    """TLS over ``plain``, with the timers of ``reactor``: Twisted's own has the global one's."""

    _reactor: IReactorTime
    _options: IOpenSSLClientConnectionCreator
    _plain: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See ``IStreamClientEndpoint``."""
        made: Any = TLSMemoryBIOFactory(self._options, True, protocolFactory, clock=self._reactor)
        connecting: Deferred[Any] = self._plain.connect(made)
        return connecting.addCallback(lambda protocol: protocol.wrappedProtocol)


_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


def _trust_of(path: Path) -> Any:
    """Return the trust in the certificates of a file, while the configuration is read."""
    try:
        parts = path.read_bytes().split(_BEGIN)[1:]
        return trustRootFromCertificates([Certificate.loadPEM(_BEGIN + part) for part in parts])
    except (OSError, SSL.Error) as problem:
        raise InvalidInput(f"s3: ca_file {path}: {problem}") from None


_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (error.DNSLookupError, "its name cannot be resolved"),
    (error.ConnectionRefusedError, "the connection was refused"),
    (error.TimeoutError, "it did not answer"),
    (error.ConnectError, "it cannot be reached"),
)


def _causes(problem: BaseException) -> list[BaseException]:
    """Return an error and those that Twisted has put into it."""
    causes = [problem]
    for failure in getattr(problem, "reasons", ()):
        causes += _causes(failure.value)
    return causes


def _error_of(problem: Exception, watch: _Watch, what: str) -> BucketError:
    """Return why there is no answer."""
    if isinstance(problem, BucketError):
        return BucketError(f"{what}: {problem}", problem.trouble)
    if watch.expired:
        return BucketError(f"{what}: {watch.expired}", Trouble.RETRY)
    causes = _causes(problem)
    for cause in causes:
        if isinstance(cause, SSL.Error) or type(cause).__module__.startswith("service_identity"):
            return BucketError(
                f"{what}: the certificate of the bucket's host is not valid here", Trouble.REFUSED
            )
    for cause in causes:
        for kind, reason in _REASONS:
            if isinstance(cause, kind):
                return BucketError(f"{what}: {reason}", Trouble.RETRY)
    return BucketError(f"{what}: the connection was cut", Trouble.RETRY)
