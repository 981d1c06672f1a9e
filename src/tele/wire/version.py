"""Which version lines are accepted (RFC 4253, section 4.2)?

Invariants:

* A client sends its version line first. A server may send other lines before it, up to a bound.
* Only protocol 2.0 is supported; from servers ``1.99`` means it as well (section 5.1).
"""

from __future__ import annotations

from typing import Final

from tele.errors import ProtocolError
from tele.wire.numbers import PROTOCOL_VERSION_NOT_SUPPORTED

#: Longest version line with its end.
LINE_LIMIT: Final = 255
#: Most bytes before a server's version line.
PREAMBLE_LIMIT: Final = 8192


def take_version(data: bytes, from_server: bool) -> tuple[bytes, int] | None:
    """Find the version line; None if it is incomplete.

    Returns it without its end, and how many bytes of ``data`` were used.
    """
    start = 0
    while True:
        end = data.find(b"\n", start)
        line = data[start:end].removesuffix(b"\r") if end >= 0 else data[start:]
        is_version = line.startswith(b"SSH-")
        could_be = is_version or (end < 0 and b"SSH-".startswith(line))
        if not could_be and not from_server:
            raise ProtocolError("the first line is not an SSH version")
        limit = LINE_LIMIT if could_be else PREAMBLE_LIMIT
        if (end if end >= 0 else len(data)) - start >= limit or start > PREAMBLE_LIMIT:
            raise ProtocolError("the version line is too long")
        if end < 0:
            return None
        if is_version:
            _check(line, from_server)
            return line, end + 1
        start = end + 1


def _check(line: bytes, from_server: bool) -> None:
    accepted = (b"SSH-2.0-", b"SSH-1.99-") if from_server else (b"SSH-2.0-",)
    if not line.startswith(accepted):
        raise ProtocolError("only SSH 2.0 is supported", PROTOCOL_VERSION_NOT_SUPPORTED)
    if not all(32 <= byte < 127 for byte in line):
        raise ProtocolError("the version line is not printable ASCII")
