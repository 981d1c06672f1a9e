"""What a pump reads goes into packets, many with one read, and never more than may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.interfaces import IReadDescriptor
from zope.interface.verify import verifyObject

from tele.conch.connection.pumps import Pump, move
from tele.sockets.buffers import BATCH, DATA_BUFFERS, MAX_DATA


class Wire:
    """Stands for a transport: keeps what is sealed."""

    def __init__(self) -> None:
        self.sealed: list[bytes] = []
        self.flushed = 0

    def can_send(self) -> bool:
        return True

    def seal_data(self, channel: int, length: int, code: int | None, room: int) -> None:
        self.sealed.append(bytes(DATA_BUFFERS[room][:length]))

    def flush(self) -> None:
        self.flushed += 1


class Turns:
    """Nobody waits here."""

    def leave(self, sender: Any) -> None:
        pass


class Connection:
    """Has a transport, and turns."""

    def __init__(self) -> None:
        self.transport = Wire()
        self.turns = Turns()


class Way:
    """Stands for a channel."""

    remote_number = 7

    def __init__(self, window: int, most: int = MAX_DATA) -> None:
        self.conn = Connection()
        self.remoteWindowLeft = window
        self.remoteMaxPacket = most

    @property
    def has_room(self) -> bool:
        return self.remoteWindowLeft > 0


class Reactor:
    """Watches nothing."""

    def addReader(self, reader: Any) -> None:
        pass

    def removeReader(self, reader: Any) -> None:
        pass


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield reading, writing
    os.close(writing)


def pattern(size: int) -> bytes:
    """Return bytes of which no packet is like another."""
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4 + 1))[:size]


def source(data: bytes) -> Any:
    """Return a reader that has all of ``data`` there at once."""
    left = memoryview(data)

    def read(rooms: Any) -> int | None:
        nonlocal left
        total = 0
        for room in rooms:
            size = min(len(room), len(left))
            room[:size] = left[:size]
            left = left[size:]
            total += size
        return total or None

    return read


@pytest.mark.parametrize("most", [MAX_DATA, MAX_DATA - 1, 1000, 1])
@pytest.mark.parametrize("window", [1 << 21, BATCH * MAX_DATA, 100_000, 999, 1])
def test_packets_are_cut_as_the_peer_wants_them(window: int, most: int) -> None:
    """No packet is longer than the peer takes, nor all of them than its window; in order."""
    data = pattern(2 * BATCH * MAX_DATA)
    way: Any = Way(window, most)
    assert move(way, source(data)) is False
    sealed = way.conn.transport.sealed
    whole = b"".join(sealed)
    assert whole == data[: len(whole)]
    assert len(whole) == min(window, BATCH * most)
    assert way.remoteWindowLeft == window - len(whole)
    assert {len(packet) for packet in sealed[:-1]} <= {most}
    assert len(sealed[-1]) <= most
    assert way.conn.transport.flushed == 1


def test_who_listens_hears_the_packets() -> None:
    """What is heard is what is sealed."""
    heard: list[bytes] = []
    way: Any = Way(1 << 21)
    move(way, source(pattern(100_000)), None, lambda view: heard.append(bytes(view)))
    assert heard == way.conn.transport.sealed


def test_an_end_is_told_and_nothing_else_is() -> None:
    """Nothing there now is not the end; and neither is flushed."""
    way: Any = Way(1 << 21)
    assert move(way, lambda rooms: None) is False
    assert move(way, lambda rooms: 0) is True
    assert not way.conn.transport.flushed


def test_small_writes_become_large_packets(pipe: tuple[int, int]) -> None:
    """What lies in a pipe in pieces is one packet, whole."""
    reading, writing = pipe
    way: Any = Way(1 << 21)
    ended: list[bool] = []
    pump = Pump(Reactor(), reading, way, None, lambda: ended.append(True))
    verifyObject(IReadDescriptor, pump)
    for _ in range(8):
        os.write(writing, b"x" * 4096)
    pump.doRead()
    assert way.conn.transport.sealed == [b"x" * 32768]
    pump.close()
    assert not ended
