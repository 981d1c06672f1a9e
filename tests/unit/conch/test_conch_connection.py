"""Channels on one connection: windows, order, limits, and peers that break the rules."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.avatar import ConchUser
from twisted.conch.error import ConchError
from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.conch.connection.channel import QUEUE_LIMIT, REQUESTS_LIMIT, WINDOW, Channel
from tele.conch.connection.channel_opening import CHANNELS_LIMIT
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.permissions import SESSIONS_DEFAULT
from tele.errors import ProtocolError, Unreachable
from tele.sockets.buffers import MAX_DATA
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32


class Wire:
    """A fake transport: keeps what is sent; ``free`` is whether more can be sent."""

    def __init__(self, avatar: Any) -> None:
        self.avatar = avatar
        self.clock = Clock()
        self.ready_observers: set[Callable[[], None]] = set()
        self.free = True
        self.sent: list[tuple[int, bytes]] = []
        self.data = bytearray()
        self.ended: tuple[int, object] | None = None

    def sendPacket(self, number: int, payload: bytes) -> None:
        self.sent.append((number, payload))

    def sendDisconnect(self, code: int, text: object) -> None:
        self.ended = (code, text)

    def can_send(self) -> bool:
        return self.free

    def send_data(
        self, channel: int, view: memoryview | bytes, extended: int | None = None
    ) -> None:
        assert len(view) <= MAX_DATA
        self.data += view
        self.sent.append(
            (n.CHANNEL_DATA if extended is None else n.CHANNEL_EXTENDED_DATA, bytes(view))
        )

    def numbers(self) -> list[int]:
        return [number for number, _ in self.sent]

    def drain(self) -> None:
        self.free = True
        for observer in list(self.ready_observers):
            observer()


class Echo(Channel):
    """A channel of ours that keeps what it receives, and consumes it at once if ``auto``."""

    name = b"session"

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.got = bytearray()
        self.auto = True
        self.log: list[str] = []
        self.pending: list[Deferred[bool]] = []

    def data_view(self, view: memoryview) -> None:
        self.got += view
        if self.auto:
            self.consumed(len(view))

    def request_now(self, data: bytes) -> bool:
        self.log.append("now")
        return True

    def request_later(self, data: bytes) -> Deferred[bool]:
        self.pending.append(Deferred())
        return self.pending[-1]

    def request_broken(self, data: bytes) -> Deferred[bool]:
        answer: Deferred[bool] = Deferred()
        answer.errback(RuntimeError("a bug"))
        return answer

    def eofReceived(self) -> None:
        self.log.append("eof")

    def stopWriting(self) -> None:
        self.log.append("stop")

    def startWriting(self) -> None:
        self.log.append("start")

    def closed(self) -> None:
        super().closed()
        self.log.append("closed")


class Late(Echo):
    """A channel that is ready after the connection has ended."""

    def openFailed(self, reason: Any) -> None:
        self.log.append("failed")


class Old(SSHChannel):
    """A channel class as Conch programs have them."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        self.write(data)


