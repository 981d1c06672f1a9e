"""What may a client of the page of numbers send, how much of it, and for how long?

A few lines of HTTP/1.1 (RFC 9112), since a node has no web server in memory: a request without a
body, and an answer that ends with the connection.

Invariants:

* A head has :data:`HEAD_LIMIT` bytes and :data:`HEAD_SECONDS` seconds, in all; there are at most
  :data:`CONNECTIONS_LIMIT` connections. Others are closed.
* GET and HEAD only. Nothing that a client sends is repeated to it, logged, or made a path.
* A page on a loopback address answers requests for an address or ``localhost`` only: a web page
  whose name leads to this machine (DNS rebinding) reads nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tele.log import make_logger

HEAD_LIMIT: Final = 8192
HEAD_SECONDS: Final = 5.0
#: Seconds in which the answer has to be read.
ANSWER_SECONDS: Final = 10.0
CONNECTIONS_LIMIT: Final = 16

_TEXT: Final = "text/plain; charset=utf-8"
_REASONS: Final = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    421: "Misdirected Request", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip

_log: Final = make_logger(__name__)


@frozen
class Answer:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = _TEXT


#: Returns the answer to a request for a path, with the content types that its client accepts; None
#: if there is no such page.
Pages = Callable[[str, str], "Deferred[Answer] | None"]


def is_own_name(host: str) -> bool:
    """Whether ``host`` (a Host header field) names this machine, and no name of DNS."""
    name = host.strip()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class PageConnection(Protocol):
    """One request and its answer."""

    factory: PageFactory
    transport: Any

    def __init__(self) -> None:
        self._head = b""
        self._timer: IDelayedCall | None = None
        self._asked = False
        self._lost = False

    def connectionMade(self) -> None:
        """Wait for the head."""
        self.factory.open.add(self)
        self._within(HEAD_SECONDS)

    def _within(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.factory.clock.callLater(seconds, self.abort)

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the head; what comes after it is dropped."""
        if self._asked:
            return
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if len(head) > HEAD_LIMIT:
            self._answer(Answer(431, b"the head is too long\n"))
        elif end:
            self._request(head.decode("latin-1").split("\r\n"))

    def _request(self, lines: list[str]) -> None:
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._answer(Answer(400, b"not a request of HTTP/1.1\n"))
            return
        fields = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip() or (name.lower() == "host" and "host" in fields):
                self._answer(Answer(400, b"a header field is malformed\n"))
                return
            fields[name.lower()] = value.strip()
        if words[0] not in ("GET", "HEAD"):
            self._answer(Answer(405, b"GET or HEAD\n"))
        elif self.factory.loopback and not is_own_name(fields.get("host", "localhost")):
            self._answer(Answer(421, b"ask for an address of this machine, or localhost\n"))
        else:
            self._find(words[1].partition("?")[0], fields.get("accept", ""), words[0] == "HEAD")

    def _find(self, path: str, accept: str, without_body: bool) -> None:
        self._asked = True
        found = self.factory.pages(path, accept)
        if found is None:
            self._answer(Answer(404, b"/healthz, /readyz or /metrics\n"), without_body)
            return

        def failed(failure: Failure) -> Answer:
            _log.failure("page of numbers failed", failure)
            return Answer(500, b"the log says why\n")

        found.addErrback(failed)
        found.addCallback(self._answer, without_body)

    def _answer(self, answer: Answer, without_body: bool = False) -> None:
        self._asked = True
        self._head = b""
        if self._lost:
            return
        allow = "Allow: GET, HEAD\r\n" if answer.status == 405 else ""
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
            f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{allow}"
            "Connection: close\r\n\r\n"
        )
        self._within(ANSWER_SECONDS)
        self.transport.write(head.encode("ascii") + (b"" if without_body else answer.body))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it."""
        self._lost = True
        self.factory.open.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class PageFactory(Factory[PageConnection]):
    """Makes connections, and knows those that are open."""

    noisy = False

    def __init__(self, clock: IReactorTime, pages: Pages, *, loopback: bool) -> None:
        self.clock = clock
        self.pages = pages
        self.loopback = loopback
        self.open: set[PageConnection] = set()

    def buildProtocol(self, addr: IAddress | None) -> PageConnection | None:
        """Return the protocol of a new connection; None drops it."""
        if len(self.open) >= CONNECTIONS_LIMIT:
            return None
        made = PageConnection()
        made.factory = self
        return made

    def close_all(self) -> None:
        """Close all connections now."""
        for each in list(self.open):
            each.abort()
