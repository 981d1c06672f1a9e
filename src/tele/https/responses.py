"""How is one response written, once, whatever happens?

Invariants:

* A request is answered once: by its handler, or that it takes too long.
* An error of ours is answered with its kind; any other is logged under a number that
  the response names, with nothing else.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.errors import TeleError, Unavailable
from tele.https.api_errors import encode_error, status_of
from tele.https.channel import ApiRequest
from tele.https.encoding import JSON, LINES
from tele.https.ranges import PartHead
from tele.log import make_logger
from tele.model.api.operation import Operation

_log: Final = make_logger(__name__)


class PendingResponse:
    """The response to ``request``: what the handler returns, or that it takes too long."""

    def __init__(
        self, request: ApiRequest, operation: Operation[Any, Any], clock: IReactorTime
    ) -> None:
        self._request: ApiRequest | None = request
        self._operation = operation
        self._timer = clock.callLater(operation.timeout.total_seconds(), self._too_late)
        request.notifyFinish().addBoth(self._ended)

    def awaited(self) -> bool:
        """Whether the caller still waits for the response."""
        return self._request is not None

    def _ended(self, _: object) -> None:
        # Answered, or the connection is gone.
        self._request = None
        if self._timer.active():
            self._timer.cancel()

    def _send(self, status: int, body: bytes, content_type: str = JSON) -> None:
        if (request := self._request) is not None:
            respond(request, status, body, content_type)

    def succeeded(self, response: tuple[bytes, str, PartHead | None]) -> None:
        """Send what the handler returned: body, its type, and how a part of a blob is sent."""
        body, content_type, part = response
        if part is not None and self._request is not None:
            for name, value in part.headers:
                self._request.setHeader(name, value)
        self._send(200 if part is None else part.status, body, content_type)

    def failed(self, failure: Failure) -> None:
        """Send the error that the handler raised."""
        error = shown_error(self._operation, failure)
        self._send(status_of(error), encode_error(error))

    def _too_late(self) -> None:
        _log.warn("operation timed out", operation=self._operation.name)
        self._send(503, encode_error(Unavailable("auth takes too long to answer; try again")))


def shown_error(operation: Operation[Any, Any], failure: Failure) -> TeleError:
    """Return the error that the caller sees. One that is not ours is logged."""
    if isinstance(failure.value, TeleError):
        return failure.value
    incident = uuid4().hex[:12]
    _log.failure(
        "operation failed",
        failure=failure,
        operation=operation.name,
        incident=incident,
    )
    return TeleError(f"auth failed inside; its log has incident {incident}")


def respond(request: ApiRequest, status: int, body: bytes, content_type: str = JSON) -> None:
    """Write the whole response to ``request``."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", content_type.encode("ascii"))
    if content_type != LINES:
        request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)  # to HEAD, Twisted sends what is before the body
    request.channel.answered(0 if request.method == b"HEAD" else len(body))
    request.finish()


def refuse(request: ApiRequest, error: TeleError, status: int | None = None) -> None:
    """Write ``error`` as the response to ``request``."""
    respond(request, status or status_of(error), encode_error(error))
