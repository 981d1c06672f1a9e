"""How messages leave: transcripts of what links are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attrs import Factory, define

from tele.conch.transport.outgoing import SEND_BATCH, Outgoing
from tele.sockets.buffers import BATCH, DATA_BUFFERS, MAX_DATA, MAX_PACKET, PADDING
from tele.wire import numbers as n
from tele.wire.ciphers import Secrets
from tele.wire.packets import Opener, PlainSealer, Sealer

SECRETS = Secrets(b"k", b"h", b"s")
CIPHER = b"aes128-gcm@openssh.com"


@define
class FakeLink:
    """Writes down each send; ``then`` happens in the middle of one."""

    sent: list[bytes] = Factory(list)
    busy: bool = False
    waiting: int = 0
    then: Callable[[bytes], None] | None = None

    def send(self, view: memoryview) -> None:
        data = bytes(view)
        if self.then is not None:
            self.then(data)
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append(b"close")

    def abort(self) -> None:
        self.sent.append(b"abort")

    def pause(self) -> None:
        self.sent.append(b"pause")

    def resume(self) -> None:
        self.sent.append(b"resume")


def sealer() -> Sealer:
    return SECRETS.sealer(CIPHER, True, PADDING, 0)


def outgoing() -> tuple[Outgoing, FakeLink]:
    link = FakeLink()
    return Outgoing(link, sealer()), link


def messages(sent: list[bytes], opener: Opener | None = None) -> list[bytes]:
    """The messages in what was sent, in order."""
    opener = opener or SECRETS.opener(CIPHER, True, MAX_PACKET, 0)
    data = memoryview(b"".join(sent))
    buffer = memoryview(bytearray(MAX_PACKET + 64))
    found, at = [], 0
    while taken := opener.open(data, at, len(data), buffer):
        at += taken
        found.append(bytes(buffer[1 : opener.payload_end]))
    assert at == len(data)
    return found


@pytest.fixture(autouse=True)
def _batch_is_empty() -> Iterator[None]:
    """Each test begins and ends with an empty batch."""
    assert (SEND_BATCH.owner, SEND_BATCH.gathering) == (None, 0)
    yield
    assert (SEND_BATCH.owner, SEND_BATCH.gathering) == (None, 0)


def data_message(channel: int, data: bytes) -> bytes:
    return b"\x5e" + channel.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


def test_a_message_leaves_at_once() -> None:
    """Outside of receiving, each message is a send of its own."""
    out, link = outgoing()
    out.send(80, b"one")
    out.send(81, b"two")
    assert len(link.sent) == 2
    assert messages(link.sent) == [b"Pone", b"Qtwo"]


def test_messages_gather_while_receiving() -> None:
    """While received packets are handled, answers gather and leave in one send."""
    out, link = outgoing()
    SEND_BATCH.gather()
    out.send(80, b"one")
    out.send_data(5, b"data", None)
    out.send(81, b"two")
    assert not link.sent
    SEND_BATCH.deliver()
    assert len(link.sent) == 1
    assert messages(link.sent) == [b"Pone", data_message(5, b"data"), b"Qtwo"]


def test_sealed_data_leave_with_flush() -> None:
    """A pump's packets leave in one send, in order with other messages."""
    out, link = outgoing()
    for word in (b"first", b"second"):
        DATA_BUFFERS[0][: len(word)] = word
        out.seal_data(1, (len(word),), None)
    assert not link.sent
    out.send(80, b"after")
    assert len(link.sent) == 1
    assert messages(link.sent) == [data_message(1, b"first"), data_message(1, b"second"), b"Pafter"]


def test_a_full_buffer_leaves_by_itself() -> None:
    """However much is sealed without a flush, it goes in sends of one batch."""
    out, link = outgoing()
    for _ in range(BATCH * 2):
        out.seal_data(1, (MAX_DATA,), None)
    assert len(link.sent) == 2
    out.seal_data(1, (10,), None)
    out.flush()
    assert len(messages(link.sent)) == BATCH * 2 + 1


def test_two_connections_take_turns() -> None:
    """A connection that claims the buffer sends what another one has in it first."""
    first, first_link = outgoing()
    second, second_link = outgoing()
    SEND_BATCH.gather()
    first.send(80, b"1")
    second.send(80, b"2")
    assert len(first_link.sent) == 1
    first.send(80, b"3")
    assert len(second_link.sent) == 1
    SEND_BATCH.deliver()
    assert messages(first_link.sent) == [b"P1", b"P3"]
    assert messages(second_link.sent) == [b"P2"]


def test_a_connection_inside_another() -> None:
    """What an inner connection sends becomes data of the outer one; a third one's data and
    what a pump is reading stay whole.
    """
    outer, outer_link = outgoing()
    inner, inner_link = outgoing()
    third, third_link = outgoing()
    inner_link.then = lambda data: outer.send_data(9, data, None)
    SEND_BATCH.gather()
    inner.send(80, b"inside")
    DATA_BUFFERS[0][:4] = b"pump"
    third.seal_data(1, (4,), None)
    inner.send(81, b"again")
    SEND_BATCH.deliver()
    third.flush()
    assert messages(third_link.sent) == [data_message(1, b"pump")]
    carried = [message[9:] for message in messages(outer_link.sent)]
    assert messages(carried) == [b"Pinside", b"Qagain"]


def test_what_waits_for_keys() -> None:
    """During an exchange only its own messages leave; the rest follows in order, after what
    has to come first.
    """
    out, link = outgoing()
    out.send_kexinit(b"\x14kexinit")
    out.send(80, b"waits")
    out.send_data(1, b"waits too", None)
    out.send(n.NEWKEYS, b"")
    assert out.waiting_octets
    out.renew(sealer(), (n.EXT_INFO, b"first"))
    assert out.waiting_octets == 0
    assert messages(link.sent[:2]) == [b"\x14kexinit", b"\x15"]
    renewed = messages(link.sent[2:])
    assert renewed == [b"\x07first", b"Pwaits", data_message(1, b"waits too")]


def test_forgetting() -> None:
    """A connection that is gone leaves nothing in the shared buffer."""
    out, link = outgoing()
    SEND_BATCH.gather()
    out.send(80, b"one")
    out.forget()
    SEND_BATCH.deliver()
    assert not link.sent


def test_what_no_packet_can_hold() -> None:
    """Messages longer than a packet, and data before keys, are mistakes of ours."""
    out, _ = outgoing()
    with pytest.raises(ValueError, match="longer than any packet"):
        out.send(80, bytes(MAX_PACKET))
    with pytest.raises(ValueError, match="more channel data"):
        out.seal_data(1, (MAX_DATA + 1,), None)
    out.sealer = PlainSealer()
    SEND_BATCH.gather()
    with pytest.raises(ValueError, match="before keys"):
        out.seal_data(1, (1,), None)
    SEND_BATCH.deliver()  # this connection has nothing to send, and keeps no other from sending
