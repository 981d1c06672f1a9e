"""What one connection to auth sends, and what it takes for a response."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tele.errors import Unreachable
from tele.https.call_rules import HEAD_LIMIT, NotSent
from tele.https.connection import Answered, ApiConnection
from tele.https.encoding import Encoded

GET = Encoded("/v1/cluster", b"", "")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Wire(StringTransport):
    """A transport that remembers being aborted; the connection ends a turn later."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Client:
    """A connection with what came out of it."""

    def __init__(self) -> None:
        self.closed: list[ApiConnection] = []
        self.connection = ApiConnection("auth:1", self.closed.append)
        self.wire = Wire()
        self.connection.makeConnection(self.wire)
        self.body: list[tuple[int, bytes]] = []
        self.results: list[Any] = []

    def ask(self, method: str = "GET", encoded: Encoded = GET) -> Deferred[Answered]:
        done = self.connection.exchange(
            method, encoded, lambda status, data: self.body.append((status, data))
        )
        done.addBoth(self.results.append)
        return done

    def answer(self, data: bytes, step: int = 0) -> Client:
        for at in range(0, len(data), step or len(data)):
            if not self.wire.aborted:
                self.connection.dataReceived(data[at : at + (step or len(data))])
        if self.wire.aborted and not self.connection.lost:
            self.connection.connectionLost(Failure(ConnectionDone()))
        return self


@pytest.fixture
def client() -> Client:
    made = Client()
    made.ask()
    return made


def test_requests() -> None:
    """A body has its length and type; a method that takes one says that it has none."""
    client = Client()
    client.ask("PUT", Encoded("/v1/a?b=c", b"data", "application/json"))
    client.answer(OK)
    assert client.wire.value() == (
        b"PUT /v1/a?b=c HTTP/1.1\r\nHost: auth\r\nAccept-Encoding: identity\r\n"
        b"Content-Type: application/json\r\nContent-Length: 4\r\n\r\ndata"
    )
    client.wire.clear()
    client.ask("POST")
    assert b"Content-Length: 0\r\n\r\n" in client.wire.value()
    client.answer(OK).wire.clear()
    client.ask("GET")
    assert b"content-length" not in client.wire.value().lower()


@pytest.mark.parametrize("step", [0, 1, 7])
def test_one_connection_carries_many_responses(step: int) -> None:
    """With a length or chunked, however they are cut, and none is taken for another."""
    client = Client()
    for _ in range(3):
        client.ask()
        client.answer(OK, step)
        client.ask()
        client.answer(
            b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            step,
        )
    assert client.results == [Answered(200), Answered(404)] * 3
    assert b"".join(data for status, data in client.body if status == 404) == b"abcde" * 3
    assert client.connection.usable


def test_a_server_that_closes_gets_no_second_request(client: Client) -> None:
    """Its response counts; the next request fails as one that was not sent."""
    client.answer(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    assert client.results == [Answered(200)]
    assert client.wire.disconnecting
    assert not client.connection.usable
    client.answer(b"more of it")  # dropped
    client.ask()
    assert isinstance(client.results[1].value, NotSent)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + bytes([0]) + b"\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_surprises_end_the_connection(client: Client, data: bytes, step: int) -> None:
    """Informational responses, upgrades, unknown lengths and versions: refused, never guessed."""
    client.answer(data, step)
    assert isinstance(client.results[0].value, Unreachable)
    assert not isinstance(client.results[0].value, NotSent)
    assert client.wire.aborted
    assert client.closed == [client.connection]
    assert client.body == [] or b"chunked" in data


@pytest.mark.parametrize("step", [0, 1000])
@pytest.mark.parametrize("end", [b"", b"\r\ncontent-length: 0\r\n\r\n"])
def test_a_head_has_a_limit(client: Client, step: int, end: bytes) -> None:
    """Whether it comes at once or in pieces, and whether it ends or not."""
    client.answer(b"HTTP/1.1 200 OK\r\na: " + b"x" * (HEAD_LIMIT + 1000) + end, step)
    assert isinstance(client.results[0].value, Unreachable)
    assert client.wire.aborted


def test_a_chunk_size_has_a_limit(client: Client) -> None:
    """What cannot be a chunk is not collected for ever."""
    client.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;")
    client.answer(b"x" * (2 * HEAD_LIMIT), 1000)
    assert client.wire.aborted


def test_data_without_a_request_end_the_connection() -> None:
    """Before the first request, and behind a response: it is no answer to the next one (attack)."""
    early = Client()
    early.answer(OK)
    assert early.wire.aborted
    early.ask()
    assert isinstance(early.results[0].value, NotSent)

    late = Client()
    asked = late.connection.exchange("GET", GET, lambda *_: None)
    asked.addBoth(lambda _: late.ask())
    late.answer(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfalse")
    assert late.wire.aborted
    assert late.body == []
    assert isinstance(late.results[0].value, NotSent)


def test_a_receiver_that_fails_or_cancels_gets_nothing_more() -> None:
    """Its exception is the request's; what was received with it is dropped."""
    parts = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    seen: list[bytes] = []

    def fail(_: int, data: bytes) -> None:
        seen.append(data)
        raise ZeroDivisionError

    client = Client()
    client.connection.exchange("GET", GET, fail).addBoth(client.results.append)
    client.answer(parts)
    assert client.results[0].check(ZeroDivisionError)

    def cancel(_: int, data: bytes) -> None:
        seen.append(data)
        asked.cancel()

    client = Client()
    asked = client.connection.exchange("GET", GET, cancel)
    asked.addBoth(client.results.append)
    client.answer(parts)
    assert client.results[0].check(CancelledError)
    assert client.wire.aborted
    assert seen == [b"a", b"a"]
