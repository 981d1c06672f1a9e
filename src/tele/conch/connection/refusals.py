"""With which code and text is a channel refused (RFC 4254, section 5.1)?

Invariants:

* The text of an error that was raised on purpose reaches the peer; any other one is reported as
  ``internal error`` and logged.
* A text can be shown on a terminal: it went through :func:`tele.text.printable_lines`.
"""

from __future__ import annotations

from typing import Final

from twisted.conch.error import ConchError
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.python.failure import Failure

from tele.errors import AccessDenied, TeleError
from tele.log import make_logger
from tele.text import printable_lines

log = make_logger(__name__)

ADMINISTRATIVELY_PROHIBITED: Final = 1
CONNECT_FAILED: Final = 2
UNKNOWN_CHANNEL_TYPE: Final = 3
RESOURCE_SHORTAGE: Final = 4
#: Most characters of a message for a terminal.
TERMINAL_LIMIT: Final = 4096


class ChannelRefused(ConchError):
    """The peer refused a channel; (text, code) are the peer's, in Conch's order."""

    def __str__(self) -> str:
        value = self.value
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        return printable_lines(text)


def refusal(failure: Failure) -> tuple[int, str]:
    """Return the code and the text."""
    code, text = _refusal(failure)
    return code, printable_lines(text)


def terminal_lines(text: str, limit: int = TERMINAL_LIMIT) -> bytes:
    """Return ``text`` as lines for the peer's terminal, of ``limit`` characters at most."""
    return f"{printable_lines(text)[:limit]}\n".replace("\n", "\r\n").encode("utf-8")


def _refusal(failure: Failure) -> tuple[int, str]:
    error = failure.value
    if isinstance(error, ConchError):
        # Conch's own classes give the two in either order.
        code, text = error.value, error.data
        if isinstance(text, int):
            code, text = text, code
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        return (code if isinstance(code, int) else CONNECT_FAILED), shown
    if isinstance(error, AccessDenied):
        return ADMINISTRATIVELY_PROHIBITED, str(error)
    if isinstance(error, TeleError):
        return CONNECT_FAILED, str(error)
    if isinstance(error, ConnectError | DNSLookupError):
        return CONNECT_FAILED, (str(error).splitlines() or [type(error).__name__])[0]
    log.failure("channel open failed", failure)
    return CONNECT_FAILED, "internal error"
