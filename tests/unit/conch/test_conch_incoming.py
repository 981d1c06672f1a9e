"""How messages are received: transcripts of what the receiver gets."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import Factory, define
from hypothesis import given
from hypothesis import strategies as st

from tele.conch.transport.incoming import Incoming
from tele.errors import ProtocolError
from tele.sockets.buffers import MAX_PACKET, PADDING
from tele.wire import numbers as n
from tele.wire.ciphers import Secrets
from tele.wire.fields import string, uint32
from tele.wire.phases import FROM_CLIENT, MessageFilter, Phase

SECRETS = Secrets(b"k", b"h", b"s")
CIPHER = b"aes128-gcm@openssh.com"


@define
class Recorder:
    """Records what it gets; holds messages when it gets ``hold``."""

    received: list[Any] = Factory(list)
    incoming: Any = None
    filter: Any = None

    def take_preface(self, data: bytes) -> int | None:
        return 0

    def version_received(self, line: bytes) -> None:
        self.received.append(line)

    def packet_received(self, number: int, payload: bytes) -> None:
        self.received.append((number, payload))
        if payload == b"hold":
            self.incoming.hold()
        if payload == b"stop":
            self.incoming.stop()
        if payload == b"bug":
            raise ZeroDivisionError

    def data(self, number: int, view: memoryview) -> None:
        self.received.append((number, bytes(view)))

    def extended(self, number: int, code: int, view: memoryview) -> None:
        self.received.append((number, code, bytes(view)))

    def credit(self, number: int, credit: int) -> None:
        self.received.append((number, credit))


def make_incoming() -> tuple[Recorder, Incoming]:
    recorder, messages = Recorder(), MessageFilter(FROM_CLIENT)
    messages.phase = Phase.OPEN
    opener = SECRETS.opener(CIPHER, True, MAX_PACKET, 0)
    incoming = Incoming(recorder, messages, opener, from_server=False)
    recorder.incoming, recorder.filter = incoming, messages
    incoming.take_data, incoming.take_extended = recorder.data, recorder.extended
    incoming.take_credit = recorder.credit
    return recorder, incoming


def packets(*messages: bytes) -> bytes:
    sealer = SECRETS.sealer(CIPHER, True, PADDING, 0)
    out = b""
    for message in messages:
        buffer = memoryview(bytearray(len(message) + 64))
        out += bytes(buffer[: sealer.seal(message, buffer, 0)])
    return out


def feed(incoming: Incoming, data: bytes) -> None:
    whole = incoming.kept + data
    incoming.feed(memoryview(whole), len(whole))


STREAM = b"SSH-2.0-x\r\n" + packets(
    b"Pone",
    b"\x5e" + bytes(3) + b"\x07" + string(b"data"),
    b"\x5f" + bytes(3) + b"\x07" + bytes(3) + b"\x01" + string(b"error"),
    b"Ptwo",
)
RECEIVED_ALL = [b"SSH-2.0-x", (80, b"one"), (7, b"data"), (7, 1, b"error"), (80, b"two")]


@given(st.lists(st.integers(1, 60), min_size=1))
def test_any_fragments_give_the_same_messages(sizes: list[int]) -> None:
    """However the network cuts the bytes, the same messages are passed on in the same order."""
    recorder, incoming = make_incoming()
    rest = STREAM
    for size in sizes:
        feed(incoming, rest[:size])
        rest = rest[size:]
    feed(incoming, rest)
    assert recorder.received == RECEIVED_ALL
    assert incoming.kept == b""


@given(st.lists(st.integers(1, 60), min_size=1))
def test_any_kept_fragments_give_the_same_messages(sizes: list[int]) -> None:
    """The same where pieces of an unfinished packet are added to what is kept."""
    recorder, incoming = make_incoming()
    rest = STREAM
    for size in (*sizes, len(STREAM)):
        piece, rest = rest[:size], rest[size:]
        if not incoming.keep(piece):
            feed(incoming, piece)
    assert recorder.received == RECEIVED_ALL
    assert not incoming.kept


@pytest.mark.parametrize("step", [1, 7])
def test_a_packet_that_drips_costs_its_length(step: int) -> None:
    """Twice as long a packet, in as small pieces, moves twice as many bytes (attack)."""

    def cost(size: int) -> int:
        recorder, incoming = make_incoming()
        feed(incoming, b"SSH-2.0-x\r\n")
        data = packets(b"P" + bytes(size))
        moved = 0
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            moved += len(piece)
            if not incoming.keep(piece):
                moved += len(incoming.kept)
                feed(incoming, piece)
        assert recorder.received[1:] == [(80, bytes(size))]
        return moved

    assert cost(20_000) <= 2 * cost(10_000)


def test_holding() -> None:
    """While messages are held none is passed on; they are after the release."""
    recorder, incoming = make_incoming()
    feed(incoming, b"SSH-2.0-x\r\n" + packets(b"Phold", b"Pone", b"Ptwo"))
    assert recorder.received[1:] == [(80, b"hold")]
    assert incoming.release()
    feed(incoming, b"")
    assert recorder.received[1:] == [(80, b"hold"), (80, b"one"), (80, b"two")]
    assert not incoming.release()


def test_stopping() -> None:
    """After the end nothing is passed on, of this segment or any other."""
    recorder, incoming = make_incoming()
    feed(incoming, b"SSH-2.0-x\r\n" + packets(b"Pstop", b"Pone"))
    assert recorder.received[1:] == [(80, b"stop")]
    assert incoming.kept == b""
    feed(incoming, packets(b"Pone"))
    assert len(recorder.received) == 2


def test_an_error_stops_it() -> None:
    """After an exception in a handler nothing more is passed on."""
    recorder, incoming = make_incoming()
    with pytest.raises(ZeroDivisionError):
        feed(incoming, b"SSH-2.0-x\r\n" + packets(b"Pbug", b"Pone"))
    assert incoming.stopped
    assert recorder.received[1:] == [(80, b"bug")]


@pytest.mark.parametrize(
    "message",
    [
        b"\x5e",
        b"\x5e" + bytes(4),
        b"\x5e" + bytes(7),
        b"\x5e" + bytes(4) + string(b"data") + b"x",
        b"\x5e" + bytes(4) + b"\0\0\0\5data",
        b"\x5e" + bytes(4) + b"\xff\xff\xff\xffdata",
        b"\x5f" + bytes(4) + string(b"data"),
        b"\x5f" + bytes(8) + b"\0\0\0\5data",
    ],
)
def test_data_of_a_wrong_length(message: bytes) -> None:
    """The length inside a data message is exactly what is there."""
    recorder, incoming = make_incoming()
    with pytest.raises(ProtocolError):
        feed(incoming, b"SSH-2.0-x\r\n" + packets(message))
    assert recorder.received == [b"SSH-2.0-x"]


def test_services_without_a_fast_path() -> None:
    """Data are passed on as other messages where no service takes views, or while it is not
    their time: there they are refused.
    """
    recorder, incoming = make_incoming()
    incoming.take_data = None
    message = b"\x5e" + bytes(4) + string(b"data")
    feed(incoming, b"SSH-2.0-x\r\n" + packets(message))
    assert recorder.received[1:] == [(n.CHANNEL_DATA, message[1:])]


@pytest.mark.parametrize(
    ("body", "received"),
    [
        (uint32(7) + uint32(2**32 - 1), (7, 2**32 - 1)),
        (uint32(7), (n.CHANNEL_WINDOW_ADJUST, uint32(7))),
        (uint32(7) + bytes(5), (n.CHANNEL_WINDOW_ADJUST, uint32(7) + bytes(5))),
    ],
)
def test_credit_is_passed_on_as_numbers(body: bytes, received: Any) -> None:
    """Credit reaches a service without a copy of its message; one that has not the length of its
    two numbers is passed on as any other message, and refused there.
    """
    recorder, incoming = make_incoming()
    feed(incoming, b"SSH-2.0-x\r\n" + packets(bytes((n.CHANNEL_WINDOW_ADJUST,)) + body))
    assert recorder.received[1:] == [received]


def test_credit_before_its_time() -> None:
    """Credit that arrives before the connection is open is no credit."""
    recorder, incoming = make_incoming()
    recorder.filter.phase = Phase.AUTH
    message = bytes((n.CHANNEL_WINDOW_ADJUST,)) + uint32(7) + uint32(1)
    feed(incoming, b"SSH-2.0-x\r\n" + packets(message))
    assert recorder.received[1:] == [(n.CHANNEL_WINDOW_ADJUST, message[1:])]


def test_a_receiver_inside_a_receiver() -> None:
    """A connection inside another's channel gets buffers of its own."""
    outer_recorder, outer = make_incoming()
    inner_recorder, inner = make_incoming()

    def carry(number: int, view: memoryview) -> None:
        feed(inner, bytes(view))
        outer_recorder.received.append(bytes(view[-4:]))

    outer.take_data = carry
    carried = b"SSH-2.0-in\r\n" + packets(b"Pinside", b"Qmore")
    feed(outer, b"SSH-2.0-x\r\n" + packets(b"\x5e" + bytes(4) + string(carried)))
    assert inner_recorder.received == [b"SSH-2.0-in", (80, b"inside"), (81, b"more")]
    assert outer_recorder.received[-1] == carried[-4:]
