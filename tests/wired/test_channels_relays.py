"""Channels that are relayed: forwarded ports, spliced connections, SSH within SSH."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport

from channel_ends import ChannelEnds, ChannelUser, ChannelWorld, no_descriptor_lost
from own_reactor import OwnReactor, own_reactor
from tele.conch.client.session import ProgramChannel
from tele.conch.client.transport import LoginTransport
from tele.conch.connection.channel import WINDOW, Channel
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.relay import LINGER
from tele.conch.connection.splice import open_splice
from tele.conch.connection.stream import open_stream
from tele.conch.session.programs import ProgramRequest
from tele.errors import AccessDenied, Unreachable
from tele.sockets.direct import DirectReactor
from tele.testing import Address, LinkEnd
from tele.wire.fields import string, uint32

MIB = 1 << 20
TARGET = string(b"db.example") + uint32(5432) + string(b"127.0.0.1") + uint32(40000)


class ClientEnd(Channel):
    """The client's end of a forwarded port."""

    name = b"direct-tcpip"

    def __init__(self, hoards: bool = False) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.got = bytearray()
        self.hoards = hoards

    def channelOpen(self, specificData: bytes) -> None:
        self.events.append("open")

    def openFailed(self, reason: Any) -> None:
        self.events.append(reason)

    def data_view(self, view: memoryview) -> None:
        self.got += view
        if not self.hoards:
            self.consumed(len(view))

    def use_up(self) -> None:
        self.hoards = False
        self.consumed(len(self.got))

    def eofReceived(self) -> None:
        self.events.append("eof")

    def closed(self) -> None:
        super().closed()
        self.events.append("closed")


class Target(StringTransport):
    """The target of the server's connection, which the test plays."""

    aborted = False

    def __init__(self) -> None:
        base: Any = super()
        base.__init__(peerAddress=Address())
        self.half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True


@pytest.fixture
def world() -> ChannelWorld:
    """A server that forwards to a target of the test."""
    return ChannelWorld()


@pytest.fixture
def ends(world: ChannelWorld) -> Iterator[ChannelEnds]:
    """A client that is logged in."""
    ends = world.link()
    yield ends
    ends.client_link.close()


def forwarded(ends: ChannelEnds, channel: ClientEnd | None = None) -> tuple[ClientEnd, Any, Any]:
    """An open forward: the client's channel, the server's protocol and the target."""
    target = Target()
    protocols: list[Any] = []

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        protocols.append(factory.buildProtocol(None))
        protocols[0].makeConnection(target)
        done: Deferred[Any] = Deferred()
        done.callback(protocols[0])
        return done

    ends.world.forward = connect
    client_end = ends.open(channel or ClientEnd(), TARGET)
    assert client_end.events == ["open"]
    return client_end, protocols[0], target


# -- forwarded ports ------------------------------------------------------------------
def test_a_forward_is_confirmed_when_it_is_connected(ends: ChannelEnds) -> None:
    """Not before; and the data that the target sends first arrive."""
    waiting: Deferred[Any] = Deferred()
    asked: list[Any] = []

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        asked.append((request, factory))
        return waiting

    ends.world.forward = connect
    client_end = ends.open(ClientEnd(), TARGET)
    request, factory = asked[0]
    assert (request.host, request.port) == ("db.example", 5432)
    assert request.originator == ("127.0.0.1", 40000)
    assert client_end.events == []
    protocol, target = factory.buildProtocol(None), Target()
    protocol.makeConnection(target)
    protocol.dataReceived(b"220 hello")
    assert target.producerState == "paused", "nothing more is read before the channel is open"
    waiting.callback(protocol)
    ends.settle()
    assert client_end.events == ["open"]
    assert client_end.got == b"220 hello"
    assert target.producerState == "producing"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (AccessDenied("denied: role dev lacks forwarding"), 1, "denied: role dev lacks forwarding"),
        (Unreachable("node web1 is offline"), 2, "node web1 is offline"),
        (ConnectError(string="connection refused"), 2, "connection refused"),
        (DNSLookupError("no such name"), 2, "no such name"),
        (RuntimeError("secret detail"), 2, "internal error"),
    ],
)
def test_a_forward_is_refused_with_the_reason(
    ends: ChannelEnds, error: Exception, code: int, text: str
) -> None:
    """The client receives the reason; an internal error is not described."""
    ends.world.forward = lambda *_: fail(error)
    client_end = ends.open(ClientEnd(), TARGET)
    (reason,) = client_end.events
    assert isinstance(reason, ConchError)
    assert reason.data == code
    assert text in str(reason.value)
    assert "secret" not in str(reason.value)


