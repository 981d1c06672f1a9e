"""What is said to a proxy of the network, byte for byte, and what it may answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput, Unreachable
from tele.outbound.egress import Login, read_via
from tele.outbound.proxy_handshakes import ANSWER_LIMIT, ProxyHandshake, ask

HTTP = read_via("http://gate:3128")
SOCKS = read_via("socks5://gate:1080")
LOGIN = Login("user", "sécret")


def hear(asking: ProxyHandshake, said: bytes, step: int = 1000) -> bytes:
    """Give ``said`` in pieces; return what was answered."""
    return b"".join(asking.receive(said[i : i + step]) for i in range(0, len(said), step))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_connect(step: int) -> None:
    """A request with host and login; the answer's end is found to the byte."""
    asking = ask(HTTP, "node.example", 22, LOGIN)
    assert asking.begin() == (
        b"CONNECT node.example:22 HTTP/1.1\r\nHost: node.example:22\r\n"
        b"Proxy-Authorization: Basic dXNlcjpzw6ljcmV0\r\n\r\n"
    )
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n"
    assert hear(asking, answer, step) == b""
    assert (asking.done, asking.rest) == (True, b"")


def test_bytes_that_come_with_the_answer_are_kept() -> None:
    """What follows the answer in one segment belongs to the destination."""
    asking = ask(HTTP, "fd00::1", 22, None)
    assert b"CONNECT [fd00::1]:22 HTTP/1.1\r\n" in asking.begin()
    asking.receive(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n\r\n")
    assert asking.rest == b"SSH-2.0-x\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 403 \x1b[31mNo\r\n\r\n", r"'403 \\x1b\[31mNo'"),
        (b"SSH-2.0-OpenSSH\r\n", "is no HTTP proxy: it says 'SSH-2.0"),
        (b"HTTP/1.1 0200 OK\r\n\r\n", "is no HTTP proxy"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * ANSWER_LIMIT, "without an end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * ANSWER_LIMIT, "without an end"),
    ],
)
def test_refusals_of_connect(said: bytes, words: str) -> None:
    """Everything but a 2xx is a refusal in the proxy's words, quoted; nothing is endless."""
    asking = ask(HTTP, "node", 22, LOGIN)
    asking.begin()
    with pytest.raises(Unreachable, match=words) as caught:
        hear(asking, said)
    assert "gate:3128" in str(caught.value)
    assert "cret" not in str(caught.value)
    assert not asking.done


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_socks(step: int) -> None:
    """Greeting, login, request by name; the address in the answer is of any kind."""
    asking = ask(SOCKS, "node.example", 258, LOGIN)
    assert asking.begin() == b"\5\2\0\2"
    assert hear(asking, b"\5\2", step) == b"\1\4user\7s\xc3\xa9cret"
    assert hear(asking, b"\1\0", step) == b"\5\1\0\3\x0cnode.example\1\2"
    assert hear(asking, b"\5\0\0\3\5there\0\1SSH-", 1000) == b""
    assert (asking.done, asking.rest) == (True, b"SSH-")


@pytest.mark.parametrize(
    ("host", "kind"), [("10.0.0.1", b"\1\x0a\0\0\1"), ("fd00::1", b"\4\xfd" + bytes(14) + b"\1")]
)
@pytest.mark.parametrize("reply", [b"\1" + bytes(6), b"\4" + bytes(18), b"\3\0\0\0"])
def test_socks_with_addresses(host: str, kind: bytes, reply: bytes) -> None:
    """An address needs no resolving, and goes as one; without a login none is offered."""
    asking = ask(SOCKS, host, 22, None)
    assert asking.begin() == b"\5\1\0"
    assert asking.receive(b"\5\0") == b"\5\1\0" + kind + b"\0\x16"
    hear(asking, b"\5\0\0" + reply, 1)
    assert (asking.done, asking.rest) == (True, b"")


@pytest.mark.parametrize(
    ("login", "said", "words"),
    [
        (None, b"\5\xff", "wants a user and a password"),
        (LOGIN, b"\5\xff", "wants another user or password"),
        (None, b"\5\2", "a way to log in that we did not offer"),
        (LOGIN, b"\5\1", "a way to log in that we did not offer"),
        (LOGIN, b"\5\2\1\1", "does not take our user and password"),
        (None, b"\5\0\5\2", "refused node:22: connection not allowed by ruleset"),
        (None, b"\5\0\5\x63", "refused node:22: reply 99"),
        (None, b"\5\0\5\0\0\7\0\0", "is no SOCKS 5 proxy"),
        (None, b"\4\0", "is no SOCKS 5 proxy"),
        (None, b"\5\0\4\0", "is no SOCKS 5 proxy"),
        (None, b"HTTP/1.1 400", "is no SOCKS 5 proxy: it says 'H"),
    ],
)
def test_refusals_of_socks(login: Login | None, said: bytes, words: str) -> None:
    """Each refusal says what it was; what is no SOCKS is no SOCKS."""
    asking = ask(SOCKS, "node", 22, login)
    asking.begin()
    with pytest.raises(Unreachable, match=words):
        hear(asking, said, 1)


@pytest.mark.parametrize("host", ["a b", "a\r\nX: y", "", "ä.example", "a:b", "a/b", "x" * 300])
def test_a_destination_that_is_no_name(host: str) -> None:
    """Nothing that is no host gets into a request."""
    for via in (HTTP, SOCKS):
        with pytest.raises(InvalidInput):
            ask(via, host, 22, None)


@given(st.binary(max_size=60), st.integers(1, 9))
def test_what_follows_is_never_changed(rest: bytes, step: int) -> None:
    """However an answer is cut, what follows it is complete: kept, or not yet given."""
    for via, good in (
        (HTTP, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
        (SOCKS, b"\5\0\5\0\0\1" + bytes(6)),
    ):
        asking = ask(via, "node", 22, None)
        stream, at = good + rest, 0
        while not asking.done:
            asking.receive(stream[at : at + step])
            at += step
        assert asking.rest + stream[at:] == rest
