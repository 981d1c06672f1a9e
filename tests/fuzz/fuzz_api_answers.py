"""Invariant: whatever a server sends, a call ends, with a value or a TeleError."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from attempts import Dice, main
from tele.errors import TeleError
from tele.https.api_errors import decode_error
from tele.https.connection import ApiConnection
from tele.https.encoding import Encoded, decode_response
from tele.model.api.members import CLUSTER

REQUEST = Encoded("/v1/cluster", b"", "")


def check(pieces: list[bytes]) -> None:
    """Hold the invariant for an answer that arrives in ``pieces`` before the connection ends."""
    lost: list[ApiConnection] = []
    connection = ApiConnection("auth:1", lost.append)
    transport = StringTransport()
    connection.makeConnection(transport)
    body: list[bytes] = []
    status: list[int] = []
    ended: list[Any] = []
    done = connection.exchange("GET", REQUEST, lambda code, data: body.append(data))
    done.addCallback(lambda taken: status.append(taken.status))
    done.addErrback(ended.append)
    for piece in pieces:
        if not transport.disconnecting and not transport.disconnected:
            connection.dataReceived(piece)
    connection.connectionLost(Failure(ConnectionDone()))
    assert lost == [connection]
    assert len(status) + len(ended) == 1
    if ended:
        assert isinstance(ended[0].value, TeleError | CancelledError), ended[0]
        return
    try:
        decode_response(CLUSTER, b"".join(body))
    except TeleError:
        decode_error(status[0], b"".join(body))


SEEDS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b'HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"err\r\n3\r\nor"\r\n0\r\n\r\n',
    (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 204 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    ),
]


def attempt(dice: Dice) -> None:
    """Some of the seeds with damage, in pieces."""
    data = b"".join(dice.choice(SEEDS) for _ in range(dice.randint(1, 3)))
    check(dice.pieces(dice.damaged(data, 8)))


if __name__ == "__main__":
    main(attempt)