class User(ConchUser):
    """An avatar with a channel of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.later: Deferred[Any] = Deferred()
        self.channelLookup = {
            b"session": Echo,
            b"old": Old,
            b"later": lambda **_: self.later,
        }

    def global_later(self, data: bytes) -> Any:
        return self.later

    def global_now(self, data: bytes) -> Any:
        return (1, b"done")


@pytest.fixture
def wire() -> Wire:
    """A transport with the avatar of a user."""
    return Wire(User())


@pytest.fixture
def connection(wire: Wire) -> SSHConnection:
    """A connection on it."""
    made = SSHConnection()
    made.transport = wire
    made.serviceStarted()
    return made


def open_request(
    kind: bytes = b"session", sender: int = 7, window: int = 1 << 20, most: int = 32768
) -> bytes:
    return string(kind) + uint32(sender) + uint32(window) + uint32(most)


def opened(connection: SSHConnection, **changes: Any) -> Any:
    number = connection.localChannelID
    connection.packetReceived(n.CHANNEL_OPEN, open_request(**changes))
    return connection.channels[number]


def request(connection: SSHConnection, number: int, name: bytes, reply: bool = True) -> None:
    packet = uint32(number) + string(name) + boolean(reply)
    connection.packetReceived(n.CHANNEL_REQUEST, packet)


# -- windows --------------------------------------------------------------------------
def test_credit_follows_consumption(connection: SSHConnection, wire: Wire) -> None:
    """A peer whose data are not consumed gets no credit, and may not exceed the window."""
    channel = opened(connection)
    channel.auto = False
    for _ in range(WINDOW // MAX_DATA):
        connection.channel_data(0, memoryview(bytes(MAX_DATA)))
    assert n.CHANNEL_WINDOW_ADJUST not in wire.numbers()
    with pytest.raises(ProtocolError, match="window"):
        connection.channel_data(0, memoryview(b"x"))
    channel.consumed(WINDOW)
    adjust = [payload for number, payload in wire.sent if number == n.CHANNEL_WINDOW_ADJUST]
    assert adjust == [uint32(7) + uint32(WINDOW)]


def test_credit_comes_in_few_pieces(connection: SSHConnection, wire: Wire) -> None:
    """Consumed bytes are credited a quarter of the window at a time."""
    opened(connection)
    for _ in range(4 * WINDOW // MAX_DATA):
        connection.channel_data(0, memoryview(bytes(MAX_DATA)))
    assert wire.numbers().count(n.CHANNEL_WINDOW_ADJUST) == 16


def test_data_wait_for_window_and_socket(connection: SSHConnection, wire: Wire) -> None:
    """Data are sent in order, in packets that the peer takes, as window and socket allow."""
    channel = opened(connection, window=10, most=4)
    channel.write(b"0123456789abcdef")
    assert bytes(wire.data) == b"0123456789"
    assert [len(p) for k, p in wire.sent if k == n.CHANNEL_DATA] == [4, 4, 2]
    wire.free = False
    connection.packetReceived(n.CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(100))
    assert bytes(wire.data) == b"0123456789"
    wire.drain()
    assert bytes(wire.data) == b"0123456789abcdef"
    assert not wire.ready_observers


def test_a_writer_is_paused(connection: SSHConnection, wire: Wire) -> None:
    """A queue that grows stops its writer, and starts it again when it is half empty."""
    channel = opened(connection)
    wire.free = False
    for _ in range(QUEUE_LIMIT // MAX_DATA + 1):
        channel.write(bytes(MAX_DATA))
    assert channel.log == ["stop"]
    wire.drain()
    assert channel.log == ["stop", "start"]


@pytest.mark.parametrize("how", ["send_eof", "loseConnection"])
def test_the_end_comes_after_the_data(connection: SSHConnection, wire: Wire, how: str) -> None:
    """EOF and CLOSE wait for what was written before them: nothing is cut off."""
    channel = opened(connection, window=5)
    channel.write(b"0123456789")
    getattr(channel, how)()
    assert not {n.CHANNEL_EOF, n.CHANNEL_CLOSE} & set(wire.numbers())
    connection.packetReceived(n.CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(100))
    assert bytes(wire.data) == b"0123456789"
    assert wire.numbers()[-1] == (n.CHANNEL_EOF if how == "send_eof" else n.CHANNEL_CLOSE)


def test_a_window_has_an_end(connection: SSHConnection) -> None:
    """Credit beyond 2^32 - 1 bytes is a protocol error."""
    opened(connection, window=0xFFFF_FFFF)
    with pytest.raises(ProtocolError):
        connection.packetReceived(n.CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1))


def test_channels_of_conch_work(connection: SSHConnection, wire: Wire) -> None:
    """A channel class of Conch's own gets its data, and its peer gets credit."""
    channel = opened(connection, kind=b"old")
    for _ in range(8):
        connection.channel_data(0, memoryview(bytes(MAX_DATA)))
    assert len(channel.got) == 8 * MAX_DATA
    assert n.CHANNEL_WINDOW_ADJUST in wire.numbers()