@pytest.mark.parametrize("port", [0, 65536, 0xFFFFFFFF])
def test_impossible_ports_are_refused(ends: ChannelEnds, port: int) -> None:
    """The forwarder is not called."""
    ends.world.forward = lambda *_: pytest.fail("asked to connect")
    extra = string(b"db") + uint32(port) + string(b"") + uint32(1)
    (reason,) = ends.open(ClientEnd(), extra).events
    assert reason.data == 1


def test_a_forward_carries_and_ends(ends: ChannelEnds) -> None:
    """Bytes both ways; EOF of each direction is passed on; after both, both sides close."""
    client_end, protocol, target = forwarded(ends)
    client_end.write(b"query")
    ends.settle()
    assert target.value() == b"query"
    protocol.dataReceived(b"answer")
    client_end.send_eof()
    ends.settle()
    assert target.half_closed
    assert not target.disconnecting
    protocol.readConnectionLost()
    ends.settle()
    assert client_end.got == b"answer"
    assert client_end.events == ["open", "eof"]
    assert target.disconnecting
    protocol.connectionLost()
    ends.settle()
    assert client_end.events == ["open", "eof", "closed"]


def test_a_target_that_does_not_read_costs_a_window(ends: ChannelEnds) -> None:
    """A target that takes no data stops credit, and the client."""
    client_end, protocol, target = forwarded(ends)
    protocol.pauseProducing()
    client_end.write(bytes(8 * MIB))
    ends.settle()
    assert len(target.value()) == WINDOW
    protocol.resumeProducing()
    ends.settle()
    assert len(target.value()) == 8 * MIB


def test_a_client_that_does_not_read_stops_the_target(ends: ChannelEnds) -> None:
    """Without credit the target is not read, and the queue is bounded."""
    client_end, protocol, target = forwarded(ends, ClientEnd(hoards=True))
    sent = 0
    while target.producerState == "producing":
        protocol.dataReceived(bytes(65536))
        sent += 65536
        ends.settle()
    assert WINDOW < sent < WINDOW + MIB
    client_end.use_up()
    ends.settle()
    assert target.producerState == "producing"
    assert len(client_end.got) == sent


def test_a_target_that_never_takes_the_rest(ends: ChannelEnds) -> None:
    """After a channel was closed its stream has a limited time to take the rest."""
    client_end, _, target = forwarded(ends)
    client_end.write(b"rest")
    client_end.loseConnection()
    ends.settle()
    assert target.disconnecting
    assert not target.aborted
    ends.world.clock.advance(LINGER)
    assert target.aborted


def test_a_target_that_is_lost_closes_the_channel(ends: ChannelEnds) -> None:
    """The data that it sent before arrive first."""
    client_end, protocol, _ = forwarded(ends)
    protocol.dataReceived(b"goodbye")
    protocol.connectionLost()
    ends.settle()
    assert client_end.got == b"goodbye"
    assert client_end.events == ["open", "eof", "closed"]
    assert not ends.server.service.channels


# -- over real sockets ----------------------------------------------------------------
class Both:
    """A forward through a socket of the machine, with the test at both ends."""

    def __init__(self, reactor: OwnReactor, world: ChannelWorld, ends: ChannelEnds) -> None:
        self.reactor, self.ends = reactor, ends
        direct: Any = DirectReactor(reactor)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            endpoint = TCP4ClientEndpoint(direct, "127.0.0.1", port)
            world.forward = lambda _, factory: endpoint.connect(factory)
            self.client_end: ClientEnd = ends.open(ClientEnd(), TARGET)
            self.until("open")
            self.far, _ = listening.accept()
        self.far.setblocking(False)

    def turn(self) -> None:
        self.reactor.turn(0)
        self.ends.settle()

    def until(self, event: str) -> None:
        """Take turns until the client's end has got ``event``."""

        def emit() -> bool:
            self.ends.settle()
            return event in self.client_end.events

        self.reactor.until(emit)

    def receive(self) -> bytes | None:
        try:
            return self.far.recv(MIB)
        except BlockingIOError:
            return None


@pytest.fixture
def both(world: ChannelWorld) -> Iterator[Both]:
    """A forward through a real socket."""
    with no_descriptor_lost(), own_reactor() as reactor:
        ends = world.link()
        both = Both(reactor, world, ends)
        yield both
        ends.client_link.close()
        both.far.close()
        for _ in range(5):
            reactor.turn(0)


