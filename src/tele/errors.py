"""Which errors does tele raise?

Invariants:

* All errors are subclasses of :class:`TeleError`.
* :class:`PeerError` is a violation of a protocol by the peer; all others are errors of tele, its
  operator or its environment.
* The text says what happened, to what, and what to do next. It holds no secret, and peer text only
  as ``repr``.
* :mod:`tele.text` formats errors for a terminal or a log.
* ``kind`` is stable and crosses the API. ``exit_code`` is that of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

PEER_TEXT_LIMIT = 256


def quoted(text: object) -> str:
    """Return peer text for a log line or an error: ``repr``, cut at 256.

    Bytes are decoded as UTF-8, invalid ones as escapes.
    """
    if isinstance(text, bytes | bytearray | memoryview):
        text = bytes(text[:PEER_TEXT_LIMIT]).decode("utf-8", "backslashreplace")
    shown = repr(text)
    return shown if len(shown) <= PEER_TEXT_LIMIT else shown[: PEER_TEXT_LIMIT - 3] + "..."


class TeleError(Exception):
    """Root of all errors that tele raises on purpose."""

    kind: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1


class InvalidInput(TeleError):
    """A value is not acceptable; the text says why."""

    kind = "invalid"
    exit_code = 2


class ConfigError(InvalidInput):
    """The configuration has mistakes. ``problems`` lists all of them, one sentence each."""

    kind = "config"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class NotLoggedIn(TeleError):
    """There is no valid certificate for this cluster: log in first."""

    kind = "not_logged_in"
    exit_code = 3


class AccessDenied(TeleError):
    """Permission was denied. ``reason`` is a stable code, see :class:`tele.model.access.Reason`.

    ``why`` is for the audit only: what rule denies it, which is not the user's business.
    """

    kind = "denied"
    exit_code = 4

    def __init__(self, message: str, reason: str = "denied", why: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.why = why


class SecondFactorNeeded(TeleError):
    """The password is right, and a second factor has to be shown, too.

    ``webauthn`` is what a browser asks a security key of the user, as JSON; empty if there is none.
    """

    kind = "second_factor"
    exit_code = 4

    def __init__(self, message: str, webauthn: str = "") -> None:
        super().__init__(message)
        self.webauthn = webauthn


class SecondFactorUnset(TeleError):
    """The cluster requires a second factor, and none is set up for this user."""

    kind = "second_factor_unset"
    exit_code = 4


class NotFound(TeleError):
    """The named resource does not exist."""

    kind = "not_found"
    exit_code = 5


class Unreachable(TeleError):
    """A host or service did not answer, or is known to be offline."""

    kind = "unreachable"
    exit_code = 6


class WrongClock(TeleError):
    """The clocks of two machines differ too much for certificates: set one of them."""

    kind = "clock"


class Conflict(TeleError):
    """The resource exists already, or has changed since it was read."""

    kind = "conflict"


class Unavailable(TeleError):
    """The service cannot answer now (starting, stopping, overloaded); try again."""

    kind = "unavailable"


class StorageFull(Unavailable):
    """The disk is full; try again when there is space."""

    kind = "storage_full"


class PeerError(TeleError):
    """The peer violated the protocol. Only its connection is closed."""

    kind = "peer"


class ProtocolError(PeerError):
    """Bytes that are not what the SSH protocol allows here.

    ``disconnect_code`` is the reason code to answer with (RFC 4253, section 11.1).
    """

    kind = "protocol"

    def __init__(self, message: str, disconnect_code: int = 2) -> None:
        super().__init__(message)
        self.disconnect_code = disconnect_code


class BadCertificate(PeerError):
    """A certificate is malformed or is not acceptable here; ``reason`` is a stable code."""

    kind = "bad_certificate"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadRecording(TeleError):
    """A recording is truncated, changed, or not signed by its host; the text says where."""

    kind = "bad_recording"


#: Error classes by their ``kind``, for turning an API answer back into an error.
BY_KIND: dict[str, type[TeleError]] = {
    cls.kind: cls
    for cls in (
        TeleError,
        InvalidInput,
        NotLoggedIn,
        AccessDenied,
        SecondFactorNeeded,
        SecondFactorUnset,
        NotFound,
        Unreachable,
        WrongClock,
        Conflict,
        StorageFull,
        Unavailable,
        BadRecording,
    )
}
