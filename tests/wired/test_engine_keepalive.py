"""Peers that fall silent are noticed, by either end, and those that live are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.conch.ssh.connection import SSHConnection as ConchConnection
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from ssh_attacker import Attacker
from tele.admission.limits import Limits
from tele.conch.client.transport import LoginTransport
from tele.conch.connection.connection import SSHConnection
from tele.conch.transport import keepalive
from tele.conch.transport.keepalive import CHECKS, REQUEST
from tele.log import event_text
from tele.testing.ssh import Ends, World
from tele.wire import numbers as n
from tele.wire.fields import boolean, string

INTERVAL, MISSES = Limits().keepalive_interval, Limits().keepalive_misses
#: A peer is disconnected after this much silence, and a check or two more.
GONE = INTERVAL * (MISSES + 1)
SLACK = 2 * INTERVAL / CHECKS + 2
ASKED = bytes((n.GLOBAL_REQUEST,)) + string(REQUEST) + b"\xff"  # as Conch writes true


class Counted(SSHConnection):
    """A connection that counts questions of the peer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        self.asked += requestType == REQUEST
        return super().gotGlobalRequest(requestType, data)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that is logged."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(event_text(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def world_of(connection: Any = Counted, **limits: Any) -> World:
    world = World(limits=Limits(**limits))
    world.factory.connection = connection
    return world


def joined(world: World) -> Ends:
    client = LoginTransport(world.clock, world.verifier(), world.identity(), Counted, world.limits)
    ends = world.connect(client)
    assert client.isAuthenticated
    return ends


def pass_time(world: World, seconds: float, ends: Ends | None = None) -> None:
    """Let time pass in steps; bytes arrive at once if ``ends`` are given, else never."""
    for _ in range(int(seconds * 2)):
        world.clock.advance(0.5)
        if ends is not None:
            ends.settle()


def lose(end: Any) -> None:
    """What the transport of an aborted connection calls."""
    end.connectionLost(None)


@pytest.mark.parametrize("connection", [Counted, ConchConnection])
def test_idle_peers_live(connection: Any) -> None:
    """Two silent ends send keepalives now and then, and stay connected for hours; so does Conch's
    own connection service.
    """
    world = world_of(connection)
    ends = joined(world)
    pass_time(world, 3 * 3600, ends)
    assert not ends.client.closing
    assert not ends.server.closing
    # A keepalive shows life itself: the end that sends first keeps the other quiet.
    asked = ends.client.service.asked + getattr(ends.server.service, "asked", 0)
    assert 3 * 3600 / (INTERVAL + SLACK) <= asked <= 2 * 3 * 3600 / INTERVAL
    assert not ends.server.service.deferreds["global"]
    assert not ends.client.service.deferreds["global"]


def test_users_may_be_silent_for_days() -> None:
    """A client that is stopped, or whose laptop sleeps, gets no keepalives, and stays connected; a
    connection of a host at the same server is closed.
    """
    world = world_of()
    user, host = joined(world), joined(world)
    user.server.avatar.keepalive_interval = 0.0
    user.server.watch_peer()
    pass_time(world, 48 * 3600)
    assert not user.server.closing
    assert not user.server.service.deferreds["global"], "nothing was asked"
    assert host.server.closing


def test_the_keepalive_option_of_a_role_holds_at_once() -> None:
    """An interval set during a connection is counted from then on."""
    world = world_of()
    ends = joined(world)
    ends.server.avatar.keepalive_interval = 0.0
    ends.server.watch_peer()
    pass_time(world, 3600)
    ends.server.avatar.keepalive_interval = INTERVAL
    ends.server.watch_peer()
    pass_time(world, GONE - INTERVAL / CHECKS)
    assert not ends.server.closing
    pass_time(world, SLACK + INTERVAL / CHECKS)
    assert ends.server.closing
    lose(ends.server)
    ends.server.watch_peer()
    assert ends.server._keepalive is None, "a closed connection is not watched"


