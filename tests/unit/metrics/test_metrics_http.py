"""The page of numbers as clients of all kinds ask for it."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tele.metrics.http import (
    ANSWER_SECONDS,
    CONNECTIONS_LIMIT,
    HEAD_LIMIT,
    HEAD_SECONDS,
    Answer,
    PageConnection,
    PageFactory,
    is_own_name,
)


class World:
    """A factory with one page, and connections to it."""

    def __init__(self, *, loopback: bool = True) -> None:
        self.clock = Clock()
        self.asked: list[tuple[str, str]] = []
        self.answer: Deferred[Answer] = succeed(Answer(200, b"numbers\n"))
        self.factory = PageFactory(self.clock, self.page, loopback=loopback)

    def page(self, path: str, accept: str) -> Deferred[Answer] | None:
        self.asked.append((path, accept))
        return self.answer if path == "/metrics" else None

    def connect(self) -> tuple[PageConnection, StringTransport]:
        made = self.factory.buildProtocol(None)
        assert made is not None
        transport = StringTransport()
        made.makeConnection(transport)
        return made, transport

    def ask(self, data: bytes) -> bytes:
        """Send one request and return the answer."""
        made, transport = self.connect()
        made.dataReceived(data)
        answer: bytes = transport.value()
        return answer


def test_one_request_one_answer() -> None:
    """What comes after the request is dropped, and the connection ends."""
    world = World()
    made, transport = world.connect()
    for piece in (b"GET /metrics?x=1 HTTP/1.1\r\nHo", b"st: localhost:3032\r\n", b"\r\nGET / "):
        made.dataReceived(piece)
    made.dataReceived(b"HTTP/1.1\r\n\r\n")
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 8\r\n" in head
    assert body == b"numbers\n"
    assert transport.disconnecting
    assert world.asked == [("/metrics", "")]


def test_head_has_no_body() -> None:
    """The same head, for checks that need no more."""
    head, _, body = World().ask(b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 8" in head
    assert body == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nno field\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n folded: 1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example:3032\r\n\r\n", b"421"),
        (b"\xff\xfe\x00\r\n\r\n", b"400"),
        (b"x" * (HEAD_LIMIT + 1), b"431"),
    ],
)
def test_refused_requests(request_: bytes, status: bytes) -> None:
    """Nothing of the request is repeated, and nothing is read for it."""
    world = World()
    answer = world.ask(request_)
    assert answer.split(b" ")[1] == status
    assert b"evil" not in answer
    assert world.asked in ([], [("/nothing", "")])


def test_a_name_that_leads_here_reads_nothing() -> None:
    """DNS rebinding: a page on the Internet whose name has this machine's address."""
    for name in ("127.0.0.1", "127.0.0.1:3032", "[::1]:3032", "::1", "localhost", "LOCALHOST:1"):
        assert is_own_name(name), name
    for name in ("", "evil.example", "evil.example:3032", "127.0.0.1.evil.example", "localhost.x"):
        assert not is_own_name(name), name
    rebound = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert b" 421 " in World().ask(rebound)
    assert b" 200 " in World(loopback=False).ask(rebound)  # Prometheus has the machine's name


def test_a_client_that_sends_slowly() -> None:
    """A byte now and then gives no more time, and the place is free again."""
    world = World()
    made, transport = world.connect()
    for _ in range(10):
        made.dataReceived(b"x")
        world.clock.advance(HEAD_SECONDS / 10 + 0.01)
    assert transport.disconnected
    assert world.asked == []


def test_a_client_that_does_not_read() -> None:
    """The answer has a time limit, too."""
    world = World()
    made, transport = world.connect()
    made.dataReceived(b"GET /metrics HTTP/1.1\r\n\r\n")
    world.clock.advance(ANSWER_SECONDS)
    assert transport.disconnected


def test_many_connections() -> None:
    """A local program that opens many is refused; its own end gives places back."""
    world = World()
    open_ = [world.connect() for _ in range(CONNECTIONS_LIMIT)]
    assert world.factory.buildProtocol(None) is None
    open_[0][0].connectionLost()
    world.connect()
    world.factory.close_all()
    assert all(transport.disconnected for _, transport in open_[1:])


def test_a_client_that_leaves_before_the_answer() -> None:
    """The answer is dropped; no timer is left."""
    world = World()
    world.answer = Deferred()
    made, transport = world.connect()
    made.dataReceived(b"GET /metrics HTTP/1.1\r\n\r\n")
    made.connectionLost()
    world.answer.callback(Answer(200, b"late\n"))
    assert transport.value() == b""
    assert world.clock.getDelayedCalls() == []


def test_a_fault() -> None:
    """The client learns that the log has it, and no more."""
    world = World()
    world.answer = fail(LookupError("secret"))
    answer = world.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
