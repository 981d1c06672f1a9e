"""Invariant: whatever a peer sends inside TLS, the server answers whole responses or ends it.

No bytes reach a handler as a value that the table does not allow, nothing is raised, and
when the connection is gone no timer is left.
"""

from __future__ import annotations

import re
from datetime import timedelta

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from attempts import Dice, main
from tele.https.channel import ApiChannel, ApiRequest
from tele.https.connections import ApiFactory
from tele.https.limits import Limits


class Wire(StringTransport):
    """A transport without TLS under it, and without a certificate."""

    def getPeerCertificate(self) -> None:
        return None

    def abortConnection(self) -> None:
        self.disconnecting = True


def check(pieces: list[bytes]) -> None:
    """Hold the invariant for a peer that sends ``pieces`` and disconnects."""
    clock = Clock()
    seen: list[ApiRequest] = []

    def on_head(
        request: ApiRequest, method: bytes, target: bytes, length: int | None
    ) -> timedelta | None:
        return timedelta(seconds=5) if length is not None and length <= 1000 else None

    def on_request(request: ApiRequest) -> None:
        seen.append(request)
        assert len(request.content.read()) <= 1000
        request.setHeader(b"content-length", b"2")
        request.write(b"{}")
        request.finish()

    api = ApiFactory(clock, Limits(), on_head, on_request)
    channel: ApiChannel = api.buildProtocol(None)
    wire = Wire()
    channel.makeConnection(wire)
    for piece in pieces:
        if not wire.disconnecting:
            channel.dataReceived(piece)
            clock.advance(0.1)
    clock.advance(200)
    assert wire.disconnecting
    channel.connectionLost()
    assert clock.getDelayedCalls() == []
    assert api._all == set()
    answers = re.findall(rb"HTTP/1\.[01] (\d+)", wire.value())
    assert len(answers) - answers.count(b"100") <= len(seen) + 1


SEEDS = [
    b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n{  }",
    (
        b"PUT /x HTTP/1.1\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\n\r\n"
    ),
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
]


def attempt(dice: Dice) -> None:
    """Some of the seeds with damage, in pieces."""
    data = b"".join(dice.choice(SEEDS) for _ in range(dice.randint(1, 3)))
    check(dice.pieces(dice.damaged(data, 8)))


if __name__ == "__main__":
    main(attempt)
