"""Two protocols of one process that talk as over a connection."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from tele.proxy.terminating.pipe import QUEUE_LIMIT, connect_pipe

NOWHERE: Any = None


class End(Protocol):
    """Notes what it is given."""

    transport: Any

    def __init__(self, aborts: bool = False) -> None:
        self.pieces: list[bytes] = []
        self.aborts = aborts
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.aborts:
            self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.lost += 1


class Producer:
    """Notes whether it is paused."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


def connected(clock: Clock, server: End) -> End:
    """Return the client of a server, connected to it."""
    client = End()
    connect_pipe(clock, client, NOWHERE, server, NOWHERE)
    clock.advance(0)
    return client


def test_many_small_pieces_while_it_is_paused() -> None:
    """A user who writes single bytes to a server that is paused, up to the limit, is no more work
    for the proxy later than one who writes them together (attack).
    """
    clock, server, producer = Clock(), End(), Producer()
    client = connected(clock, server)
    client.transport.registerProducer(producer, True)
    server.transport.pauseProducing()
    sent = 0
    while not producer.paused:
        client.transport.write(b"x")
        sent += 1
    assert sent == QUEUE_LIMIT + 1
    server.transport.resumeProducing()
    clock.advance(0)
    assert sum(map(len, server.pieces)) == sent
    assert len(server.pieces) < 16
    assert not producer.paused


def test_a_protocol_that_aborts_as_it_reads() -> None:
    """It gets nothing more, and both ends learn it once."""
    clock, server = Clock(), End(aborts=True)
    client = connected(clock, server)
    server.transport.pauseProducing()
    for _ in range(2):
        client.transport.write(b"x" * QUEUE_LIMIT)
    server.transport.resumeProducing()
    clock.advance(0)
    clock.advance(0)
    assert (client.lost, server.lost) == (1, 1)


def test_the_end_follows_what_was_written() -> None:
    """Also while the reader is paused."""
    clock, server = Clock(), End()
    client = connected(clock, server)
    server.transport.pauseProducing()
    client.transport.write(b"last")
    client.transport.loseConnection()
    clock.advance(0)
    assert (server.pieces, server.lost) == ([], 0)
    server.transport.resumeProducing()
    clock.advance(0)
    assert (server.pieces, server.lost, client.lost) == ([b"last"], 1, 1)