def test_channels_of_conch_send_no_packet_that_is_too_long(
    connection: SSHConnection, wire: Wire
) -> None:
    """A peer may accept packets of any length; ours have the usual one."""
    channel = opened(connection, kind=b"old", most=0xFFFF_FFFF)
    wire.sent.clear()
    channel.write(bytes(10 * MAX_DATA))
    assert wire.numbers() == [n.CHANNEL_DATA] * 10


# -- opening and closing --------------------------------------------------------------
def test_a_channel_is_confirmed_when_it_is_open(connection: SSHConnection, wire: Wire) -> None:
    """Not before; and other channels do not wait for it."""
    connection.packetReceived(n.CHANNEL_OPEN, open_request(b"later", 1))
    opened(connection, sender=2)
    assert [Reader(p).uint32() for k, p in wire.sent if k == n.CHANNEL_OPEN_CONFIRMATION] == [2]
    wire.avatar.later.callback(Echo())
    assert [Reader(p).uint32() for k, p in wire.sent if k == n.CHANNEL_OPEN_CONFIRMATION] == [2, 1]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Unreachable("node web1 is offline"), 2, b"node web1 is offline"),
        (ConchError(1, "not allowed"), 1, b"not allowed"),
        (ConchError("not allowed", 1), 1, b"not allowed"),
        (ConchError(b"\xff", 3), 3, "\ufffd".encode()),
    ],
)
def test_a_refusal_has_the_reason(
    connection: SSHConnection, wire: Wire, error: Exception, code: int, text: bytes
) -> None:
    """The true reason reaches the client."""
    connection.packetReceived(n.CHANNEL_OPEN, open_request(b"later"))
    wire.avatar.later.errback(error)
    assert wire.sent[-1] == (
        n.CHANNEL_OPEN_FAILURE,
        uint32(7) + uint32(code) + string(text) + string(b""),
    )


def test_unknown_types_are_refused(connection: SSHConnection, wire: Wire) -> None:
    """Whatever the type is called."""
    for kind in (b"x11", b"\xff\xfe", b"{0.__class__}", b""):
        connection.packetReceived(n.CHANNEL_OPEN, open_request(kind))
        assert wire.sent[-1][0] == n.CHANNEL_OPEN_FAILURE


def test_sessions_are_limited(connection: SSHConnection, wire: Wire) -> None:
    """One more than allowed is refused; after one has closed another may open."""
    for number in range(SESSIONS_DEFAULT):
        opened(connection, sender=number)
    connection.packetReceived(n.CHANNEL_OPEN, open_request())
    assert wire.sent[-1][0] == n.CHANNEL_OPEN_FAILURE
    connection.packetReceived(n.CHANNEL_CLOSE, uint32(0))
    connection.packetReceived(n.CHANNEL_OPEN, open_request())
    assert wire.sent[-1][0] == n.CHANNEL_OPEN_CONFIRMATION


def test_a_flood_of_opens_is_bounded(connection: SSHConnection, wire: Wire) -> None:
    """Pending opens count: what a peer can start has a limit."""
    wire.avatar.channelLookup[b"never"] = lambda **_: Deferred()
    for _ in range(CHANNELS_LIMIT + 50):
        connection.packetReceived(n.CHANNEL_OPEN, open_request(b"never"))
    assert wire.numbers().count(n.CHANNEL_OPEN_FAILURE) == 50


def test_no_more_sessions(connection: SSHConnection, wire: Wire) -> None:
    """A client that promised to open no more sessions is held to it."""
    packet = string(b"no-more-sessions@openssh.com") + boolean(False)
    connection.packetReceived(n.GLOBAL_REQUEST, packet)
    connection.packetReceived(n.CHANNEL_OPEN, open_request())
    assert wire.sent[-1][0] == n.CHANNEL_OPEN_FAILURE


def test_closing_is_answered_once(connection: SSHConnection, wire: Wire) -> None:
    """CLOSE is answered by CLOSE; ``closed`` is called once, and the channel is removed."""
    channel = opened(connection)
    connection.packetReceived(n.CHANNEL_EOF, uint32(0))
    connection.packetReceived(n.CHANNEL_CLOSE, uint32(0))
    assert channel.log == ["eof", "closed"]
    assert wire.numbers().count(n.CHANNEL_CLOSE) == 1
    assert not connection.channels


