"""The PROXY protocol's header: as its specification writes it, and as an attacker might."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import ProtocolError
from tele.wire.proxy_header import (
    BLOCK_LIMIT,
    LINE_LIMIT,
    LOCAL,
    SIGNATURE,
    ProxyHeader,
    looks_like_header,
    parse_proxy_header,
)


def block(command: int, family: int, content: bytes, length: int | None = None) -> bytes:
    """A header of version 2."""
    size = len(content) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + content


def tcp4(tail: bytes = b"") -> bytes:
    return block(0x21, 0x11, bytes((192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 0, 22)) + tail)


def tcp6(source: str) -> bytes:
    return block(0x21, 0x21, ip_address(source).packed + bytes(16) + b"\1\2\0\x16")


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", ("192.0.2.1", 56324)),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
        (b"PROXY TCP6 2001:DB8::1 ::1 0 443\r\n", ("2001:db8::1", 0)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 443\r\n", ("192.0.2.1", 1)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 what ever\r\n", None),
        (tcp4(), ("192.0.2.1", 258)),
        (tcp4(b"\3\0\4abcd\4\0\x09something"), ("192.0.2.1", 258)),
        (tcp6("2001:db8::1"), ("2001:db8::1", 258)),
        (tcp6("::ffff:192.0.2.1"), ("192.0.2.1", 258)),
        (LOCAL, None),
        (block(0x20, 0x11, bytes(3)), None),
        (block(0x20, 0xEE, bytes(100)), None),
        (block(0x21, 0, b""), None),
        (block(0x21, 0, bytes(50)), None),
        (block(0x21, 0x31, bytes(216)), None),
    ],
)
def test_a_header_is_read(data: bytes, source: tuple[str, int] | None) -> None:
    """To its last byte, whatever follows; every true prefix means 'not yet'."""
    assert parse_proxy_header(data + b"SSH-2.0-x\r\n") == ProxyHeader(source, len(data))
    assert parse_proxy_header(data) == ProxyHeader(source, len(data))
    assert all(parse_proxy_header(data[:n]) is None for n in range(len(data)))
    assert looks_like_header(data)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n", b"\x16\3\1", b"GET / HTTP/1.1\r\n", b"proxy TCP4", b"PROXYTCP4",
        b"\r\n\r\nX",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n", b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", b"PROXY TCP4 192.0.2.1 nobody 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY \r\n", b"PROXY \xff\r\n",
        b"PROXY UNKNOWN " + b"x" * LINE_LIMIT,
        block(0x11, 0x11, bytes(12)), block(0x22, 0x11, bytes(12)), block(0x31, 0x11, bytes(12)),
        block(0x21, 0x11, bytes(11)), block(0x21, 0x21, bytes(35)), block(0x21, 0x12, bytes(12)),
        block(0x21, 0x01, bytes(12)), block(0x21, 0x41, bytes(300)), block(0x21, 0x31, bytes(215)),
        block(0x20, 0, b"", BLOCK_LIMIT + 1), block(0x21, 0x11, b"", 0xFFFF),
    ],
)  # fmt: skip
def test_nothing_else_is(data: bytes) -> None:
    """What cannot be a header is refused, and nothing waits for more than the limit."""
    with pytest.raises(ProtocolError):
        parse_proxy_header(data)


def test_what_cannot_become_a_header_is_refused_at_once() -> None:
    """The first wrong byte is enough: a client cannot delay the error."""
    for start in (b"P", b"PROXY ", SIGNATURE[:4], SIGNATURE):
        assert parse_proxy_header(start) is None
        with pytest.raises(ProtocolError):
            parse_proxy_header(start[:-1] + b"#")


@given(
    st.ip_addresses(v=4) | st.ip_addresses(v=6),
    st.integers(0, 0xFFFF),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_both_versions_give_the_same_address(
    address: IPv4Address | IPv6Address, port: int, tail: bytes, rest: bytes
) -> None:
    """Any address and port come out of both versions as they went in, and nothing of the rest."""
    plain = str(getattr(address, "ipv4_mapped", None) or address)
    line = f"PROXY TCP{address.version} {address} {address} {port} 22\r\n".encode()
    number = port.to_bytes(2, "big")
    family = 0x11 if address.version == 4 else 0x21
    binary = block(0x21, family, address.packed * 2 + number * 2 + tail)
    for data in (line, binary):
        assert parse_proxy_header(data + rest) == ProxyHeader((plain, port), len(data))
