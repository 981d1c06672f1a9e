"""How does one streaming response reach its reader, and when does it end?

Invariants:

* A line is one JSON value; an empty line every 15 seconds is a keepalive.
* A reader that falls behind by more than the bound is cut off, never waited for; so is one
  that is behind when all readers together are behind by more than theirs.
* A stream ends no later than the certificate of its reader.
* A value for many readers is encoded once.
* The head of the response waits :data:`_HEAD_AFTER` seconds for the first value: an operation that
  fails at once is a response with a status, not a stream of one error.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.admission.shares import Shares
from tele.errors import NotLoggedIn, TeleError
from tele.https.api_errors import encode_error
from tele.https.channel import ApiRequest, address_text
from tele.https.encoding import LINES
from tele.log import make_logger
from tele.loop import Expiry, Ticker
from tele.model.codec import encode

_log: Final = make_logger(__name__)
_HEAD_AFTER: Final = 0.25


class Lines:
    """Encodes values as lines; one that is sent many times in a row, once."""

    __slots__ = ("_line", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._line = b""

    def of(self, value: Any) -> bytes:
        """Return ``value``, which does not change any more, as a line."""
        if value is not self._value or not self._line:
            self._line = encode(value) + b"\n"
            self._value = value
        return self._line


@implementer(IPushProducer)
class Stream:
    """A streaming response to ``request``.

    ``refuse(error)`` responds with an error when nothing was sent yet.
    """

    def __init__(
        self,
        request: ApiRequest,
        clock: IReactorTime,
        ticker: Ticker,
        backlogs: Shares,
        lines: Lines,
        expires: datetime | None,
        refuse: Callable[[TeleError], None],
    ) -> None:
        self._request = request
        request.streaming = True
        self._clock = clock
        self._backlogs = backlogs
        self._name = f"{id(self):x}"
        self._lines = lines
        self._expiry = None if expires is None else Expiry(clock, expires)
        self._refuse = refuse
        self._ahead = 0
        self._paused = False
        self._open = True
        self._source: Deferred[Any] | None = None
        self._head = clock.callLater(_HEAD_AFTER, self._start)
        self._tick = ticker.add(self._on_tick)
        self._finished = request.notifyFinish()
        self._finished.addBoth(self._on_connection_lost)
        request.registerProducer(self, True)

    def connect(self, source: Deferred[Any]) -> None:
        """End when ``source`` fires; cancel it if the reader disconnects."""
        self._source = source
        source.addCallbacks(lambda _: self._end(None), self._on_failure)

    def send(self, value: Any) -> None:
        """Send one value; the receiver that the handler gets. Nothing once it ended."""
        if self._open:
            self._write(self._lines.of(value))

    def pauseProducing(self) -> None:
        """See ``IPushProducer``: what is written from now on counts."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``: the reader has caught up."""
        self._paused = False
        self._caught_up()

    def stopProducing(self) -> None:
        """See ``IPushProducer``: ``notifyFinish`` fires too."""

    def end(self, error: TeleError) -> None:
        """End it with ``error``."""
        self._end(error)

    def _caught_up(self) -> None:
        if self._ahead:
            self._backlogs.give_back(self._name, self._ahead)
            self._ahead = 0

    def _write(self, line: bytes) -> None:
        self._start()
        if self._paused:
            if self._backlogs.take(self._name, len(line)):
                self._ahead += len(line)
            else:
                _log.warn(
                    "stream aborted, reader too slow", peer=address_text(self._request.client)
                )
                self._request.channel.transport.abortConnection()
                return
        self._request.write(line)

    def _start(self) -> None:
        if self._head.active():
            self._head.cancel()
        if self._open and not self._request.startedWriting:
            self._request.setHeader(b"content-type", LINES.encode("ascii"))
            self._request.write(b"\n")

    def _on_tick(self) -> None:
        if self._expiry is not None and self._expiry.has_passed:
            self._end(NotLoggedIn("the certificate expired; log in again"))
        else:
            self._write(b"\n")

    def _on_failure(self, failure: Failure) -> None:
        if not self._open:
            return
        error = failure.value
        if not isinstance(error, TeleError):
            _log.failure("stream failed", failure=failure)
            error = TeleError("auth failed inside; see its log")
        self._end(error)

    def _end(self, error: TeleError | None) -> None:
        if not self._open:
            return
        started = bool(self._request.startedWriting)
        if error is None:
            self._start()
        elif started:
            self._request.write(encode_error(error) + b"\n")
        self._stop()
        self._request.unregisterProducer()
        if error is not None and not started:
            self._refuse(error)
        else:
            self._request.finish()

    def _on_connection_lost(self, _: object) -> None:
        if self._open:
            self._stop()

    def _stop(self) -> None:
        self._open = False
        self._caught_up()
        if self._head.active():
            self._head.cancel()
        self._tick.cancel()
        if self._source is not None:
            self._source.cancel()