def test_late_messages_are_dropped(connection: SSHConnection, wire: Wire) -> None:
    """What crosses our CLOSE, or arrives after it, is legal and has no effect."""
    channel = opened(connection)
    channel.loseConnection()
    connection.channel_data(0, memoryview(b"late"))
    request(connection, 0, b"now")
    connection.packetReceived(n.CHANNEL_CLOSE, uint32(0))
    connection.channel_data(0, memoryview(b"later"))
    request(connection, 0, b"now")
    connection.packetReceived(n.CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1))
    connection.packetReceived(n.CHANNEL_EOF, uint32(0))
    assert channel.log == ["closed"]
    assert not channel.got


def test_one_channel_that_fails_at_its_end_keeps_no_other(connection: SSHConnection) -> None:
    """An exception in closed() is logged, and the next channel is closed all the same."""
    first, second = opened(connection), opened(connection)

    def fail() -> None:
        raise RuntimeError("a bug")

    first.closed = fail
    connection.serviceStopped()
    assert second.log == ["closed"]


def test_one_channel_that_fails_when_it_is_refused_ends_no_other(
    connection: SSHConnection, wire: Wire
) -> None:
    """An exception in openFailed() is logged, and the connection stays."""
    asked = Echo()

    def fail(reason: Any) -> None:
        raise RuntimeError("a bug")

    asked.openFailed = fail  # type: ignore[method-assign]
    connection.openChannel(asked)
    refusal = uint32(asked.id) + uint32(1) + string(b"no") + string(b"")
    connection.packetReceived(n.CHANNEL_OPEN_FAILURE, refusal)
    assert wire.ended is None
    assert not connection.channels


def test_an_open_that_ends_after_the_connection(connection: SSHConnection, wire: Wire) -> None:
    """``openFailed`` of a channel that is ready too late is called, and nothing is sent."""
    connection.packetReceived(n.CHANNEL_OPEN, open_request(b"later"))
    connection.serviceStopped()
    channel = Late()
    before = list(wire.sent)
    wire.avatar.later.callback(channel)
    assert channel.log == ["failed"]
    assert wire.sent == before


def test_a_subclass_overrides_the_handler_of_a_message(wire: Wire) -> None:
    """As in Conch, a method ``ssh_<message>`` of a program's class is called."""

    class Mine(SSHConnection):
        def ssh_CHANNEL_EOF(self, packet: bytes) -> None:
            seen.append(packet)
            super().ssh_CHANNEL_EOF(packet)

    seen: list[bytes] = []
    connection = Mine()
    connection.transport = wire
    channel = opened(connection)
    connection.packetReceived(n.CHANNEL_EOF, uint32(0))
    assert (seen, channel.log) == ([uint32(0)], ["eof"])


# -- requests -------------------------------------------------------------------------
def test_requests_are_answered_in_order(connection: SSHConnection, wire: Wire) -> None:
    """Requests after one whose answer takes time wait; the connection does not."""
    channel = opened(connection)
    request(connection, 0, b"later")
    request(connection, 0, b"now")
    assert channel.log == []
    other = opened(connection, sender=8)
    request(connection, 1, b"now")
    assert other.log == ["now"]
    channel.pending[0].callback(False)
    answers = [(k, Reader(p).uint32()) for k, p in wire.sent if k in (99, 100)]
    assert answers == [(n.CHANNEL_SUCCESS, 8), (n.CHANNEL_FAILURE, 7), (n.CHANNEL_SUCCESS, 7)]


def test_requests_that_wait_are_bounded(connection: SSHConnection) -> None:
    """A peer cannot pile up requests."""
    opened(connection)
    request(connection, 0, b"later")
    with pytest.raises(ProtocolError, match="too many"):
        for _ in range(REQUESTS_LIMIT + 1):
            request(connection, 0, b"now")


