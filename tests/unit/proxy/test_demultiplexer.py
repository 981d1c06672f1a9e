"""One port, three protocols, which the first bytes or silence decide."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.log import event_text
from tele.proxy.admission import (
    TLS_BURST,
    TLS_PER_SECOND,
    AdmissionLimits,
    PortAdmission,
    Slot,
)
from tele.proxy.client_hello import ClientHelloReader
from tele.proxy.demultiplexer import (
    SILENCE_SECONDS,
    UNDECIDED_SECONDS,
    Demultiplexer,
    ProtocolRoutes,
    Undecided,
)
from tele.wire.proxy_header import LOCAL

PEER = IPv4Address("TCP", "127.0.0.1", 40000)


class Taken(Protocol):
    """Takes a connection over and remembers what it was given."""

    def __init__(self, route: str) -> None:
        self.admission = route
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Transport(StringTransport):
    """Knows its protocol and how it ended, as a TCP connection does."""

    protocol: Protocol | None = None
    aborted = False
    peer: IAddress | None = None

    def claim_peer(self, address: IAddress) -> None:
        self.peer = address

    def abortConnection(self) -> None:
        self.aborted = True
        protocol = self.protocol
        if protocol is not None:
            protocol.connectionLost(Failure(connectionDone.value))

    def feed(self, data: bytes) -> None:
        assert self.protocol is not None
        self.protocol.dataReceived(data)


class Scene:
    """A demultiplexer with a fake clock and routes that remember."""

    limit = 3

    def __init__(self, *, proxy_protocol: bool = False) -> None:
        self.clock = Clock()
        self.closed = False
        self.ssh_clients: list[IAddress] = []
        self.slots: list[Slot] = []
        self.turned_away: list[str] = []
        self.member_sources: set[str] = set()

        def route(name: str) -> Callable[..., Protocol | None]:
            def made(address: IAddress, slot: Slot | None = None) -> Protocol | None:
                self.ssh_clients.append(address)
                if slot is not None:
                    slot.clear_deadline()
                    self.slots.append(slot)
                return None if self.closed else Taken(name)

            return made

        limits = AdmissionLimits(pending=self.limit)
        self.admission = PortAdmission(self.clock, self, limits)
        self.factory = Demultiplexer(
            ProtocolRoutes(route("auth"), route("https"), route("ssh")),
            self.admission,
            proxy_protocol=proxy_protocol,
        )

    def is_member_source(self, host: str) -> bool:
        return host in self.member_sources

    def refused(self, host: str, why: str) -> None:
        self.turned_away.append(host)

    @property
    def undecided(self) -> int:
        """Connections that count, without those that a route has taken."""
        return len(self.admission.pending) - len(self.slots)

    def connect(self) -> Transport:
        transport = Transport()
        protocol = self.factory.buildProtocol(PEER)
        assert protocol is not None
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport


def hello(*protocols: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="auth.c").do_handshake()
    return out.read()


@pytest.mark.parametrize(
    ("data", "route"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (hello("tele-auth", "http/1.1"), "auth"),
        (hello("http/1.1"), "https"),
        (hello(), "https"),
    ],
    ids=["ssh", "auth", "https", "plain-tls"],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_first_bytes_choose_the_route(data: bytes, route: str, step: int) -> None:
    """However the bytes are cut, the right protocol gets all of them."""
    scene = Scene()
    transport = scene.connect()
    for at in range(0, len(data), step):
        transport.feed(data[at : at + step])
    taken = transport.protocol
    assert isinstance(taken, Taken)
    assert (taken.admission, taken.received) == (route, data)
    assert scene.undecided == 0
    assert not scene.clock.getDelayedCalls()


def test_silence_is_ssh() -> None:
    """A client that waits for the server to speak is an SSH client."""
    scene = Scene()
    transport = scene.connect()
    scene.clock.advance(SILENCE_SECONDS)
    assert isinstance(transport.protocol, Taken)
    assert transport.protocol.admission == "ssh"
    assert not scene.clock.getDelayedCalls()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x00", b"SSX", b"\x16\x03\x01\x00\x00"])
def test_anything_else_is_cut_off(data: bytes) -> None:
    """What is neither TLS nor SSH gets no answer at all."""
    scene = Scene()
    transport = scene.connect()
    transport.feed(data)
    assert transport.aborted
    assert transport.value() == b""
    assert scene.undecided == 0
    assert not scene.clock.getDelayedCalls()


def test_half_a_hello_does_not_wait_for_ever() -> None:
    """A peer that trickles bytes is cut off after a fixed time."""
    scene = Scene()
    transport = scene.connect()
    transport.feed(hello("tele-auth")[:50])
    scene.clock.advance(SILENCE_SECONDS)
    assert isinstance(transport.protocol, Undecided)
    for _ in range(9):
        scene.clock.advance(1)
        transport.feed(hello("tele-auth")[50:51])
        assert not transport.aborted
    scene.clock.advance(UNDECIDED_SECONDS - SILENCE_SECONDS - 9)
    assert transport.aborted
    assert scene.undecided == 0
    assert not scene.clock.getDelayedCalls()


@pytest.mark.parametrize("record", [1, 100])
def test_a_slow_hello_costs_its_length(record: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long a ClientHello, byte by byte in small records, is twice the work (attack)."""
    lengths = []
    feed = ClientHelloReader.feed

    def counted(self: ClientHelloReader, data: bytes) -> object:
        lengths.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(ClientHelloReader, "feed", counted)

    def cost(size: int) -> int:
        lengths.clear()
        message = b"\x01" + (8 * 1024).to_bytes(3, "big") + bytes(size)
        pieces = [message[at : at + record] for at in range(0, size, record)]
        data = b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in pieces)
        transport = Scene().connect()
        for at in range(len(data)):
            transport.feed(data[at : at + 1])
        assert not transport.aborted
        return sum(lengths)

    assert cost(2000) <= 2 * cost(1000)