@pytest.mark.parametrize("who", ["server", "client"])
def test_a_silent_peer_is_disconnected(who: str) -> None:
    """After three questions in vain an end hangs up, services stop, the avatar logs out; not
    sooner.
    """
    world = world_of()
    ends = joined(world)
    end = getattr(ends, who)
    channels_ended: list[str] = []
    service = end.service
    service.serviceStopped = lambda: channels_ended.append(who)
    pass_time(world, GONE - INTERVAL / CHECKS)
    assert not end.closing
    pass_time(world, SLACK + INTERVAL / CHECKS)
    assert end.closing
    assert end.transport.disconnecting or end.transport.disconnected
    lose(end)
    assert channels_ended == [who]
    if who == "server":
        assert world.realm.calls == [("login", "root"), ("logout", "root")]


def test_a_peer_that_does_not_read_is_disconnected() -> None:
    """A peer whose socket takes nothing more is dead as any other: keepalives wait for the socket,
    three and no more.
    """
    world = world_of()
    ends = joined(world)
    server = ends.server
    server.outgoing.link.pauseProducing()
    pass_time(world, GONE + SLACK)
    assert server.closing
    assert len(server.service.deferreds["global"]) == MISSES


def test_a_peer_that_stalls_a_key_exchange_is_disconnected() -> None:
    """Keepalives wait for new keys; a peer that never sends its part is disconnected, too."""
    world = world_of()
    ends = joined(world)
    ends.server.sendKexInit()
    pass_time(world, GONE + SLACK)
    assert ends.server.closing


@pytest.mark.parametrize(
    "sign",
    [
        bytes((n.IGNORE,)) + string(b""),
        bytes((n.PING,)) + string(b""),
        bytes((n.GLOBAL_REQUEST,)) + string(b"whatever@example.org") + boolean(False),
    ],
)
def test_anything_is_a_sign_of_life(sign: bytes) -> None:
    """A peer that answers nothing but sends other messages stays, and gets no requests."""
    attacker = Attacker(world_of())
    attacker.login()
    attacker.receive()
    for _ in range(40):
        pass_time(attacker.world, INTERVAL - 1)
        attacker.send(sign)
    assert not attacker.disconnected
    assert ASKED not in attacker.receive()


@pytest.mark.parametrize("answer", [n.REQUEST_SUCCESS, n.REQUEST_FAILURE])
def test_any_answer_will_do(answer: int) -> None:
    """A success is a reply as well as a failure."""
    attacker = Attacker(world_of())
    attacker.login()
    answered = 0
    for _ in range(int(10 * GONE)):
        pass_time(attacker.world, 1)
        for message in attacker.receive():
            if message == ASKED:
                answered += 1
                attacker.send(bytes((answer,)))
    assert not attacker.disconnected
    assert answered >= 10


def test_replies_without_a_request() -> None:
    """An answer ahead of a question is a protocol error, not a store of lives."""
    attacker = Attacker(world_of())
    attacker.login()
    attacker.send(bytes((n.REQUEST_FAILURE,)))
    assert attacker.disconnected


def test_all_connections_share_a_timer() -> None:
    """A hundred connections have the timers of one, and the last one takes them with it."""
    world = world_of()
    before = len(world.clock.getDelayedCalls())
    many = [joined(world) for _ in range(100)]
    assert len(world.clock.getDelayedCalls()) == before + 1
    for ends in many:
        lose(ends.client)
        lose(ends.server)
    assert len(world.clock.getDelayedCalls()) == before
    assert not [key for key in keepalive._shared if key[0] is world.clock]


def test_none_where_none_is_wanted() -> None:
    """With an interval of 0 no keepalive is sent, and silence ends no connection."""
    world = world_of(keepalive_interval=0.0)
    ends = joined(world)
    pass_time(world, 100 * INTERVAL)
    assert not ends.server.closing
    assert not world.clock.getDelayedCalls()


def test_the_reason_is_logged(logged: list[str]) -> None:
    """The log names the dead peer, and the time."""
    world = world_of()
    joined(world)
    pass_time(world, GONE + SLACK)
    line = "connection closed: keepalive requests not answered peer=192.0.2.1:1 seconds=60"
    assert line in logged
