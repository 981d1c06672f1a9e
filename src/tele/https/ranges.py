"""Which part of a blob does a request ask for, and how is it answered (RFC 9110, section 14)?

A request of an operation with ``ranges`` has ``start``, ``end`` and ``if_range``, which are header
fields; its response is a :class:`tele.model.api.operation.Octets`.

Invariants:

* One range at most; a header that cannot be read, or asks for several, is ignored: all is sent.
* A part is sent as such only if the blob is still the one that ``If-Range`` names.
"""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import evolve, frozen

from tele.model.api.operation import Octets

#: Attributes of a request that are in ``Range`` and ``If-Range``.
RANGE_FIELDS: Final = ("start", "end", "if_range")
_RANGE = re.compile(r"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-([0-9]{1,15}))", re.ASCII)
_TAG = re.compile(r'"([0-9a-f]{1,64})"', re.ASCII)


def range_header(request: Any) -> str:
    """Return the ``Range`` of a request, or nothing if it asks for all."""
    if request.start < 0:
        return f"bytes={request.start}"
    if request.end > 0:
        return f"bytes={request.start}-{request.end - 1}"
    return f"bytes={request.start}-" if request.start else ""


def with_range(request: Any, range_: str | None, if_range: str | None) -> Any:
    """Return ``request`` with what its header fields ask for."""
    found = _RANGE.fullmatch((range_ or "").strip())
    if found is None:
        return request
    first, last, final = found.groups()
    if final is not None:
        start, end = -int(final), 0
    else:
        start, end = int(first), int(last) + 1 if last else 0
    if (end and end <= start) or (final is not None and start == 0):
        return request
    tag = _TAG.fullmatch((if_range or "").strip())
    named = "" if if_range is None else tag[1] if tag else "-"
    return evolve(request, start=start, end=end, if_range=named)


@frozen
class PartHead:
    """Status and header fields of a part."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


def part_head(part: Octets) -> PartHead:
    """Return how a part is sent."""
    headers = [(b"accept-ranges", b"bytes")]
    if part.tag:
        headers.append((b"etag", f'"{part.tag}"'.encode("ascii")))
    if part.start == 0 and part.total in (-1, len(part.data)):
        return PartHead(200, tuple(headers))
    if not part.data:
        return PartHead(416, (*headers, (b"content-range", b"bytes */%d" % part.total)))
    span = b"bytes %d-%d/%d" % (part.start, part.start + len(part.data) - 1, part.total)
    return PartHead(206, (*headers, (b"content-range", span)))
