"""A network before a bucket that answers, hangs or is cut where a test wants."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from attrs import define, field
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from own_reactor import OwnReactor


class Fault(Enum):
    """What happens to one request."""

    ERROR = "it is answered with 500"
    HANG = "its head arrives, and nothing more happens"
    CUT_REQUEST = "the connection is reset when half of its body has arrived"
    CUT_ANSWER = "it is carried out, and the connection is reset before the answer"
    CUT_BODY = "the connection is reset within the body of its answer"
    DRIP = "its answer comes one byte at a time"


_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 36\r\n\r\n"
    b"<Error><Code>InternalError</Code></E"
)


def step_of(method: str, target: str) -> str:
    """Name what a request is for."""
    _, _, query = target.partition("?")
    if query.startswith("uploads"):
        return "begin"
    if "uploadId" in query:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort"}[method]
    return {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "delete"}[method]


@implementer(IOpenSSLContextFactory)
class _Context:
    """The TLS of a server with the certificate and key of ``pem``."""

    def __init__(self, pem: bytes) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_certificate(load_pem_x509_certificate(pem))
        key: Any = load_pem_private_key(pem, None)
        self._context.use_privatekey(key)

    def getContext(self) -> SSL.Context:
        """See ``IOpenSSLContextFactory``."""
        return self._context


@define(eq=False)
class BadBucket:
    """Carries requests to ``target``; ``plan`` has the faults of the next requests of each step."""

    reactor: OwnReactor
    target: int
    plan: dict[str, list[Fault]] = field(factory=dict)
    #: Steps in the order in which they arrived, whatever happened to them.
    seen: list[str] = field(factory=list)
    #: Called before a request is passed on.
    before: Callable[[str, str], object] = lambda step, target: None
    #: The certificate and key in PEM with which it ends TLS, if it does.
    tls: bytes = b""
    port: int = 0
    _listening: Any = None
    _open: set[_Near] = field(factory=set)

    def start(self) -> BadBucket:
        """Begin to take connections."""
        factory = Factory.forProtocol(lambda: _Near(self))
        factory.noisy = False
        base: Any = self.reactor
        served: Any = factory
        if self.tls:
            context: Any = _Context(self.tls)
            served = TLSMemoryBIOFactory(context, False, factory, clock=self.reactor)
            served.noisy = False
        self._listening = base.listenTCP(0, served, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self

    def stop(self) -> None:
        """End everything."""
        self._listening.stopListening()
        for near in list(self._open):
            near.transport.abortConnection()

    def next_fault(self, step: str) -> Fault | None:
        """Take the next planned fault of a step."""
        planned = self.plan.get(step)
        return planned.pop(0) if planned else None


class _Near(Protocol):
    """The client's side."""

    transport: Any

    def __init__(self, bucket: BadBucket) -> None:
        self._bucket = bucket
        self._data = b""
        self._left = 0
        self._cut_at = 0
        self.fault: Fault | None = None
        self._far: _Far | None = None
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        self._bucket._open.add(self)
        far = _Far(self)
        factory = Factory.forProtocol(lambda: far)
        factory.noisy = False

        def connected(_: Any) -> None:
            self._far = far
            for data in self._early:
                far.transport.write(data)
            self._early.clear()

        TCP4ClientEndpoint(self._bucket.reactor, "127.0.0.1", self._bucket.target).connect(
            factory
        ).addCallbacks(connected, lambda _: self.transport.abortConnection())

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        while self._data:
            if not self._left and not self._begin():
                return
            body, self._data = self._data[: self._left], self._data[self._left :]
            self._left -= len(body)
            if self.fault is Fault.CUT_REQUEST and self._left <= self._cut_at:
                self.transport.abortConnection()
                return
            if self.fault not in (Fault.ERROR, Fault.HANG):
                self._pass(body)

    def _begin(self) -> bool:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return False
        request, length = _REQUEST.match(head), _LENGTH.search(head)
        assert request is not None
        method, target = request.group(1).decode(), request.group(2).decode()
        step = step_of(method, target)
        self._bucket.seen.append(step)
        self._bucket.before(step, target)
        self.fault = self._bucket.next_fault(step)
        self._left = int(length.group(1)) if length else 0
        self._cut_at = self._left // 2
        self._data = rest
        if self.fault is Fault.ERROR:
            self.transport.write(_ERROR)
            return bool(rest)
        if self.fault is Fault.CUT_REQUEST and not self._left:
            self.transport.abortConnection()
            return False
        if self.fault is not Fault.HANG:
            self._pass(head + found)
        return True

    def _pass(self, data: bytes) -> None:
        if self._far is None:
            self._early.append(data)
        else:
            self._far.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._bucket._open.discard(self)
        if self._far is not None:
            self._far.transport.abortConnection()

    def answer(self, data: bytes) -> None:
        """Pass on what the server said."""
        if self.fault is Fault.CUT_ANSWER:
            self.transport.abortConnection()
        elif self.fault is Fault.CUT_BODY:
            at = data.find(b"\r\n\r\n")
            self.transport.write(data if at < 0 else data[: at + 5])
            self._bucket.reactor.callLater(0.05, self.transport.abortConnection)
        elif self.fault is Fault.DRIP:
            head, found, body = data.partition(b"\r\n\r\n")
            if found:  # what comes later never does
                self.transport.write(head + found)
                self._drip(body)
        else:
            self.transport.write(data)

    def _drip(self, data: bytes) -> None:
        if data and self in self._bucket._open:
            self.transport.write(data[:1])
            self._bucket.reactor.callLater(0.05, self._drip, data[1:])


class _Far(Protocol):
    """The server's side."""

    transport: Any

    def __init__(self, near: _Near) -> None:
        self._near = near

    def dataReceived(self, data: bytes) -> None:
        self._near.answer(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._near.transport is not None:
            self._near.transport.loseConnection()
