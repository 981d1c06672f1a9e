"""Parts of blobs: which header fields ask for what, and how a part is sent."""

from __future__ import annotations

import pytest

from tele.https.ranges import part_head, range_header, with_range
from tele.model.api.operation import Octets
from tele.model.api.recordings import GetIndex


@pytest.mark.parametrize(
    ("start", "end", "header"),
    [
        (0, 0, ""),
        (5, 0, "bytes=5-"),
        (0, 10, "bytes=0-9"),
        (5, 6, "bytes=5-5"),
        (-7, 0, "bytes=-7"),
    ],
)
def test_a_request_asks_as_it_is_read(start: int, end: int, header: str) -> None:
    """What a client writes is what the server reads."""
    request = GetIndex("a", start, end)
    assert range_header(request) == header
    assert with_range(GetIndex("a"), header or None, None) == request


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=-", "bytes=5-4", "bytes=-0", "bytes=0-1,3-4", "items=0-4", "bytes=a-b",
     "bytes=0-9999999999999999", "bytes=-1-2", "bytes=٣-"],
)  # fmt: skip
def test_what_cannot_be_read_is_ignored(header: str) -> None:
    """RFC 9110: then all of it is sent, which every client understands."""
    assert with_range(GetIndex("a"), header, None) == GetIndex("a")


def test_a_part_of_what() -> None:
    """If-Range names a digest; what is no digest matches nothing, so that all is sent."""
    asked = with_range(GetIndex("a"), "bytes=1-2", '"ab12"')
    assert asked == GetIndex("a", 1, 3, "ab12")
    for other in ("Wed, 21 Oct 2026 07:28:00 GMT", 'W/"ab12"', "ab12"):
        assert with_range(GetIndex("a"), "bytes=1-2", other).if_range == "-"


def test_how_a_part_is_sent() -> None:
    """All is 200, a part 206 with its place, nothing where the blob has ended 416."""
    assert part_head(Octets(b"abc")).status == 200
    whole = part_head(Octets(b"abc", 0, 3, "ff"))
    assert (whole.status, dict(whole.headers)[b"etag"]) == (200, b'"ff"')
    part = part_head(Octets(b"bc", 1, 4, "ff"))
    assert (part.status, dict(part.headers)[b"content-range"]) == (206, b"bytes 1-2/4")
    after = part_head(Octets(b"", 4, 4, "ff"))
    assert (after.status, dict(after.headers)[b"content-range"]) == (416, b"bytes */4")
