"""A hostile client, and hostile peers, at sockets that listen for a client."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from attrs import Factory, define
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import alsoProvides

from channel_ends import ChannelEnds, ChannelUser, ChannelWorld, no_descriptor_lost
from own_reactor import OwnReactor, own_reactor
from tele.conch.connection.channel import Channel
from tele.conch.forwarding.listening import (
    ACCEPTED_LIMIT,
    ANSWER_TIMEOUT,
    LISTENING_LIMIT,
    ChannelType,
    Listeners,
)
from tele.conch.forwarding.local import PATH_LIMIT, open_direct_streamlocal
from tele.conch.forwarding.remote import REQUESTS, IListener, answer_request, port_channel
from tele.conch.session.session_forwarding import DisplayRequest, ISessionForwards
from tele.errors import AccessDenied
from tele.wire.fields import boolean, string, uint32

ANY_PORT = string(b"localhost") + uint32(0)


@define
class Observer:
    """Keeps what a relay reports."""

    events: list[Any] = Factory(list)

    def opened(self, number: int) -> None:
        self.events.append("opened")

    def refused(self, reason: Any) -> None:
        self.events.append("refused")

    def closed(self, sent: int, received: int) -> None:
        self.events.append((sent, received))


class Listening(ChannelUser):
    """A user with ports on loopback, and with displays."""

    last: Listening

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.channelLookup[b"direct-streamlocal@openssh.com"] = open_direct_streamlocal
        self.listeners = Listeners(world.sockets, lambda: self.conn)
        self.observers: list[Observer] = []
        self.closed: list[Any] = []
        self.displays: list[DisplayRequest] = []
        Listening.last = self
        alsoProvides(self, IListener, ISessionForwards)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        return answer_request(requestType, data, self) if requestType in REQUESTS else 0

    def listen(self, request: Any) -> Deferred[int]:
        """See :class:`IListener`."""
        if not self.listeners.can_add:
            return fail(AccessDenied("too many"))
        made = socket.create_server(("127.0.0.1", request.port))
        port: int = made.getsockname()[1]
        self.observers.append(Observer())
        observer = self.observers[-1]
        kind = ChannelType(
            b"forwarded-tcpip", lambda peer: port_channel(request, peer), lambda _: observer
        )
        key = type(request)(request.host, port)
        self.listeners.add(key, [made], kind, lambda: self.closed.append(port))
        return succeed(port)

    def cancel(self, request: Any) -> bool:
        """See :class:`IListener`."""
        return self.listeners.remove(request)

    def agent(self) -> Deferred[None]:
        """See :class:`ISessionForwards`."""
        return fail(AccessDenied("no agents"))

    def display(self, request: DisplayRequest) -> Deferred[Any]:
        """See :class:`ISessionForwards`."""
        self.displays.append(request)
        return fail(AccessDenied("no displays"))


class Taken(Channel):
    """The client's end of an accepted connection, which consumes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.got = bytearray()
        self.ended = False

    def data_view(self, view: memoryview) -> None:
        self.got += view

    def eofReceived(self) -> None:
        self.ended = True
        self.loseConnection()


@define
class ListeningWorld(ChannelWorld):
    """A world with a reactor for sockets, beside the clock of the link."""

    sockets: Any = None


@define
class Both:
    """A client, a server, and peers that connect to its ports."""

    reactor: OwnReactor
    ends: ChannelEnds
    taken: list[Taken]
    answering: bool = True

    def turn(self) -> None:
        """Run both reactors once."""
        self.reactor.turn(0.01)
        self.ends.settle()

    def until(self, condition: Any) -> None:
        """Take turns until ``condition()`` is true."""
        for _ in range(2000):
            if condition():
                return
            self.turn()
        raise AssertionError("it never came to be so")

    def ask(self, name: bytes, data: bytes) -> Any:
        """Make a global request; return the reply, or None if it is refused."""
        results: list[Any] = []
        asked = self.ends.client.service.sendGlobalRequest(name, data, 1)
        asked.addCallbacks(results.append, lambda _: results.append(None))
        self.until(lambda: bool(results))
        return results[0]

    def listen(self) -> int:
        """Request a port."""
        return int.from_bytes(self.ask(b"tcpip-forward", ANY_PORT), "big")

    @property
    def user(self) -> Listening:
        """The server's side."""
        return Listening.last


