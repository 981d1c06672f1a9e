"""A hostile client, and hostile strangers, at what listens for a client."""

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
class Watch:
    """What a relay tells."""

    events: list[Any] = Factory(list)

    def opened(self, number: int) -> None:
        self.events.append("opened")

    def refused(self, reason: Any) -> None:
        self.events.append("refused")

    def closed(self, sent: int, received: int) -> None:
        self.events.append((sent, received))


class Listening(ChannelUser):
    """A user for whom ports of loopback listen, and who has displays."""

    last: Listening

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.channelLookup[b"direct-streamlocal@openssh.com"] = open_direct_streamlocal
        self.listeners = Listeners(world.sockets, lambda: self.conn)
        self.watches: list[Watch] = []
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
        self.watches.append(Watch())
        watch = self.watches[-1]
        kind = ChannelType(
            b"forwarded-tcpip", lambda peer: port_channel(request, peer), lambda _: watch
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
    """The client's end of an accepted connection, which uses nothing up."""

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
    """A client, a server, and strangers."""

    reactor: OwnReactor
    ends: ChannelEnds
    taken: list[Taken]
    answering: bool = True

    def turn(self) -> None:
        """Let everybody work."""
        self.reactor.turn(0.01)
        self.ends.settle()

    def until(self, condition: Any) -> None:
        """Turn until it is so."""
        for _ in range(2000):
            if condition():
                return
            self.turn()
        raise AssertionError("it never came to be so")

    def ask(self, name: bytes, data: bytes) -> Any:
        """Make a global request; return the answer, or None if it is no."""
        results: list[Any] = []
        asked = self.ends.client.service.sendGlobalRequest(name, data, 1)
        asked.addCallbacks(results.append, lambda _: results.append(None))
        self.until(lambda: bool(results))
        return results[0]

    def listen(self) -> int:
        """Have a port."""
        return int.from_bytes(self.ask(b"tcpip-forward", ANY_PORT), "big")

    @property
    def user(self) -> Listening:
        """The server's side."""
        return Listening.last


@pytest.fixture
def both() -> Iterator[Both]:
    """Everything, and nothing of it left at the end."""
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


def visit(port: int) -> socket.socket:
    """Connect as a stranger."""
    visitor = socket.create_connection(("127.0.0.1", port), timeout=20)
    visitor.setblocking(False)
    return visitor


def begin_visit(port: int) -> socket.socket:
    """Connect without waiting until the kernel has room."""
    visitor = socket.socket()
    visitor.setblocking(False)
    with suppress(BlockingIOError):
        visitor.connect(("127.0.0.1", port))
    return visitor


def test_a_connection_becomes_a_channel(both: Both) -> None:
    """Bytes go both ways, each end is told, and what passed is counted."""
    with visit(both.listen()) as visitor:
        visitor.send(b"question")
        both.until(lambda: both.taken and both.taken[0].got == b"question")
        both.taken[0].write(b"answer")
        both.taken[0].send_eof()
        both.turn()
        assert visitor.recv(100) == b"answer"
        both.until(lambda: _is_over(visitor))
    both.until(lambda: both.taken[0].ended and len(both.user.watches[0].events) == 2)
    assert both.user.watches[0].events == ["opened", (6, 8)]


def test_strangers_are_bounded(both: Both) -> None:
    """Ten thousand connections of a local process cost a limited number of channels (attack)."""
    port = both.listen()
    visitors: list[socket.socket] = []
    for number in range(10_000):
        visitors.append(begin_visit(port))
        if number % 100 == 0:
            both.turn()
        if len(visitors) > 1000:  # the descriptors of this process have a limit, too
            visitors.pop(0).close()
        assert len(both.ends.server.service.channels) <= ACCEPTED_LIMIT
    for visitor in visitors:
        visitor.close()
    # And who has a right to it is served again.
    both.until(lambda: not both.ends.server.service.channels)
    with visit(port) as last:
        before = len(both.taken)
        last.send(b"still there?")
        both.until(lambda: any(t.got == b"still there?" for t in both.taken[before:]))


def test_a_client_that_never_answers(both: Both) -> None:
    """Who connected is let go after a time, and the client can still not have more (attack)."""
    port = both.listen()
    both.answering = False
    visitors = [begin_visit(port) for _ in range(ACCEPTED_LIMIT + 5)]
    both.until(lambda: len(both.ends.server.service.channels) == ACCEPTED_LIMIT)
    timers = [c for c in both.reactor.getDelayedCalls() if c.getTime() > both.reactor.seconds()]
    assert len(timers) == ACCEPTED_LIMIT
    for timer in timers:
        assert timer.getTime() <= both.reactor.seconds() + ANSWER_TIMEOUT
        timer.reset(0)
    for visitor in visitors[:ACCEPTED_LIMIT]:
        both.until(lambda visitor=visitor: _is_over(visitor))
    assert len(both.ends.server.service.channels) == ACCEPTED_LIMIT
    for visitor in visitors:
        visitor.close()


def _is_over(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_never_reads(both: Both) -> None:
    """A stranger who sends without end is not read beyond the window (attack)."""
    with visit(both.listen()) as visitor:
        both.until(lambda: bool(both.taken))
        sent = 0
        for _ in range(300):
            with suppress(BlockingIOError):
                sent += visitor.send(bytes(1 << 20))
            both.turn()
        kept = len(both.taken[0].got)
        assert kept <= both.taken[0].localWindowSize
        assert sent < kept + (32 << 20)  # what kernels buffer on loopback


def test_listeners_are_bounded(both: Both) -> None:
    """A client cannot have ports without end (attack)."""
    for _ in range(LISTENING_LIMIT):
        assert both.listen()
    assert both.ask(b"tcpip-forward", ANY_PORT) is None


def test_cancel(both: Both) -> None:
    """What is cancelled listens no more; what was not asked for cannot be cancelled (attack)."""
    port, other = both.listen(), both.listen()
    asked = string(b"localhost") + uint32(port)
    for wrong in (string(b"127.0.0.1") + uint32(port), string(b"localhost") + uint32(22), ANY_PORT):
        assert both.ask(b"cancel-tcpip-forward", wrong) is None
    with visit(port) as visitor:
        visitor.send(b"goes on")
        both.until(lambda: bool(both.taken))
        assert both.ask(b"cancel-tcpip-forward", asked) is not None
        both.until(lambda: both.taken[0].got == b"goes on")
    assert both.ask(b"cancel-tcpip-forward", asked) is None
    assert both.user.closed == [port]
    with pytest.raises(ConnectionRefusedError):
        visit(port)
    visit(other).close()


def test_the_end_of_the_connection(both: Both) -> None:
    """Nothing listens for a client that is gone, and those who are connected hear the end."""
    port = both.listen()
    with visit(port) as visitor:
        both.until(lambda: bool(both.taken))
        both.user.listeners.close()
        both.ends.client_link.close()
        for _ in range(200):
            both.reactor.turn(0.01)
            if _is_over(visitor):
                break
        assert _is_over(visitor)
    with pytest.raises(ConnectionRefusedError):
        visit(port)
    assert not both.user.listeners.can_add


@pytest.mark.parametrize(
    "path",
    [b"", b"relative", b"/a\0b", b"\0abstract", b"/" + b"x" * PATH_LIMIT, b"/" + b"x" * 30_000],
    ids=["empty", "relative", "nul", "abstract", "long", "very long"],
)
def test_paths_that_are_none(both: Both, path: bytes) -> None:
    """A path that the kernel would read otherwise, or not at all, is refused (attack)."""
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
    """A request that is not as it should be is the end, or a no, and never a listener (attack)."""
    both.ends.client.service.sendGlobalRequest(name, data, 0)
    for _ in range(5):
        both.turn()
    assert not both.user.watches


@pytest.mark.parametrize("host", [b"x" * 256, b"\xff", "lö".encode()])
def test_hosts_that_are_none(both: Both, host: bytes) -> None:
    """A host that is no name is refused (attack)."""
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
def test_displays_that_are_none(both: Both, data: bytes) -> None:
    """What xauth could take for an order of its own never gets there (attack)."""
    channel = Channel()
    channel.name = b"session"
    both.ends.open(channel)
    answers: list[str] = []
    asked = both.ends.client.service.sendRequest(channel, b"x11-req", data, True)
    asked.addCallbacks(lambda _: answers.append("yes"), lambda _: answers.append("no"))
    both.ends.settle()
    assert (answers, both.user.displays) == (["no"], [])


def test_a_refusal_of_agents_and_displays(both: Both) -> None:
    """Where the user may not, the client is told no, and the session goes on."""
    channel = Channel()
    channel.name = b"session"
    both.ends.open(channel)
    answers: list[str] = []
    good = x11(b"MIT-MAGIC-COOKIE-1", os.urandom(16).hex().encode())
    for name, data in ((b"auth-agent-req@openssh.com", b""), (b"x11-req", good)):
        asked = both.ends.client.service.sendRequest(channel, name, data, True)
        asked.addCallbacks(lambda _: answers.append("yes"), lambda _: answers.append("no"))
        both.ends.settle()
    assert answers == ["no", "no"]
    assert len(both.user.displays) == 1
    started = both.ends.client.service.sendRequest(channel, b"exec", string(b"x"), True)
    started.addCallback(lambda _: answers.append("started"))
    both.ends.settle()
    assert answers[-1] == "started"
    both.ends.world.programs.started[-1].finish()
    both.ends.settle()