def test_a_socket_is_read_into_packets(both: Both) -> None:
    """Twenty megabytes from a socket arrive to the byte, then its end."""
    data, at = bytes(range(256)) * (20 * MIB // 256), 0
    while at < len(data):
        with suppress(BlockingIOError):
            at += both.far.send(data[at : at + MIB])
        both.turn()
    both.far.shutdown(socket.SHUT_WR)
    both.until("eof")
    assert both.client_end.got == data


def test_packets_are_written_to_a_socket(both: Both) -> None:
    """Twenty megabytes reach the socket to the byte, then the end; memory is the window."""
    data = bytes(range(256)) * (20 * MIB // 256)
    both.client_end.write(data)
    both.client_end.send_eof()
    for _ in range(50):
        both.turn()
    (relay,) = both.ends.server.service.channels.values()
    assert relay._stream.transport.pending() <= WINDOW
    got = bytearray()
    while (received := both.receive()) != b"":
        got += received or b""
        both.turn()
    assert got == data


def test_a_socket_is_not_read_for_a_client_that_does_not_read(both: Both) -> None:
    """The data stay in the kernel."""
    both.client_end.hoards = True
    for _ in range(300):
        with suppress(BlockingIOError):
            both.far.send(bytes(MIB))
        both.turn()
    (relay,) = both.ends.server.service.channels.values()
    assert len(both.client_end.got) == WINDOW
    assert not relay.has_queue


def test_a_socket_that_is_reset_closes_the_channel(both: Both) -> None:
    """An error of the socket ends this channel, and nothing else."""
    both.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    both.far.close()
    both.until("closed")
    assert not both.ends.server.service.channels
    assert not both.ends.server_link.closed


# -- channels of two connections ------------------------------------------------------
class JumpUser(ChannelUser):
    """A user whose channels are spliced to another connection."""

    beyond: Any = None

    def __init__(self, world: ChannelWorld) -> None:
        super().__init__(world)
        self.channelLookup[b"direct-tcpip"] = self._through

    def _through(self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any) -> Any:
        return open_splice(
            type(self).beyond,
            b"direct-tcpip",
            data,
            remoteWindow=remoteWindow,
            remoteMaxPacket=remoteMaxPacket,
            avatar=avatar,
        )


class Spliced:
    """A client, a jump host that splices, and a server with a target."""

    def __init__(self, world: ChannelWorld) -> None:
        self.far = world.link()

        class Here(JumpUser):
            beyond = self.far.client.service

        world.make_user = Here
        self.near = world.link()

    def settle(self) -> None:
        for _ in range(100_000):
            moved = self.near.turn()
            if not self.far.turn() and not moved:
                return
        raise AssertionError("there is no end to it")

    def forward(self, client_end: ClientEnd) -> tuple[Any, Any]:
        target = Target()
        protocols: list[Any] = []

        def connect(request: Any, factory: Any) -> Deferred[Any]:
            protocols.append(factory.buildProtocol(None))
            protocols[0].makeConnection(target)
            done: Deferred[Any] = Deferred()
            done.callback(protocols[0])
            return done

        self.near.world.forward = connect
        self.near.client.service.openChannel(client_end, TARGET)
        self.settle()
        return protocols[0], target


@pytest.fixture
def spliced(world: ChannelWorld) -> Iterator[Spliced]:
    """Two connections, one behind the other."""
    spliced = Spliced(world)
    yield spliced
    spliced.near.client_link.close()
    spliced.far.client_link.close()


def test_spliced_channels_carry_and_end(spliced: Spliced) -> None:
    """Bytes, EOF and CLOSE pass through both ways, in order."""
    client_end = ClientEnd()
    protocol, target = spliced.forward(client_end)
    data = bytes(range(256)) * (10 * MIB // 256)
    client_end.write(data)
    client_end.send_eof()
    spliced.settle()
    assert target.value() == data
    assert target.half_closed
    protocol.dataReceived(b"answer")
    protocol.connectionLost()
    spliced.settle()
    assert client_end.got == b"answer"
    assert client_end.events == ["open", "eof", "closed"]
    assert not spliced.far.client.service.channels
    assert not spliced.near.server.service.channels


def test_spliced_channels_keep_a_window_each(spliced: Spliced) -> None:
    """A far side that does not read stops the near one; between them one window is queued."""
    client_end = ClientEnd()
    protocol, target = spliced.forward(client_end)
    protocol.pauseProducing()
    client_end.write(bytes(16 * MIB))
    spliced.settle()
    assert len(target.value()) == WINDOW
    (middle,) = spliced.far.client.service.channels.values()
    assert 0 < len(middle._queue) <= WINDOW
    protocol.resumeProducing()
    spliced.settle()
    assert len(target.value()) == 16 * MIB


def test_a_splice_is_refused_with_the_far_reason(spliced: Spliced) -> None:
    """The client receives the refusal of the far side."""
    spliced.near.world.forward = lambda *_: fail(Unreachable("db is down"))
    client_end = ClientEnd()
    spliced.near.client.service.openChannel(client_end, TARGET)
    spliced.settle()
    (reason,) = client_end.events
    assert reason.data == 2
    assert "db is down" in str(reason.value)


def test_a_splice_whose_far_side_is_lost(spliced: Spliced) -> None:
    """The connection beyond ends: the channels through it are closed, others stay."""
    client_end = ClientEnd()
    spliced.forward(client_end)
    spliced.far.client_link.close()
    spliced.settle()
    assert client_end.events[-1] == "closed"
    assert not spliced.near.server_link.closed


def test_early_data_of_the_far_side_are_queued(world: ChannelWorld) -> None:
    """Data and EOF that come before the near half is open follow when it is."""
    far, near = world.link(), world.link()
    opened = open_splice(
        far.client.service, b"direct-tcpip", TARGET, remoteWindow=1 << 20, remoteMaxPacket=32768
    )
    target = Target()

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(target)
        protocol.dataReceived(b"early")
        protocol.connectionLost()
        done: Deferred[Any] = Deferred()
        done.callback(protocol)
        return done

    world.forward = connect
    later: Deferred[Any] = Deferred()
    near.server.avatar.channelLookup[b"direct-tcpip"] = lambda **_: later
    client_end = near.open(ClientEnd(), TARGET)
    far.settle()
    opened.addCallback(later.callback)
    near.settle()
    far.settle()
    assert client_end.got == b"early"
    assert client_end.events == ["open", "eof", "closed"]
    for ends in (near, far):
        ends.client_link.close()


class Holding:
    """An observer that lets the client have nothing for now."""

    def __init__(self) -> None:
        self.wait: Deferred[None] = Deferred()
        self.ended: tuple[int, int] | None = None

    def opened(self, number: int) -> Deferred[None]:
        return self.wait

    def refused(self, reason: Any) -> None:
        raise AssertionError(reason)

    def closed(self, sent: int, received: int) -> None:
        self.ended = sent, received


@pytest.mark.parametrize("allowed", [True, False])
def test_what_the_client_may_not_have_yet_waits(world: ChannelWorld, allowed: bool) -> None:
    """Data, EOF and CLOSE of the far side, until the observer allows it; if never, the channel is
    closed without them. The other direction does not wait.
    """
    far, near = world.link(), world.link()
    target: Any = Target()

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(target)
        protocol.dataReceived(b"banner")
        done: Deferred[Any] = Deferred()
        done.callback(protocol)
        return done

    world.forward = connect
    later: Deferred[Any] = Deferred()
    near.server.avatar.channelLookup[b"direct-tcpip"] = lambda **_: later
    observer = Holding()
    opened = open_splice(
        far.client.service, b"direct-tcpip", TARGET, remoteWindow=1 << 20, remoteMaxPacket=32768,
        observer=observer,
    )  # fmt: skip
    client_end = near.open(ClientEnd(), TARGET)
    far.settle()
    opened.addCallback(later.callback)
    near.settle()
    client_end.write(b"up")
    near.settle()
    far.settle()
    near.settle()
    assert (target.value(), client_end.got) == (b"up", b"")
    if allowed:
        observer.wait.callback(None)
    else:
        observer.wait.errback(Unreachable("auth is away"))
    near.settle()
    assert client_end.got == (b"banner" if allowed else b"")
    assert ("closed" in client_end.events) is not allowed
    for ends in (near, far):
        ends.client_link.close()
    assert observer.ended is not None


# -- protocols over channels ----------------------------------------------------------
class Talker(Protocol):
    """Keeps what happens."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.got = bytearray()

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.events.append("lost")


def talk(ends: ChannelEnds) -> tuple[Talker, Any, Any, Any]:
    """A protocol of the client's that is connected to a target of the server's."""
    target, talker = Target(), Talker()
    protocols: list[Any] = []

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        protocols.append(factory.buildProtocol(None))
        protocols[0].makeConnection(target)
        done: Deferred[Any] = Deferred()
        done.callback(protocols[0])
        return done

    ends.world.forward = connect
    opened: list[Any] = []
    ready = open_stream(ends.client.service, b"direct-tcpip", TARGET, talker, Address(7))
    ready.addCallback(opened.append)
    ends.settle()
    assert opened == [talker]
    channel: Any = talker.transport
    return talker, channel, protocols[0], target


def test_a_protocol_over_a_channel(ends: ChannelEnds) -> None:
    """It is connected, sends, receives, knows its peer, and its connectionLost is called."""
    talker, channel, protocol, target = talk(ends)
    assert channel.getPeer() == Address(7)
    channel.writeSequence([b"to ", b"it"])
    channel.loseWriteConnection()
    protocol.dataReceived(b"from it")
    ends.settle()
    assert target.value() == b"to it"
    assert target.half_closed
    assert talker.got == b"from it"
    protocol.connectionLost()
    ends.settle()
    assert talker.events == ["made", "lost"]


def test_a_protocol_is_paused(ends: ChannelEnds) -> None:
    """Its producer is paused while the channel is full, and resumed when it is not."""
    _, channel, protocol, _ = talk(ends)
    producer = StringTransport()
    channel.registerProducer(producer, True)
    protocol.pauseProducing()
    while producer.producerState == "producing":
        channel.write(bytes(65536))
        ends.settle()
    protocol.resumeProducing()
    ends.settle()
    assert producer.producerState == "producing"


def test_a_stream_is_refused_with_the_reason(ends: ChannelEnds) -> None:
    """The caller gets the reason of the refusal."""
    reasons: list[Any] = []
    ready = open_stream(ends.client.service, b"direct-tcpip", TARGET, Talker())
    ready.addErrback(lambda failure: reasons.append(failure.value))
    ends.settle()
    assert "you may not forward ports" in str(reasons[0])


def test_an_aborted_stream_is_closed_at_once(ends: ChannelEnds) -> None:
    """What is queued is dropped."""
    talker, channel, protocol, _ = talk(ends)
    protocol.pauseProducing()
    channel.write(bytes(8 * MIB))
    ends.settle()
    assert channel.has_queue
    channel.abortConnection()
    protocol.connectionLost()
    ends.settle()
    assert talker.events == ["made", "lost"]


def test_a_paused_protocol_costs_a_window(ends: ChannelEnds) -> None:
    """Data for a paused protocol are queued, and the other side stops."""
    talker, channel, protocol, target = talk(ends)
    protocol.dataReceived(b"one")
    ends.settle()
    channel.pauseProducing()
    while target.producerState == "producing":
        protocol.dataReceived(bytes(65536))
        ends.settle()
    assert talker.got == b"one"
    assert channel.localWindowLeft == 0
    channel.resumeProducing()
    ends.settle()
    assert len(talker.got) > WINDOW
    protocol.connectionLost()
    ends.settle()
    assert talker.events == ["made", "lost"]


def test_ssh_within_ssh(world: ChannelWorld) -> None:
    """A second connection runs inside a channel of the first, with sessions in it."""
    outer = world.link()
    inner_server = world.server()

    links: list[LinkEnd] = []

    def connect(request: Any, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        here, there = LinkEnd(protocol), LinkEnd(inner_server)
        here.peer, there.peer = there, here
        links.extend((here, there))
        inner_server.makeConnection(there)
        protocol.makeConnection(here)
        done: Deferred[Any] = Deferred()
        done.callback(protocol)
        return done

    world.forward = connect
    inner_client: Any = LoginTransport(
        world.clock, world.verifier(), world.identity(), SSHConnection, world.limits
    )
    ready = inner_client.ready()
    opened = open_stream(
        outer.client.service, b"direct-tcpip", TARGET, inner_client, Address(), Address(2)
    )

    def settle() -> None:
        moved = True
        while moved:
            moved = outer.turn()
            for link in links:
                moved = link.carry(1 << 20) or moved

    settle()
    assert opened.called
    assert ready.called
    received = bytearray()
    channel = ProgramChannel(ProgramRequest("exec", b"x"), lambda _, view: received.extend(view))
    inner_client.service.openChannel(channel)
    settle()
    (program,) = world.programs.started
    data, at = bytes(range(256)) * (5 * MIB // 256), 0
    while at < len(data):
        at += program.write_output(data[at : at + MIB])
        settle()
    program.finish()
    settle()
    assert received == data
    assert channel.ended.called
    outer.client_link.close()