@pytest.fixture
def both() -> Iterator[Both]:
    """Both sides; no descriptor may be left open at the end."""
    with no_descriptor_lost(), own_reactor() as reactor:
        world = ListeningWorld(make_user=Listening, sockets=reactor)
        made = Both(reactor, world.link(), [])

        def take(window: int, most: int, data: bytes) -> Any:
            if not made.answering:
                return Deferred()
            made.taken.append(Taken())
            made.taken[-1].remoteWindowLeft, made.taken[-1].remoteMaxPacket = window, most
            return made.taken[-1]

        made.ends.client.service.channel_forwarded_tcpip = take
        yield made
        made.user.listeners.close()
        made.ends.client_link.close()
        for _ in range(5):
            reactor.turn(0)


def connect_to(port: int) -> socket.socket:
    """Connect to the port."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=20)
    peer.setblocking(False)
    return peer


def begin_connecting(port: int) -> socket.socket:
    """Connect without waiting for the kernel's queue."""
    peer = socket.socket()
    peer.setblocking(False)
    with suppress(BlockingIOError):
        peer.connect(("127.0.0.1", port))
    return peer


def test_a_connection_becomes_a_channel(both: Both) -> None:
    """Bytes pass both ways, each EOF is passed on, and the bytes are counted."""
    with connect_to(both.listen()) as peer:
        peer.send(b"question")
        both.until(lambda: both.taken and both.taken[0].got == b"question")
        both.taken[0].write(b"answer")
        both.taken[0].send_eof()
        both.turn()
        assert peer.recv(100) == b"answer"
        both.until(lambda: _is_over(peer))
    both.until(lambda: both.taken[0].ended and len(both.user.observers[0].events) == 2)
    assert both.user.observers[0].events == ["opened", (6, 8)]


def test_accepted_connections_are_bounded(both: Both) -> None:
    """Ten thousand connections of a local process cost a limited number of channels (attack)."""
    port = both.listen()
    peers: list[socket.socket] = []
    for number in range(10_000):
        peers.append(begin_connecting(port))
        if number % 100 == 0:
            both.turn()
        if len(peers) > 1000:  # the descriptors of this process have a limit, too
            peers.pop(0).close()
        assert len(both.ends.server.service.channels) <= ACCEPTED_LIMIT
    for peer in peers:
        peer.close()
    # And the port serves again.
    both.until(lambda: not both.ends.server.service.channels)
    with connect_to(port) as last:
        before = len(both.taken)
        last.send(b"still there?")
        both.until(lambda: any(t.got == b"still there?" for t in both.taken[before:]))


def test_a_client_that_never_answers(both: Both) -> None:
    """An accepted connection is closed after the time-out, and the limit still holds (attack)."""
    port = both.listen()
    both.answering = False
    peers = [begin_connecting(port) for _ in range(ACCEPTED_LIMIT + 5)]
    both.until(lambda: len(both.ends.server.service.channels) == ACCEPTED_LIMIT)
    timers = [c for c in both.reactor.getDelayedCalls() if c.getTime() > both.reactor.seconds()]
    assert len(timers) == ACCEPTED_LIMIT
    for timer in timers:
        assert timer.getTime() <= both.reactor.seconds() + ANSWER_TIMEOUT
        timer.reset(0)
    for peer in peers[:ACCEPTED_LIMIT]:
        both.until(lambda peer=peer: _is_over(peer))
    assert len(both.ends.server.service.channels) == ACCEPTED_LIMIT
    for peer in peers:
        peer.close()


