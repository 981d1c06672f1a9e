"""Which rules hold for a call to auth, whichever client makes it?

:mod:`tele.https.client` runs on the reactor, :mod:`tele.https.blocking` without one. Both take
their limits, what may be repeated, and their errors from here.

Invariants:

* Standard library only, besides our values: a command starts fast.
* A request that auth may have acted upon is repeated only if its method is idempotent.
* Whatever fails is one :class:`tele.errors.TeleError` with a sentence for the user.
"""

from __future__ import annotations

from typing import Any, Final

from tele.errors import AccessDenied, NotLoggedIn, Unreachable
from tele.https.api_errors import decode_error
from tele.https.encoding import Encoded, decode_response
from tele.model.api.operation import Operation

CONNECT_TIMEOUT: Final = 10.0
#: A stream that sends nothing for so long, not even a keepalive, is dead.
STREAM_TIMEOUT: Final = 45.0
#: Bytes of a response's status line and header fields.
HEAD_LIMIT: Final = 32 * 1024
#: Bytes of a response's body, and of one line of a stream.
BODY_LIMIT: Final = 64 * 1024 * 1024

_IDEMPOTENT: Final = frozenset({"GET", "PUT", "DELETE", "PATCH"})
#: TLS alerts by which a server refuses the client's certificate, as OpenSSL names them.
_CERTIFICATE_ALERTS: Final = ("alert certificate", "alert unknown ca", "alert bad certificate")


class NotSent(Unreachable):
    """Auth cannot have acted upon the request: it may be repeated, whatever its method."""


def may_repeat(operation: Operation[Any, Any]) -> bool:
    """Whether ``operation`` may be sent again when auth may have acted upon it already."""
    return operation.method in _IDEMPOTENT


def timeout_of(operation: Operation[Any, Any]) -> float:
    """Return within how many seconds a response is due: all of it, of a stream its head."""
    return operation.timeout.total_seconds()


def headers_of(encoded: Encoded) -> list[tuple[str, str]]:
    """Return the header fields of a request, without its length."""
    headers = [("Host", "auth"), ("Accept-Encoding", "identity")]
    if encoded.content_type:
        headers.append(("Content-Type", encoded.content_type))
    if encoded.range:
        headers.append(("Range", encoded.range))
    return headers


def is_error(status: int) -> bool:
    """Whether a response with ``status`` is an error. A redirect is one, too."""
    return status >= 300


def read_response(operation: Operation[Any, Any], status: int, body: bytes) -> Any:
    """Return the value that a response means; raises the error that it means."""
    if is_error(status):
        raise decode_error(status, body)
    return decode_response(operation, body)


def check_size(name: str, size: int) -> None:
    """Raise :class:`Unreachable` if ``size`` bytes are too many for a body or a line."""
    if size > BODY_LIMIT:
        raise Unreachable(f"{name} sent more than {BODY_LIMIT} bytes")


def cut_off(name: str) -> Unreachable:
    """Return the error for a stream that ended in the middle of a line."""
    return Unreachable(f"{name} stopped in the middle of a line")


# -- errors of TLS --------------------------------------------------------------------
def refuses_certificate(reason: str) -> bool:
    """Whether OpenSSL's ``reason`` is that the server refuses the client's certificate."""
    text = reason.lower().replace("_", " ")
    return any(alert in text for alert in _CERTIFICATE_ALERTS)


def certificate_refused(name: str) -> NotLoggedIn:
    """Return the error for a client certificate that the server refuses."""
    return NotLoggedIn(f"{name} does not accept this certificate; log in again")


def other_server(name: str, why: str) -> AccessDenied:
    """Return the error for a server that did not prove to be auth of this cluster."""
    return AccessDenied(f"{name} is not the auth server of this cluster{why}", reason="server")
