"""Memory stays flat, whatever a peer sends, and whatever it does not read.

A flood is sent as a socket would bring it: nothing while the server does not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from channel_ends import ChannelWorld
from flooder import PRODUCER_LIMIT, SEGMENT, Flooder, global_request, open_of, to_session
from ssh_attacker import request
from tele.admission.limits import REKEY_BURST, Limits
from tele.testing.ssh import World
from tele.wire import numbers as n
from tele.wire.fields import string, uint32
from weighing import weigh

#: More than a flood may add to a connection.
SLACK = 64 * 1024


@pytest.fixture
def flooder() -> Flooder:
    """An authenticated client that has a session with a program in channel 0."""
    flooder = Flooder(ChannelWorld(limits=Limits(unread_octets=256 * 1024)))
    flooder.login()
    flooder.send(
        bytes((n.CHANNEL_OPEN,)) + string(b"session") + uint32(0) + uint32(1 << 20) + uint32(32768)
    )
    flooder.send(to_session(b"exec", string(b"sleep")))
    flooder.receive()
    flooder.transport.read_all()
    return flooder


ANSWERED: dict[str, Callable[[int], bytes]] = {
    "pings": lambda i: bytes((n.PING,)) + string(b"ping"),
    "large pings": lambda i: bytes((n.PING,)) + string(bytes(30000)),
    "unknown messages": lambda i: bytes((200,)),
    "channels of no kind": lambda i: open_of(b"no-such-kind", i),
    "sessions": lambda i: open_of(b"session", i),
    "forwards": lambda i: open_of(b"direct-tcpip", i)
    + string(b"x") + uint32(1) + string(b"y") + uint32(2),
    "keepalives": lambda i: global_request(b"keepalive@openssh.com", True),
    "forwardings": lambda i: global_request(b"tcpip-forward", True, string(b"") + uint32(0)),
    "requests of no kind": lambda i: to_session(b"no-such-request"),
    "second programs": lambda i: to_session(b"exec", string(b"true")),
    "environment": lambda i: to_session(b"env", string(b"LANG%d" % i) + string(b"x")),
    "terminals": lambda i: to_session(b"pty-req", string(b"xterm") + bytes(16) + string(b"")),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ANSWERED))
def test_answers_that_are_not_read(flooder: Flooder, kind: str) -> None:
    """A client that does not read replies is not read from until it does."""
    before = flooder.weight()
    sent = flooder.flood(ANSWERED[kind], 64 << 20)
    unread = flooder.world.limits.unread_octets
    assert sent < 16 * unread
    assert not flooder.transport.disconnecting
    assert flooder.transport.producerState == "paused"
    # What one segment more leads to comes on top of the bound.
    assert len(flooder.transport.value()) < PRODUCER_LIMIT + unread + 4 * SEGMENT
    # What may be there at once (sessions, variables) may be there now.
    assert flooder.weight() - before < 1 << 20
    flooder.receive()
    flooder.transport.read_all()
    assert flooder.transport.is_read_from
    flooder.send(bytes((n.PING,)) + string(b"still there?"))
    assert bytes((n.PONG,)) + string(b"still there?") in flooder.receive()


UNANSWERED: dict[str, Callable[[int], bytes]] = {
    "ignore": lambda i: bytes((n.IGNORE,)) + string(bytes(1000)),
    "empty ignore": lambda i: bytes((n.IGNORE,)) + string(b""),
    "debug": lambda i: bytes((n.DEBUG, 1)) + string(b"text" * 100) + string(b"en"),
    "unimplemented": lambda i: bytes((n.UNIMPLEMENTED,)) + uint32(i),
    "pongs": lambda i: bytes((n.PONG,)) + string(b"x"),
    "late logins": lambda i: request(b"root", b"none"),
    "no credit": lambda i: bytes((n.CHANNEL_WINDOW_ADJUST,)) + uint32(0) + uint32(0),
    "crumbs of credit": lambda i: bytes((n.CHANNEL_WINDOW_ADJUST,)) + uint32(0) + uint32(1),
    "empty data": lambda i: bytes((n.CHANNEL_DATA,)) + uint32(0) + string(b""),
    "empty errors": lambda i: bytes((n.CHANNEL_EXTENDED_DATA,)) + uint32(0) + bytes(8),
    "ends": lambda i: bytes((n.CHANNEL_EOF,)) + uint32(0),
    "window changes": lambda i: to_session(b"window-change", bytes(16), want=False),
    "signals": lambda i: to_session(b"signal", string(b"USR1"), want=False),
    "unwanted answers": lambda i: to_session(b"no-such-request", want=False),
    "unwanted global answers": lambda i: global_request(b"no-such-request", False, bytes(100)),
    "empty ends of what was closed": lambda i: bytes((n.CHANNEL_CLOSE,)) + uint32(0),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(UNANSWERED))
def test_floods_without_answers(flooder: Flooder, kind: str) -> None:
    """A megabyte of what needs no answer is read, and nothing of it is kept."""
    flooder.flood(UNANSWERED[kind], SEGMENT)
    before = flooder.weight()
    sent = flooder.flood(UNANSWERED[kind], 1 << 20)
    assert sent >= 1 << 20
    assert not flooder.transport.disconnecting
    assert flooder.weight() - before < SLACK
    assert len(flooder.transport.value()) < PRODUCER_LIMIT


def test_opened_and_closed(flooder: Flooder) -> None:
    """Channels that were closed leave nothing, however many there were."""

    def open_and_close(number: int) -> None:
        flooder.send(open_of(b"session", 7), bytes((n.CHANNEL_CLOSE,)) + uint32(number))
        flooder.transport.read_all()

    for number in range(1, 100):
        open_and_close(number)
    before = flooder.weight()
    for number in range(100, 1000):
        open_and_close(number)
    assert not flooder.transport.disconnecting
    assert flooder.weight() - before < SLACK


def test_a_channel_each_for_ever(flooder: Flooder) -> None:
    """Channels that stay open end at their limit; the connection stays."""
    world: Any = flooder.world
    world.forward = lambda asked, factory: Deferred()
    for number in range(6000):
        flooder.send(
            open_of(b"direct-tcpip", number)
            + string(b"x") + uint32(1) + string(b"y") + uint32(2)
        )  # fmt: skip
        flooder.transport.read_all()
    connection = flooder.server.service
    assert len(connection.channels) + connection._opening == connection.channels_limit
    assert flooder.weight() < 4 << 20


def test_requests_behind_one_that_is_not_answered() -> None:
    """While a program is being started requests wait, up to a limit, and then it is the end."""
    world = ChannelWorld()
    world.programs.answer = lambda asked: Deferred()
    flooder = Flooder(world)
    flooder.login()
    flooder.send(open_of(b"session", 0), to_session(b"exec", string(b"true")))
    before = flooder.weight()
    flooder.flood(ANSWERED["environment"], 64 << 20)
    assert flooder.transport.disconnecting
    assert flooder.weight() - before < 1 << 20


def test_data_for_a_program_that_does_not_read(flooder: Flooder) -> None:
    """A writer stops at the window; more data close the connection."""
    before = flooder.weight()
    data = bytes((n.CHANNEL_DATA,)) + uint32(0) + string(bytes(32000))
    sent = flooder.flood(lambda i: data, 64 << 20)
    assert flooder.transport.disconnecting
    assert sent < 4 << 20
    assert flooder.weight() - before < 4 << 20


def test_exchanges_for_ever(flooder: Flooder) -> None:
    """Key exchanges without data between them are done as fast as they may be, and leave nothing:
    meanwhile the peer is not read from.
    """
    before = flooder.weight()
    for _ in range(REKEY_BURST):
        flooder.exchange()
    for _ in range(200):
        flooder.send(flooder.kexinit().payload)
    assert flooder.server._paused
    flooder.flood(lambda i: bytes((n.PING,)) + string(bytes(32000)), 64 << 20)
    assert flooder.weight() - before < 4 << 20
    assert not flooder.transport.disconnecting


def test_messages_while_keys_are_awaited() -> None:
    """A client that sends requests and never answers our KEXINIT is cut off before much waits."""
    world = ChannelWorld(limits=Limits(rekey_octets=1 << 16, waiting_octets=1 << 20))
    flooder = Flooder(world)
    flooder.login()
    before = flooder.weight()
    flooder.flood(ANSWERED["pings"], 64 << 20)
    assert flooder.transport.disconnecting
    assert flooder.weight() - before < 8 << 20


# -- unauthenticated clients --------------------------------------------------------------------
def test_slow_version_lines() -> None:
    """A connection that sends a byte at a time, or nothing, costs a few kilobytes."""
    world = World(limits=Limits(startups=(100, 30, 200), startups_per_source=100))
    for client in [Flooder(world) for _ in range(100)]:
        for byte in b"SSH-2.0-slow":
            client.raw(bytes((byte,)))
        assert client.weight() < 32 * 1024
        assert len(client.server.incoming.kept) == 12


@pytest.mark.parametrize("size", [35000 - 4, 1000])
def test_half_packets(size: int) -> None:
    """Half a packet is kept, and no more of it than the limit before authentication."""
    client = Flooder(World())
    client.greet()
    size -= (size + 4) % 8
    packet = size.to_bytes(4, "big") + b"\4\x14" + bytes(size)
    for at in range(0, size, 100):
        client.raw(packet[at : min(at + 100, size)])
    assert not client.transport.disconnecting
    assert len(client.server.incoming.kept) <= size
    assert client.weight() < 32 * 1024 + size


def test_a_huge_kexinit() -> None:
    """A KEXINIT as large as can be is read and thrown away, or kept once for the hash."""
    client = Flooder(World())
    client.greet()
    names = b",".join(b"curve25519-sha256@x%d" % i for i in range(200))
    lists = string(names) * 2 + string(b"aes128-gcm@openssh.com") * 2 + string(b"none") * 4
    filler = b"x" * 14000
    kexinit = bytes((n.KEXINIT,)) + bytes(16) + lists + string(filler) * 2 + bytes(5)
    client.send(kexinit)
    assert client.weight() < 200 * 1024
    many = Flooder(World())
    many.greet()
    many.send(bytes((n.KEXINIT,)) + bytes(16) + string(b"," * 15000) * 2 + bytes(40))
    assert many.transport.disconnecting


@pytest.mark.parametrize("kind", ["large pings", "pings"])
def test_unauthenticated_clients_that_do_not_read(kind: str) -> None:
    """Before login, too, answers that are not read are bounded, and so is their number."""
    client = Flooder(World())
    client.ready_to_login()
    client.flood(ANSWERED[kind], 64 << 20)
    assert len(client.transport.value()) < PRODUCER_LIMIT + 3 * 35000 + SEGMENT


def test_many_unauthenticated_clients() -> None:
    """Nothing is left of a thousand connections that were closed."""
    world = World()

    def come_and_go() -> None:
        client = Flooder(world)
        client.ready_to_login()
        client.send(request(b"root", b"none"))
        client.server.connectionLost()
        world.clock.advance(1000)

    for _ in range(10):
        come_and_go()
    before = weigh(world.factory)
    for _ in range(200):
        come_and_go()
    assert weigh(world.factory) - before < SLACK
    assert len(world.factory.admission.penalties) <= 1
