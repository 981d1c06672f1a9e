"""A pump reads into packets, many with one read, and never more than window and packets allow."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.interfaces import IReadDescriptor
from zope.interface.verify import verifyObject

from tele.conch.connection.pumps import SHARED_BATCH, Pump, move
from tele.sockets.buffers import BATCH, DATA_BUFFERS, MAX_DATA


class Wire:
    """A fake transport: keeps what is sealed."""

    def __init__(self) -> None:
        self.sealed: list[bytes] = []
        self.flushed = 0

    def can_send(self) -> bool:
        return True

    def seal_data(self, channel: int, lengths: Sequence[int], code: int | None) -> None:
        for buffer, length in zip(DATA_BUFFERS, lengths, strict=False):
            self.sealed.append(bytes(buffer[:length]))

    def flush(self) -> None:
        self.flushed += 1


class Scheduler:
    """No sender waits here."""

    def wait(self, sender: Any) -> None:
        pass

    def cancel(self, sender: Any) -> None:
        pass


class Connection:
    """Has a transport, and a scheduler."""

    def __init__(self) -> None:
        self.transport = Wire()
        self.write_scheduler = Scheduler()
        self.channels: dict[int, Any] = {0: None}


class Sending:
    """A fake channel."""

    remote_number = 7

    def __init__(self, window: int, most: int = MAX_DATA) -> None:
        self.conn = Connection()
        self.remoteWindowLeft = window
        self.remoteMaxPacket = most

    @property
    def is_writable(self) -> bool:
        return self.remoteWindowLeft > 0


class Reactor:
    """Keeps what is watched."""

    def __init__(self) -> None:
        self.watched: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.watched.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.watched.discard(reader)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield reading, writing
    os.close(writing)


def pattern(size: int) -> bytes:
    """Return bytes of which no two packets are equal."""
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4 + 1))[:size]


def source(data: bytes) -> Any:
    """Return a reader that has all of ``data`` at once."""
    left = memoryview(data)

    def read(buffers: Any) -> int | None:
        nonlocal left
        total = 0
        for buffer in buffers:
            size = min(len(buffer), len(left))
            buffer[:size] = left[:size]
            left = left[size:]
            total += size
        return total or None

    return read


@pytest.mark.parametrize("most", [MAX_DATA, MAX_DATA - 1, 1000, 1])
@pytest.mark.parametrize("window", [1 << 21, BATCH * MAX_DATA, 100_000, 999, 1])
def test_packets_are_cut_as_the_peer_wants_them(window: int, most: int) -> None:
    """No packet exceeds the peer's maximum, nor all of them its window; in order."""
    data = pattern(2 * BATCH * MAX_DATA)
    channel: Any = Sending(window, most)
    assert move(channel, source(data)) is False
    sealed = channel.conn.transport.sealed
    whole = b"".join(sealed)
    assert whole == data[: len(whole)]
    assert len(whole) == min(window, BATCH * most)
    assert channel.remoteWindowLeft == window - len(whole)
    assert {len(packet) for packet in sealed[:-1]} <= {most}
    assert len(sealed[-1]) <= most
    assert channel.conn.transport.flushed == 1


def test_an_observer_sees_the_packets() -> None:
    """What is observed is what is sealed."""
    observed: list[bytes] = []
    channel: Any = Sending(1 << 21)
    move(channel, source(pattern(100_000)), None, lambda *views: observed.extend(map(bytes, views)))
    assert observed == channel.conn.transport.sealed


def test_a_single_packet_leaves_before_it_is_observed() -> None:
    """The client does not wait for its recording; the observer sees the same bytes, though sending
    used the buffers again.
    """
    channel: Any = Sending(1 << 21)
    wire = channel.conn.transport
    seen: list[tuple[bytes, int]] = []

    def flush() -> None:
        wire.flushed += 1
        DATA_BUFFERS[0][:1000] = bytes(1000)

    wire.flush = flush
    data = pattern(1000)
    move(channel, source(data), None, lambda view: seen.append((bytes(view), wire.flushed)))
    assert wire.sealed == [data]
    assert seen == [(data, 1)]


def test_the_end_is_reported_and_nothing_else() -> None:
    """No data now is not the end; and neither is flushed."""
    channel: Any = Sending(1 << 21)
    assert move(channel, lambda buffers: None) is False
    assert move(channel, lambda buffers: 0) is True
    assert not channel.conn.transport.flushed


def test_small_writes_become_large_packets(pipe: tuple[int, int]) -> None:
    """Pieces in a pipe become one packet."""
    reading, writing = pipe
    channel: Any = Sending(1 << 21)
    ended: list[bool] = []
    reactor: Any = Reactor()
    pump = Pump(reactor, reading, channel, None, lambda: ended.append(True))
    verifyObject(IReadDescriptor, pump)
    for _ in range(8):
        os.write(writing, b"x" * 4096)
    pump.doRead()
    assert channel.conn.transport.sealed == [b"x" * 32768]
    pump.close()
    assert not ended


@pytest.mark.parametrize(("channels", "packets"), [(1, 8), (2, SHARED_BATCH)])
def test_beside_other_channels_less_is_read_at_a_time(
    pipe: tuple[int, int], channels: int, packets: int
) -> None:
    """What is typed on another channel of the connection does not wait for a whole batch."""
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8 * MAX_DATA)
    data = pattern(8 * MAX_DATA)
    os.write(writing, data)
    channel: Any = Sending(1 << 21)
    channel.conn.channels = dict.fromkeys(range(channels))
    reactor: Any = Reactor()
    pump = Pump(reactor, reading, channel, None, lambda: None)
    pump.doRead()
    assert channel.conn.transport.sealed == [
        data[at : at + MAX_DATA] for at in range(0, packets * MAX_DATA, MAX_DATA)
    ]
    pump.close()


def test_a_window_that_one_key_used_up_stops_the_next_read(pipe: tuple[int, int]) -> None:
    """After a small read a pump goes on to be watched; the next turn reads nothing without window,
    and then it is not watched any more.
    """
    reading, writing = pipe
    channel: Any = Sending(1)
    reactor: Any = Reactor()
    pump = Pump(reactor, reading, channel, None, lambda: None)
    os.write(writing, b"xy")
    pump.doRead()
    pump.doRead()
    assert channel.conn.transport.sealed == [b"x"]
    assert not reactor.watched
    channel.remoteWindowLeft = 1
    pump.resume()
    assert reactor.watched == {pump}
    pump.doRead()
    assert channel.conn.transport.sealed == [b"x", b"y"]
    pump.close()