def test_a_source_begins_tls_so_often() -> None:
    """One address does not have us do the work of handshakes without end; others begin (attack)."""
    scene = Scene()
    tls = hello("tele-auth")

    def begins(host: str) -> bool:
        transport = Transport()
        protocol = scene.factory.buildProtocol(IPv4Address("TCP", host, 1))
        assert protocol is not None
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.feed(tls)
        if transport.aborted:
            return False
        scene.slots.pop().release()
        return True

    assert [begins("192.0.2.7") for _ in range(TLS_BURST + 5)] == [True] * TLS_BURST + [False] * 5
    assert begins("192.0.2.8")
    assert scene.turned_away == ["192.0.2.7"] * 5
    scene.clock.advance(1)
    assert [begins("192.0.2.7") for _ in range(TLS_PER_SECOND + 1)].count(True) == TLS_PER_SECOND
    scene.member_sources.add("192.0.2.9")
    assert all(begins("192.0.2.9") for _ in range(4 * TLS_BURST))
    assert not begins("192.0.2.9")


def test_only_so_many_may_be_undecided() -> None:
    """A flood of silent connections costs a bounded number of them, and excludes no client that
    sends its first bytes at once (attack).
    """
    scene = Scene()
    transports = [scene.connect() for _ in range(scene.limit)]
    late = scene.connect()
    assert [transport.aborted for transport in transports] == [True, False, False]
    assert scene.turned_away == [PEER.host]
    assert scene.undecided == scene.limit
    late.feed(b"SSH-2.0-x\r\n")
    assert isinstance(late.protocol, Taken)
    scene.connect()
    assert not transports[1].aborted


def test_a_peer_that_leaves_is_forgotten() -> None:
    """A connection lost while undecided leaves nothing behind."""
    scene = Scene()
    transport = scene.connect()
    assert transport.protocol is not None
    transport.protocol.connectionLost(Failure(connectionDone.value))
    assert scene.undecided == 0
    assert not scene.clock.getDelayedCalls()