@pytest.mark.parametrize(
    "name", [b"no-such", b"\xff", b"__init__", b"a b", b"", b"broken", b"received.x"]
)
def test_unknown_requests_are_refused(connection: SSHConnection, wire: Wire, name: bytes) -> None:
    """A name reaches request methods only; a request that fails is refused."""
    opened(connection)
    request(connection, 0, name)
    assert wire.sent[-1][0] == n.CHANNEL_FAILURE
    before = len(wire.sent)
    request(connection, 0, name, reply=False)
    assert len(wire.sent) == before


def test_global_replies_keep_their_order(connection: SSHConnection, wire: Wire) -> None:
    """A reply that takes time is not overtaken by later ones."""
    for name in (b"later", b"now", b"keepalive@openssh.com"):
        connection.packetReceived(n.GLOBAL_REQUEST, string(name) + boolean(True))
    assert wire.sent == []
    wire.avatar.later.callback(0)
    assert wire.sent == [
        (n.REQUEST_FAILURE, b""), (n.REQUEST_SUCCESS, b"done"), (n.REQUEST_FAILURE, b""),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [b"\xff\xfe", b"__class__", b"a.b", b"{}", b""])
def test_unknown_global_requests_are_refused(
    connection: SSHConnection, wire: Wire, name: bytes
) -> None:
    """A name is looked up, never evaluated, and no byte of it ends the connection."""
    connection.packetReceived(n.GLOBAL_REQUEST, string(name) + boolean(True))
    assert wire.sent == [(n.REQUEST_FAILURE, b"")]


# -- peers that break the rules -------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "packet"),
    [
        (n.CHANNEL_DATA, uint32(5) + string(b"x")),
        (n.CHANNEL_DATA, uint32(0) + uint32(9) + b"short"),
        (n.CHANNEL_DATA, uint32(0) + string(b"x") + b"more"),
        (n.CHANNEL_DATA, b""),
        (n.CHANNEL_EXTENDED_DATA, uint32(0)),
        (n.CHANNEL_WINDOW_ADJUST, uint32(0)),
        (n.CHANNEL_EOF, uint32(9)),
        (n.CHANNEL_CLOSE, uint32(9)),
        (n.CHANNEL_CLOSE, uint32(0) + b"x"),
        (n.CHANNEL_REQUEST, uint32(0) + string(b"now")),
        (n.CHANNEL_OPEN, open_request(most=0)),
        (n.CHANNEL_OPEN, string(b"session")),
        (n.CHANNEL_OPEN_CONFIRMATION, uint32(0) + uint32(1) + uint32(1) + uint32(1)),
        (n.CHANNEL_OPEN_CONFIRMATION, uint32(77) + uint32(1) + uint32(1) + uint32(1)),
        (n.CHANNEL_OPEN_FAILURE, uint32(0) + uint32(1) + string(b"") + string(b"")),
        (n.CHANNEL_SUCCESS, uint32(0)),
        (n.CHANNEL_FAILURE, uint32(0)),
        (n.REQUEST_SUCCESS, b""),
        (n.REQUEST_FAILURE, b""),
        (n.GLOBAL_REQUEST, string(b"x")),
        (55, b""),
    ],
)
def test_broken_messages_are_protocol_errors(
    connection: SSHConnection, number: int, packet: bytes
) -> None:
    """Each ends the peer's connection with a reason, never with an exception of ours."""
    opened(connection)
    with pytest.raises(ProtocolError):
        connection.packetReceived(number, packet)


@given(st.integers(80, 100), st.binary(max_size=60), st.booleans())
def test_any_message_is_handled_or_refused(number: int, packet: bytes, aimed: bool) -> None:
    """Invariant: whatever bytes come, the outcome is an answer, nothing, or ProtocolError."""
    connection = SSHConnection()
    connection.transport = Wire(User())
    connection.serviceStarted()
    opened(connection)
    try:
        connection.packetReceived(number, (struct.pack(">I", 0) if aimed else b"") + packet)
    except ProtocolError:
        return
    assert connection.transport.ended is None
