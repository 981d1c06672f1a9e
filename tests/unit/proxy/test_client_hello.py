"""The first bytes of TLS: read strictly, from real OpenSSL and from hostile hands."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import ProtocolError
from tele.proxy.client_hello import LIMIT, ClientHello, parse_client_hello


def real(server_name: str | None = "auth.example", protocols: tuple[str, ...] = ()) -> bytes:
    """The first bytes of OpenSSL's client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message, cut into records of ``size`` bytes."""
    body = hello[5:]
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(hello[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def test_a_real_hello_is_read() -> None:
    """OpenSSL's server name and protocols come out as they went in."""
    data = real("Auth.Example", ("tele-auth", "http/1.1"))
    assert parse_client_hello(data) == ClientHello("auth.example", (b"tele-auth", b"http/1.1"))


def test_no_extensions_are_needed() -> None:
    """A client that names no server and no protocol is read as such."""
    assert parse_client_hello(real(None)) == ClientHello("", ())


def test_incomplete_client_hellos_need_more_bytes() -> None:
    """Every true prefix means 'not yet', never an answer and never an error."""
    data = real("auth.example", ("tele-auth",))
    assert all(parse_client_hello(data[:n]) is None for n in range(len(data)))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_records_may_be_small(size: int) -> None:
    """A ClientHello cut into many records is the same ClientHello."""
    data = real("auth.example", ("tele-auth",))
    assert parse_client_hello(in_records(data, size)) == parse_client_hello(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ],
)
def test_what_cannot_become_one_is_refused(data: bytes) -> None:
    """Bytes that cannot become a ClientHello are refused at once."""
    with pytest.raises(ProtocolError):
        parse_client_hello(data)


def test_it_cannot_grow_without_end() -> None:
    """Bytes trickled in tiny records are refused at the limit."""
    hello = b"\x01" + LIMIT.to_bytes(3, "big") + bytes(LIMIT)
    data = b"".join(b"\x16\x03\x01\x00\x01" + hello[i : i + 1] for i in range(LIMIT))
    with pytest.raises(ProtocolError):
        parse_client_hello(data)


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_give_one_of_three_answers(data: bytes, framed: bool) -> None:
    """A value, not yet, or ProtocolError: never another exception."""
    if framed:
        body = b"\x01" + len(data).to_bytes(3, "big") + data
        data = b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body
    try:
        parse_client_hello(data)
    except ProtocolError:
        return


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_a_changed_byte_does_no_harm(place: int, value: int) -> None:
    """One byte of a real hello changed: still one of the three answers."""
    data = bytearray(HELLO)
    data[place % len(data)] = value
    try:
        parse_client_hello(bytes(data))
    except ProtocolError:
        return


HELLO = real("auth.example", ("tele-auth", "http/1.1"))
