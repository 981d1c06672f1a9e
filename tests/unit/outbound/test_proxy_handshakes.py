"""Handshakes with egress proxies, byte for byte, and their replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput, Unreachable
from tele.outbound.egress import ProxyLogin, parse_proxy
from tele.outbound.proxy_handshakes import REPLY_LIMIT, ProxyHandshake, handshake_with

HTTP = parse_proxy("http://egress:3128")
SOCKS = parse_proxy("socks5://egress:1080")
LOGIN = ProxyLogin("user", "sécret")


def receive(handshake: ProxyHandshake, data: bytes, step: int = 1000) -> bytes:
    """Pass ``data`` on in pieces; return what the handshake sends."""
    return b"".join(handshake.receive(data[i : i + step]) for i in range(0, len(data), step))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_connect(step: int) -> None:
    """A request with host and login; the end of the reply is found to the byte."""
    handshake = handshake_with(HTTP, "node.example", 22, LOGIN)
    assert handshake.begin() == (
        b"CONNECT node.example:22 HTTP/1.1\r\nHost: node.example:22\r\n"
        b"Proxy-Authorization: Basic dXNlcjpzw6ljcmV0\r\n\r\n"
    )
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n"
    assert receive(handshake, reply, step) == b""
    assert (handshake.done, handshake.rest) == (True, b"")


def test_bytes_after_the_reply_are_returned() -> None:
    """What follows the reply in one segment belongs to the destination."""
    handshake = handshake_with(HTTP, "fd00::1", 22, None)
    assert b"CONNECT [fd00::1]:22 HTTP/1.1\r\n" in handshake.begin()
    handshake.receive(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n\r\n")
    assert handshake.rest == b"SSH-2.0-x\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 403 \x1b[31mNo\r\n\r\n", r"'403 \\x1b\[31mNo'"),
        (b"SSH-2.0-OpenSSH\r\n", "is not an HTTP proxy: it sent 'SSH-2.0"),
        (b"HTTP/1.1 0200 OK\r\n\r\n", "is not an HTTP proxy"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is not an HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * REPLY_LIMIT, "a reply of more than 16384 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * REPLY_LIMIT, "a reply of more than 16384 bytes"),
    ],
)
def test_refusals_of_connect(data: bytes, message: str) -> None:
    """Everything but a 2xx is a refusal, which the error quotes; a reply is bounded."""
    handshake = handshake_with(HTTP, "node", 22, LOGIN)
    handshake.begin()
    with pytest.raises(Unreachable, match=message) as caught:
        receive(handshake, data)
    assert "egress:3128" in str(caught.value)
    assert "cret" not in str(caught.value)
    assert not handshake.done


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_socks(step: int) -> None:
    """Method selection, login, request by name; the address in the reply is of any type."""
    handshake = handshake_with(SOCKS, "node.example", 258, LOGIN)
    assert handshake.begin() == b"\5\2\0\2"
    assert receive(handshake, b"\5\2", step) == b"\1\4user\7s\xc3\xa9cret"
    assert receive(handshake, b"\1\0", step) == b"\5\1\0\3\x0cnode.example\1\2"
    assert receive(handshake, b"\5\0\0\3\5there\0\1SSH-", 1000) == b""
    assert (handshake.done, handshake.rest) == (True, b"SSH-")


@pytest.mark.parametrize(
    ("host", "kind"), [("10.0.0.1", b"\1\x0a\0\0\1"), ("fd00::1", b"\4\xfd" + bytes(14) + b"\1")]
)
@pytest.mark.parametrize("reply", [b"\1" + bytes(6), b"\4" + bytes(18), b"\3\0\0\0"])
def test_socks_with_addresses(host: str, kind: bytes, reply: bytes) -> None:
    """An address needs no resolving, and goes as one; without a login none is offered."""
    handshake = handshake_with(SOCKS, host, 22, None)
    assert handshake.begin() == b"\5\1\0"
    assert handshake.receive(b"\5\0") == b"\5\1\0" + kind + b"\0\x16"
    receive(handshake, b"\5\0\0" + reply, 1)
    assert (handshake.done, handshake.rest) == (True, b"")


@pytest.mark.parametrize(
    ("login", "data", "message"),
    [
        (None, b"\5\xff", "wants a user and a password"),
        (LOGIN, b"\5\xff", "wants another user or password"),
        (None, b"\5\2", "a login method that was not offered"),
        (LOGIN, b"\5\1", "a login method that was not offered"),
        (LOGIN, b"\5\2\1\1", "refused the user and password"),
        (None, b"\5\0\5\2", "refused node:22: connection not allowed by ruleset"),
        (None, b"\5\0\5\x63", "refused node:22: reply 99"),
        (None, b"\5\0\5\0\0\7\0\0", "is not a SOCKS 5 proxy"),
        (None, b"\4\0", "is not a SOCKS 5 proxy"),
        (None, b"\5\0\4\0", "is not a SOCKS 5 proxy"),
        (None, b"HTTP/1.1 400", "is not a SOCKS 5 proxy: it sent 'H"),
    ],
)
def test_refusals_of_socks(login: ProxyLogin | None, data: bytes, message: str) -> None:
    """Each error names the refusal, or says that the peer does not speak SOCKS."""
    handshake = handshake_with(SOCKS, "node", 22, login)
    handshake.begin()
    with pytest.raises(Unreachable, match=message):
        receive(handshake, data, 1)


@pytest.mark.parametrize("host", ["a b", "a\r\nX: y", "", "ä.example", "a:b", "a/b", "x" * 300])
def test_an_invalid_destination(host: str) -> None:
    """Only a host name or an address gets into a request."""
    for via in (HTTP, SOCKS):
        with pytest.raises(InvalidInput):
            handshake_with(via, host, 22, None)


@given(st.binary(max_size=60), st.integers(1, 9))
def test_what_follows_is_never_changed(rest: bytes, step: int) -> None:
    """However a reply is split, the bytes after it are complete."""
    for via, good in (
        (HTTP, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
        (SOCKS, b"\5\0\5\0\0\1" + bytes(6)),
    ):
        handshake = handshake_with(via, "node", 22, None)
        stream, at = good + rest, 0
        while not handshake.done:
            handshake.receive(stream[at : at + step])
            at += step
        assert handshake.rest + stream[at:] == rest
