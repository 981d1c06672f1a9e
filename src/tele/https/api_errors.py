"""How does an error cross the API?

As ``{"error": {"kind", "message", "reason"?}}`` with a fitting status. ``kind`` is
the one of :mod:`tele.errors`; it alone decides which error the client raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tele import errors
from tele.errors import (
    BY_KIND,
    AccessDenied,
    BadCertificate,
    InvalidInput,
    SecondFactorNeeded,
    TeleError,
)
from tele.model.api.operation import Operation
from tele.model.codec import encode, from_json, read_json

_STATUS: Final[Mapping[type[TeleError], int]] = {
    errors.InvalidInput: 400,
    errors.PeerError: 400,
    errors.NotLoggedIn: 401,
    errors.AccessDenied: 403,
    errors.SecondFactorNeeded: 403,
    errors.SecondFactorUnset: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.BadRecording: 422,
    errors.Unreachable: 502,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}
#: What a client can raise, narrow ones first; a mistake of the peer is invalid input.
_NEAREST: Final = [
    (errors.InvalidInput.kind, errors.PeerError),
    *((kind, cls) for kind, cls in BY_KIND.items() if cls is not TeleError),
    (TeleError.kind, TeleError),
]
#: Which kinds of errors come with a status, beside those that HTTP itself has.
KINDS_OF: Final[Mapping[int, tuple[str, ...]]] = {
    status: tuple(cls.kind for cls, its in _STATUS.items() if its == status)
    for status in sorted(set(_STATUS.values()))
} | {
    405: (errors.InvalidInput.kind,),
    411: (errors.InvalidInput.kind,),
    413: (errors.InvalidInput.kind,),
    415: (errors.InvalidInput.kind,),
    500: (TeleError.kind,),
}
#: An error that a client reads is at most this long, in characters.
_MESSAGE_LIMIT: Final = 4096


def status_of(error: TeleError) -> int:
    """Return the HTTP status for ``error``; what has none of its own is 500."""
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 500)


def encode_error(error: TeleError) -> bytes:
    """Return the body for ``error``."""
    kind = next(k for k, cls in _NEAREST if isinstance(error, cls))
    fields: dict[str, Any] = {"kind": kind, "message": str(error)[:_MESSAGE_LIMIT]}
    if isinstance(error, AccessDenied | BadCertificate):
        fields["reason"] = str(getattr(error.reason, "value", error.reason))
    if isinstance(error, SecondFactorNeeded) and error.webauthn:
        fields["webauthn"] = error.webauthn
    return encode({"error": fields})


def decode_error(status: int, body: bytes) -> TeleError:
    """Return the error that a response with ``status`` means, whatever its body is."""
    try:
        fields = json.loads(body)["error"]
        kind, message = str(fields["kind"]), str(fields["message"])[:_MESSAGE_LIMIT]
        reason = str(fields.get("reason", "denied"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return TeleError(f"auth answered with status {status} and no explanation")
    if kind == AccessDenied.kind:
        return AccessDenied(message, reason)
    if kind == SecondFactorNeeded.kind:
        return SecondFactorNeeded(message, str(fields.get("webauthn", "")))
    return BY_KIND.get(kind, TeleError)(message)


def read_line(operation: Operation[Any, Any], line: bytes) -> Any:
    """Return the value that a line of a stream means; raises the error that it means."""
    try:
        value = read_json(line)
        if isinstance(value, dict) and set(value) == {"error"} and isinstance(value["error"], dict):
            raise decode_error(500, line)
        return from_json(operation.response, value)
    except InvalidInput as error:
        raise unreadable(operation, error) from None


def unreadable(operation: Operation[Any, Any], error: InvalidInput) -> TeleError:
    """Return the error for a response that is not of the type in the table."""
    return TeleError(
        f"auth's answer to {operation.name} cannot be read; is it another version? ({error})"
    )
