"""How does one HTTP/1.1 connection to auth carry requests, one after the other?

A small client protocol of our own: Twisted's cannot abort a connection whose body is
being read, which is what a stream from a dead peer needs, and does not tell whether a
request that failed can have been acted upon.

Invariants:

* One request at a time; what comes without being asked for ends the connection.
* Every line and every body has a limit.
* RFC 9112 as far as our server speaks it: status line, content-length or chunked.
  Anything else is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from tele.errors import AccessDenied, NotLoggedIn, TeleError, Unreachable, WrongClock
from tele.https.encoding import Encoded
from tele.https.trust import WrongDate

HEAD_LIMIT: Final = 32 * 1024
BODY_LIMIT: Final = 64 * 1024 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |$)")
_CHUNK = re.compile(rb"[0-9a-fA-F]{1,8}")
#: What OpenSSL calls it when the other side does not take our certificate.
_OUR_CERTIFICATE: Final = ("alert certificate", "alert unknown ca", "alert bad certificate")


class NotSent(Unreachable):
    """The request cannot have been acted upon: trying again is safe, whatever it was."""


@frozen
class Taken:
    """The request went out and the answer came; ``status`` is its status."""

    status: int


class _Exchange:
    """One request and its answer."""

    def __init__(self, done: Deferred[Taken], receiver: Callable[[int, bytes], None]) -> None:
        self.done = done
        self.receiver = receiver
        self.status = 0


class ApiConnection(LineReceiver):
    """One connection. ``name`` is the address, for errors."""

    MAX_LENGTH = HEAD_LIMIT
    transport: Any

    def __init__(self, name: str, closed: Callable[[ApiConnection], None]) -> None:
        self._name = name
        self._closed = closed
        self._exchange: _Exchange | None = None
        self._line = self._status_line
        self._head_size = 0
        self._headers: dict[bytes, bytes] = {}
        self._left: int | None = None
        self._received = 0
        self._failed: Exception | None = None
        #: Whether it is gone.
        self.lost = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._exchange is None and not self.lost and self._failed is None

    def exchange(
        self, method: str, encoded: Encoded, receiver: Callable[[int, bytes], None]
    ) -> Deferred[Taken]:
        """Send a request; ``receiver(status, data)`` gets the body in pieces.

        Fails with :class:`NotSent` or :class:`Unreachable`. Cancelling it, and an
        exception of the receiver, abort the connection.
        """
        done: Deferred[Taken] = Deferred(lambda _: self.abort())
        if self.lost or self._failed is not None:
            done.errback(self._failed or NotSent(f"{self._name} closed the connection"))
            return done
        self._exchange = _Exchange(done, receiver)
        head = [f"{method} {encoded.target} HTTP/1.1", "host: auth"]
        if encoded.content_type:
            head.append(f"content-type: {encoded.content_type}")
        if encoded.content_type or method not in ("GET", "DELETE"):
            head.append(f"content-length: {len(encoded.body)}")
        self.transport.writeSequence(["\r\n".join(head).encode("ascii"), b"\r\n\r\n", encoded.body])
        return done

    def abort(self) -> None:
        """Close at once."""
        if not self.lost:
            self.transport.abortConnection()

    def close(self) -> None:
        """Close politely; only when idle."""
        if not self.lost:
            self.transport.loseConnection()

    # -- reading ----------------------------------------------------------------------
    def lineReceived(self, line: bytes) -> None:
        """Take a line of the head, or the size of a chunk."""
        self._head_size += len(line)
        if self._failed is not None:
            return
        if self._exchange is None:
            self._break("it sent what nobody asked for")
        elif self._head_size > HEAD_LIMIT:
            self._break("it sent a head that is too long")
        else:
            self._line(line, self._exchange)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Twisted's limit of one line."""
        self._break("it sent a line that is too long")

    def _status_line(self, line: bytes, exchange: _Exchange) -> None:
        match = _STATUS.match(line)
        if match is None:
            self._break("it does not speak HTTP as auth does")
            return
        exchange.status = int(match[1])
        self._headers = {}
        self._line = self._header_line

    def _header_line(self, line: bytes, exchange: _Exchange) -> None:
        if line:
            name, colon, value = line.partition(b":")
            if not colon:
                self._break("it sent a malformed header")
            else:
                self._headers[name.strip().lower()] = value.strip()
            return
        if exchange.status < 200:  # 100 Continue, which we never ask for
            self._line = self._status_line
            return
        self._head_size = self._received = 0
        length = self._headers.get(b"content-length")
        if self._headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._line = self._chunk_size
        elif length is not None and length.isdigit() and len(length) < 12:
            self._left = int(length)
            if self._left == 0:
                self._finish(exchange)
            else:
                self.setRawMode()
        else:
            self._break("it does not say how long its answer is")

    def _chunk_size(self, line: bytes, exchange: _Exchange) -> None:
        self._head_size = 0
        if _CHUNK.fullmatch(line) is None:
            self._break("it sent a malformed chunk")
            return
        self._left = int(line, 16)
        if self._left == 0:
            self._line = self._trailer
        else:
            self._line = self._chunk_end
            self.setRawMode()

    def _chunk_end(self, line: bytes, exchange: _Exchange) -> None:
        self._head_size = 0
        if line:
            self._break("it sent a malformed chunk")
        else:
            self._line = self._chunk_size

    def _trailer(self, line: bytes, exchange: _Exchange) -> None:
        if not line:
            self._finish(exchange)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of the body."""
        exchange = self._exchange
        if exchange is None or self._left is None or self._failed is not None:
            return
        piece, rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        try:
            exchange.receiver(exchange.status, piece)
        except Exception as error:
            self._fail(error)
            return
        if self._left == 0:
            self._left = None
            if self._line != self._chunk_end:
                self._finish(exchange)
            self.setLineMode(rest)

    def _finish(self, exchange: _Exchange) -> None:
        self._exchange = None
        self._line = self._status_line
        self._head_size = 0
        if self._headers.get(b"connection", b"").lower() == b"close":
            self._failed = NotSent(f"{self._name} closes the connection")
            self.transport.loseConnection()
        exchange.done.callback(Taken(exchange.status))

    # -- ends -------------------------------------------------------------------------
    def _break(self, text: str) -> None:
        self._fail(Unreachable(f"{self._name} did not answer: {text}"))

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self._failed = error
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever waits what happened."""
        self.lost = True
        exchange, self._exchange = self._exchange, None
        self._closed(self)
        error = self._failed or explained(self._name, reason.value)
        if exchange is None:
            # Nothing was sent on it yet, whatever ended it.
            unsent = isinstance(error, NotLoggedIn | AccessDenied | WrongClock | NotSent)
            self._failed = error if unsent else NotSent(str(error))
        elif not exchange.done.called:
            exchange.done.errback(error)


def explained(name: str, error: BaseException | None) -> Exception:
    """Return why there is no connection to ``name``, or no longer, in words for a person."""
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
            if any(alert in text for alert in _OUR_CERTIFICATE):
                return NotLoggedIn(f"{name} does not accept this certificate; log in again")
            if "certificate verify failed" in text:
                return AccessDenied(
                    f"{name} is not the auth server of this cluster: another CA made its "
                    "certificate",
                    reason="server",
                )
            return NotSent(f"{name} did not answer: TLS failed")
        case ConnectionDone():
            return Unreachable(f"{name} closed the connection before it answered")
    return Unreachable(f"{name}: the connection broke ({type(error).__name__})")
