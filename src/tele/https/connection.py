"""How does one HTTP/1.1 connection to auth carry requests, one after the other?

h11 writes requests and reads responses; this file connects it to a transport. Twisted's own client
cannot abort a connection whose body is being read, as a stream from a dead peer requires, and does
not say whether auth can have acted upon a request that failed.

Invariants:

* One request at a time. Data that no request asked for end the connection.
* Head and body have limits: see :mod:`tele.https.call_rules`. The body's is for its receiver.
* A response states its length. Informational responses, upgrades and bodies that the end of the
  connection ends are refused: auth sends none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import h11
from attrs import frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tele.errors import AccessDenied, NotLoggedIn, TeleError, Unreachable, WrongClock
from tele.https.call_rules import (
    HEAD_LIMIT,
    NotSent,
    certificate_refused,
    headers_of,
    other_server,
    refuses_certificate,
)
from tele.https.encoding import Encoded
from tele.https.trust import WrongDate

_VERSIONS: Final = (b"1.0", b"1.1")
_NOT_HTTP: Final = "it does not speak HTTP as auth does"
_UNREQUESTED: Final = "it sent data that no request asked for"
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})


@frozen
class Answered:
    """The request was sent and its response is complete."""

    status: int


class _Exchange:
    """One request and its response."""

    def __init__(self, done: Deferred[Answered], receiver: Callable[[int, bytes], None]) -> None:
        self.done = done
        self.receiver = receiver
        self.status = 0


class ApiConnection(Protocol):
    """One connection to ``name``, its address in errors. ``closed(self)`` is called at its end."""

    transport: Any

    def __init__(self, name: str, closed: Callable[[ApiConnection], None]) -> None:
        self._name = name
        self._closed = closed
        self._http = h11.Connection(h11.CLIENT, HEAD_LIMIT)
        self._exchange: _Exchange | None = None
        self._failed: Exception | None = None
        #: Whether the connection has ended.
        self.lost = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._exchange is None and not self.lost and self._failed is None

    def exchange(
        self, method: str, encoded: Encoded, receiver: Callable[[int, bytes], None]
    ) -> Deferred[Answered]:
        """Send a request; ``receiver(status, data)`` gets the body in pieces.

        Fails with :class:`NotSent` or :class:`Unreachable`. Cancelling it, and an
        exception of the receiver, abort the connection.
        """
        done: Deferred[Answered] = Deferred(lambda _: self.abort())
        if self.lost or self._failed is not None:
            done.errback(self._failed or NotSent(f"{self._name} closed the connection"))
            return done
        self._exchange = _Exchange(done, receiver)
        headers = headers_of(encoded)
        if encoded.content_type or method not in ("GET", "DELETE"):
            headers.append(("Content-Length", str(len(encoded.body))))
        events = [
            h11.Request(method=method, target=encoded.target, headers=headers),
            h11.Data(data=encoded.body),
            h11.EndOfMessage(),
        ]
        self.transport.writeSequence([self._http.send(each) or b"" for each in events])
        return done

    def abort(self) -> None:
        """Close at once."""
        if not self.lost:
            self.transport.abortConnection()

    def close(self) -> None:
        """Close after what was written has been sent. Only when idle."""
        if not self.lost:
            self.transport.loseConnection()

    # -- reading ----------------------------------------------------------------------
    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        exchange = self._exchange
        if self._failed is not None:
            return
        if exchange is None:
            self._refuse(_UNREQUESTED)
            return
        self._http.receive_data(data)
        try:
            while not (exchange.done.called or self._failed):
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                self._take(event, exchange)
        except h11.RemoteProtocolError:
            self._refuse(_NOT_HTTP)

    def _take(self, event: object, exchange: _Exchange) -> None:
        match event:
            case h11.Response():
                self._take_head(event, exchange)
            case h11.Data():
                try:
                    exchange.receiver(exchange.status, bytes(event.data))
                except Exception as error:
                    self._fail(error)
            case h11.EndOfMessage():
                self._finish(exchange)
            case _:
                self._refuse("it sent an informational response")

    def _take_head(self, head: h11.Response, exchange: _Exchange) -> None:
        # h11 itself bounds only a head that is not complete yet.
        size = sum(len(name) + len(value) + 4 for name, value in head.headers)
        if size > HEAD_LIMIT:
            self._refuse("it sent a head that is too long")
        elif head.http_version not in _VERSIONS:
            self._refuse(_NOT_HTTP)
        elif not any(name in _LENGTHS for name, _ in head.headers):
            self._refuse("its response has no length")
        else:
            exchange.status = head.status_code

    def _finish(self, exchange: _Exchange) -> None:
        self._exchange = None
        if self._http.trailing_data[0]:
            self._fail(NotSent(f"{self._name} closes the connection: {_UNREQUESTED}"))
        elif self._http.our_state is h11.MUST_CLOSE:
            self._failed = NotSent(f"{self._name} closes the connection")
            self.transport.loseConnection()
        else:
            self._http.start_next_cycle()
        exchange.done.callback(Answered(exchange.status))

    # -- ends -------------------------------------------------------------------------
    def _refuse(self, text: str) -> None:
        self._fail(Unreachable(f"{self._name} did not answer: {text}"))

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self._failed = error
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``: the request that was sent, or the next one, fails."""
        self.lost = True
        exchange, self._exchange = self._exchange, None
        self._closed(self)
        error = self._failed or explain(self._name, reason.value)
        if exchange is None:
            # No request was sent that this could be the answer to.
            unsent = isinstance(error, NotLoggedIn | AccessDenied | WrongClock | NotSent)
            self._failed = error if unsent else NotSent(str(error))
        elif not exchange.done.called:
            exchange.done.errback(error)


def explain(name: str, error: BaseException | None) -> Exception:
    """Return why there is no connection to ``name``, or no longer, as an error for the user."""
    match error:
        case TeleError():
            return error
        case WrongDate():
            return WrongClock(
                f"{name} does not count: its certificate {error}, and here it is"
                f" {datetime.now(UTC):%F %T}; set the clock that is wrong, this machine's or auth's"
            )
        case VerificationError():
            return NotSent(f"{name} is not the auth server of this cluster: it has another name")
        case SSL.Error():
            text = str(error)
            if refuses_certificate(text):
                return certificate_refused(name)
            if "certificate verify failed" in text:
                return other_server(name, ": another CA made its certificate")
            return NotSent(f"{name} did not answer: TLS failed")
        case ConnectionDone():
            return Unreachable(f"{name} closed the connection before it answered")
    return Unreachable(f"{name}: the connection broke ({type(error).__name__})")