def test_a_closed_route_ends_the_connection() -> None:
    """When a route returns no protocol, the connection is closed."""
    scene = Scene()
    transport = scene.connect()
    scene.closed = True
    transport.feed(b"SSH-2.0-x\r\n")
    assert transport.aborted


# -- behind a load balancer -----------------------------------------------------------
HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 5555 3080\r\n"
CLIENT = IPv4Address("TCP", "192.0.2.7", 5555)


@pytest.mark.parametrize(
    ("data", "route"),
    [(b"SSH-2.0-x\r\n", "ssh"), (hello("tele-auth"), "auth"), (hello(), "https")],
    ids=["ssh", "auth", "https"],
)
@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_a_header_names_the_peer(data: bytes, route: str, step: int) -> None:
    """The named address is the peer's, for the route and the transport; the rest is complete."""
    scene = Scene(proxy_protocol=True)
    transport = scene.connect()
    for at in range(0, len(HEADER + data), step):
        transport.feed((HEADER + data)[at : at + step])
    taken = transport.protocol
    assert isinstance(taken, Taken)
    assert (taken.admission, taken.received) == (route, data)
    assert (scene.ssh_clients, transport.peer) == ([CLIENT], CLIENT)
    assert not scene.clock.getDelayedCalls()


def test_a_header_without_an_address_keeps_the_peer() -> None:
    """A health check of the balancer itself: it counts with the balancer's address."""
    scene = Scene(proxy_protocol=True)
    transport = scene.connect()
    transport.feed(LOCAL + b"SSH-2.0-x\r\n")
    assert (scene.ssh_clients, transport.peer) == ([PEER], None)


def test_silence_after_a_header_is_ssh() -> None:
    """The header is not the client's first line: the client may still wait for ours."""
    scene = Scene(proxy_protocol=True)
    transport = scene.connect()
    scene.clock.advance(SILENCE_SECONDS * 2)
    transport.feed(HEADER)
    assert isinstance(transport.protocol, Undecided)
    scene.clock.advance(SILENCE_SECONDS)
    assert isinstance(transport.protocol, Taken)
    assert (transport.protocol.admission, scene.ssh_clients) == ("ssh", [CLIENT])
    assert not scene.clock.getDelayedCalls()


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", hello("tele-auth"), HEADER + HEADER, HEADER[:-2] + b" 1\r\n"]
)
def test_a_connection_without_a_header_is_refused(data: bytes) -> None:
    """Where a header is required there is one, once; a client cannot add its own."""
    scene = Scene(proxy_protocol=True)
    transport = scene.connect()
    transport.feed(data)
    assert transport.aborted
    assert (scene.ssh_clients, scene.undecided) == ([], 0)
    assert not scene.clock.getDelayedCalls()


@pytest.mark.parametrize("data", [b"", HEADER[:20], LOCAL[:13]])
def test_a_header_does_not_take_for_ever(data: bytes) -> None:
    """Neither silence nor half a header keeps a place."""
    scene = Scene(proxy_protocol=True)
    transport = scene.connect()
    if data:
        transport.feed(data)
    scene.clock.advance(UNDECIDED_SECONDS)
    assert (transport.aborted, scene.ssh_clients, scene.undecided) == (True, [], 0)
    assert not scene.clock.getDelayedCalls()


@pytest.mark.parametrize("header", [HEADER, LOCAL])
def test_an_unexpected_header(header: bytes) -> None:
    """No client can claim an address, and the log names the setting, at a limited rate."""
    seen: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        seen.append(event_text(event))

    scene = Scene()
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(200):
            transport = scene.connect()
            transport.feed(header + b"SSH-2.0-x\r\n")
            assert transport.aborted
    finally:
        globalLogPublisher.removeObserver(observe)
    lines = [line for line in seen if "proxy.proxy_protocol: required" in line]
    assert 0 < len(lines) < 100
    assert scene.ssh_clients == []
