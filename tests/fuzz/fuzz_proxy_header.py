"""Invariant: any bytes are a bounded header, "not yet" within the bounds, or a ProtocolError."""

from __future__ import annotations

from ipaddress import ip_address

from attempts import Dice, main
from tele.errors import ProtocolError
from tele.wire.proxy_header import (
    BLOCK_LIMIT,
    LINE_LIMIT,
    LOCAL,
    SIGNATURE,
    looks_like_header,
    parse_proxy_header,
)

SEEDS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nSSH-",
    b"PROXY TCP6 2001:db8::1 ::1 1 443\r\n",
    b"PROXY UNKNOWN\r\n",
    LOCAL + b"SSH-",
    SIGNATURE + b"\x21\x11\0\x12" + bytes(12) + b"\3\0\3abc" + b"SSH-",
    SIGNATURE + b"\x21\x21\0\x24" + bytes(36),
)


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    try:
        header = parse_proxy_header(data)
    except ProtocolError:
        return
    if header is None:
        assert len(data) < max(LINE_LIMIT, BLOCK_LIMIT + 16)
        return
    assert looks_like_header(data)
    assert header.size <= len(data)
    # What follows changes nothing, and what is missing is noticed.
    assert parse_proxy_header(data[: header.size]) == header
    assert parse_proxy_header(data[: header.size - 1]) is None
    if header.source is not None:
        host, port = header.source
        assert str(ip_address(host)) == host
        assert 0 <= port < 65536


def attempt(dice: Dice) -> None:
    """A seed with damage."""
    check(dice.damaged(dice.choice(SEEDS), 4))


if __name__ == "__main__":
    main(attempt)
