"""Real TLS clients at a proxy's port: slow ones are closed, and exclude no others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from small_cluster import SmallCluster, SmallProxy, small_cluster
from tele.proxy import demultiplexer, tls_routes

T = TypeVar("T")
ATTACKER = "127.0.0.9"
#: What a client sends that does not go on: nothing, half a record, a ClientHello for auth.
BEGUN = (b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


def in_thread(cluster: SmallCluster, function: Callable[[], T]) -> T:
    """Run what blocks while the reactor runs."""
    results: list[T | BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    cluster.reactor.getThreadPool().callInThread(run)
    cluster.reactor.until(lambda: bool(results))
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result


def context(*protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def ask(port: int, request: bytes, *protocols: str) -> bytes:
    """Send ``request`` over TLS from an address of its own, and return all that is answered."""
    with (
        socket.create_connection(("127.0.0.1", port), 20, ("127.0.0.5", 0)) as plain,
        context(*protocols).wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def hello_for_auth() -> bytes:
    out = ssl.MemoryBIO()
    tls = context("tele-auth").wrap_bio(ssl.MemoryBIO(), out, server_hostname="auth")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@contextmanager
def unauthenticated(proxy: SmallProxy, count: int) -> Iterator[list[socket.socket]]:
    """Connections that began with TLS, from one address, and do not go on."""
    with ExitStack() as stack:
        made = []
        for number in range(count):
            where = ("127.0.0.1", proxy.port)
            client = stack.enter_context(socket.create_connection(where, 20, (ATTACKER, 0)))
            client.sendall(BEGUN[number % len(BEGUN)] or hello_for_auth())
            made.append(client)
        yield made


def ended(client: socket.socket) -> bool:
    """Whether the proxy closed the connection, after whatever it sent."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_half_a_handshake_ends_and_excludes_no_client(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many half TLS handshakes end in time; meanwhile auth and pages answer (attack)."""
    proxy = cluster.proxy()
    monkeypatch.setattr(tls_routes, "HANDSHAKE_SECONDS", 3.0)
    monkeypatch.setattr(demultiplexer, "UNDECIDED_SECONDS", 3.0)
    with unauthenticated(proxy, 90) as begun:
        page = in_thread(cluster, lambda: ask(proxy.port, b"GET /healthz HTTP/1.0\r\n\r\n"))
        assert page.startswith(b"HTTP/1.0 200 ")
        description = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        api = in_thread(cluster, lambda: ask(proxy.port, description, "tele-auth"))
        assert api.startswith(b"HTTP/1.1 200 ")
        cluster.reactor.until(lambda: all(map(ended, begun)))


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n", b"405"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n", b"413"),
        (b"GET /v1/ping HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"413"),
        (b"GET /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 2000 + b"\r\n", b"431"),
    ],
    ids=["post", "body", "chunks", "no page", "long head"],
)
def test_pages_take_no_body(cluster: SmallCluster, request_head: bytes, status: bytes) -> None:
    """A body, however long it is announced to be, is not read, stored or waited for (attack)."""
    proxy = cluster.proxy()
    answer = in_thread(cluster, lambda: ask(proxy.port, request_head))
    assert answer.split(b" ")[1] == status


def test_pages(cluster: SmallCluster) -> None:
    """Monitors get their pages, one after the other on one connection, with GET and HEAD."""
    proxy = cluster.proxy()
    requests = (
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        b"GET /v1/ping?x=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    answers = in_thread(cluster, lambda: ask(proxy.port, requests))
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b'{"status": "ok"}') == 1
    assert b'"cluster": "small"' in answers