def _is_over(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_never_reads(both: Both) -> None:
    """A peer that sends without end is not read beyond the window (attack)."""
    with connect_to(both.listen()) as peer:
        both.until(lambda: bool(both.taken))
        sent = 0
        for _ in range(300):
            with suppress(BlockingIOError):
                sent += peer.send(bytes(1 << 20))
            both.turn()
        queued = len(both.taken[0].got)
        assert queued <= both.taken[0].localWindowSize
        assert sent < queued + (32 << 20)  # what kernels buffer on loopback


def test_listeners_are_bounded(both: Both) -> None:
    """The ports of a client have a limit (attack)."""
    for _ in range(LISTENING_LIMIT):
        assert both.listen()
    assert both.ask(b"tcpip-forward", ANY_PORT) is None


def test_cancel(both: Both) -> None:
    """A cancelled port is closed; a client cancels only its own ports (attack)."""
    port, other = both.listen(), both.listen()
    asked = string(b"localhost") + uint32(port)
    for wrong in (string(b"127.0.0.1") + uint32(port), string(b"localhost") + uint32(22), ANY_PORT):
        assert both.ask(b"cancel-tcpip-forward", wrong) is None
    with connect_to(port) as peer:
        peer.send(b"remains")
        both.until(lambda: bool(both.taken))
        assert both.ask(b"cancel-tcpip-forward", asked) is not None
        both.until(lambda: both.taken[0].got == b"remains")
    assert both.ask(b"cancel-tcpip-forward", asked) is None
    assert both.user.closed == [port]
    with pytest.raises(ConnectionRefusedError):
        connect_to(port)
    connect_to(other).close()


def test_the_end_of_the_connection(both: Both) -> None:
    """When the client's connection ends its ports are closed, and so are accepted connections."""
    port = both.listen()
    with connect_to(port) as peer:
        both.until(lambda: bool(both.taken))
        both.user.listeners.close()
        both.ends.client_link.close()
        for _ in range(200):
            both.reactor.turn(0.01)
            if _is_over(peer):
                break
        assert _is_over(peer)
    with pytest.raises(ConnectionRefusedError):
        connect_to(port)
    assert not both.user.listeners.can_add


@pytest.mark.parametrize(
    "path",
    [b"", b"relative", b"/a\0b", b"\0abstract", b"/" + b"x" * PATH_LIMIT, b"/" + b"x" * 30_000],
    ids=["empty", "relative", "nul", "abstract", "long", "very long"],
)
def test_invalid_paths(both: Both, path: bytes) -> None:
    """A path that the kernel would cut or cannot take is refused (attack)."""
    assert both.ask(b"streamlocal-forward@openssh.com", string(path)) is None
    assert both.ask(b"cancel-streamlocal-forward@openssh.com", string(path)) is None
    refused: list[Any] = []
    channel = Channel()
    channel.name = b"direct-streamlocal@openssh.com"
    channel.openFailed = refused.append  # type: ignore[method-assign, assignment]
    both.ends.open(channel, string(path) + string(b"") + uint32(0))
    assert "absolute path" in str(refused[0].value) or "absolute path" in str(refused[0])
    assert both.listen()


@pytest.mark.parametrize("data", [b"", string(b"x"), string(b"x") + uint32(1) + b"more"])
@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_malformed_requests(both: Both, name: bytes, data: bytes) -> None:
    """A malformed request ends the connection or is refused, and never listens (attack)."""
    both.ends.client.service.sendGlobalRequest(name, data, 0)
    for _ in range(5):
        both.turn()
    assert not both.user.observers


@pytest.mark.parametrize("host", [b"x" * 256, b"\xff", "lö".encode()])
def test_invalid_hosts(both: Both, host: bytes) -> None:
    """A host that is not a name is refused (attack)."""
    assert both.ask(b"tcpip-forward", string(host) + uint32(0)) is None
    assert both.ask(b"tcpip-forward", string(b"localhost") + uint32(70_000)) is None


def x11(protocol: bytes, cookie: bytes, screen: int = 0) -> bytes:
    """An ``x11-req``."""
    return boolean(False) + string(protocol) + string(cookie) + uint32(screen)


@pytest.mark.parametrize(
    "data",
    [
        x11(b"MIT-MAGIC-COOKIE-1", b"00\nadd :0 . 11"),
        x11(b"MIT-MAGIC-COOKIE-1", b""),
        x11(b"MIT-MAGIC-COOKIE-1", b"0"),
        x11(b"MIT-MAGIC-COOKIE-1", b"00" * 300),
        x11(b"x; rm -rf /", b"00"),
        x11(b"", b"00"),
        x11(b"MIT-MAGIC-COOKIE-1", b"00", 1 << 31),
    ],
)
def test_invalid_displays(both: Both, data: bytes) -> None:
    """A value that xauth could take for a command is refused (attack)."""
    channel = Channel()
    channel.name = b"session"
    both.ends.open(channel)
    replies: list[str] = []
    asked = both.ends.client.service.sendRequest(channel, b"x11-req", data, True)
    asked.addCallbacks(lambda _: replies.append("yes"), lambda _: replies.append("no"))
    both.ends.settle()
    assert (replies, both.user.displays) == (["no"], [])


def test_a_refusal_of_agents_and_displays(both: Both) -> None:
    """Forwarding that is not permitted is refused, and the session continues."""
    channel = Channel()
    channel.name = b"session"
    both.ends.open(channel)
    replies: list[str] = []
    good = x11(b"MIT-MAGIC-COOKIE-1", os.urandom(16).hex().encode())
    for name, data in ((b"auth-agent-req@openssh.com", b""), (b"x11-req", good)):
        asked = both.ends.client.service.sendRequest(channel, name, data, True)
        asked.addCallbacks(lambda _: replies.append("yes"), lambda _: replies.append("no"))
        both.ends.settle()
    assert replies == ["no", "no"]
    assert len(both.user.displays) == 1
    started = both.ends.client.service.sendRequest(channel, b"exec", string(b"x"), True)
    started.addCallback(lambda _: replies.append("started"))
    both.ends.settle()
    assert replies[-1] == "started"
    both.ends.world.programs.started[-1].finish()
    both.ends.settle()
