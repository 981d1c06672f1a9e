"""The states of a jump session, without a network."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.errors import NotFound, Unreachable
from tele.proxy.jump_session import TRANSITIONS, JumpSession, State
from tele.wire.fields import string

SUBSYSTEM = string(b"proxy:web1:22")


class Stream:
    """A stream to a node."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = self.busy = self.closed = False
        self.attached: Any = None
        self.watch = None

    def attach(self, channel: Any) -> None:
        self.attached = channel

    def send(self, view: memoryview) -> None:
        self.received += bytes(view)

    def close(self, clock: object) -> None:
        self.closed = True

    def end_writes(self) -> None:
        self.received += b"EOF"


class World:
    """A session on a connection that records what is sent."""

    usage = "this is a proxy"

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.connecting: list[Deferred[Any]] = []
        self.cancelled = 0
        self.session = JumpSession(avatar=self, remoteWindow=1 << 20, remoteMaxPacket=1 << 15)
        conn = MagicMock()
        conn.channelsToRemoteChannel = {self.session: 1}
        conn.transport.clock = Clock()
        conn.sendRequest = lambda _, name, data: self.sent.append((name, data))
        self.session.conn = conn
        self.session.id = 0
        ended: Any = lambda *args: self.sent.append(args)  # noqa: E731
        self.session.writeExtended = ended  # type: ignore[method-assign]
        self.session.loseConnection = lambda: ended("close")  # type: ignore[method-assign]

    def find(self, target: str, port: int) -> Any:
        if target != "web1":
            raise NotFound("no such node")
        return target

    def connect(self, host: Any) -> Deferred[Any]:
        self.connecting.append(Deferred(lambda _: self._cancel()))
        return self.connecting[-1]

    def _cancel(self) -> None:
        self.cancelled += 1

    @property
    def state(self) -> State:
        return self.session._state

    def request(self, subsystem: bytes = SUBSYSTEM) -> Any:
        return self.session.request_subsystem(subsystem)


@pytest.fixture
def world() -> World:
    return World()


def test_the_table_ends_in_a_relay_or_an_error() -> None:
    """No state is a dead end but the two last ones, and each can be reached."""
    states = {before for before, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == set(State)
    assert states - {before for before, _ in TRANSITIONS} == {State.RELAYING, State.CLOSING}


def test_data_waits_for_the_relay(world: World) -> None:
    """What arrives before the reply reaches the node after it, in order, and then EOF."""
    world.request()
    world.session.data_view(memoryview(b"early "))
    world.session.replied()
    stream = Stream()
    world.connecting[0].callback(stream)
    world.session.remote_eof = True
    world.session.data_view(memoryview(b"data"))
    assert (world.state, stream.received) == (State.CONNECTED, b"")
    world.session.replied()
    assert (world.state, stream.received) == (State.RELAYING, b"early dataEOF")
    assert stream.attached is world.session


@pytest.mark.parametrize("kind", ["unknown", "malformed", "unreachable", "shell"])
def test_an_error_follows_the_reply(world: World, kind: str) -> None:
    """The request succeeds; then come the error, an exit status, and the end."""
    if kind == "shell":
        assert world.session.request_shell(b"") is True
    elif kind == "unreachable":
        world.request()
        world.connecting[0].errback(Unreachable("node web1 did not answer"))
    else:
        assert world.request(string(b"proxy:x:22" if kind == "unknown" else b"sftp")) is True
    assert (world.state, world.sent) == (State.FAILED, [])
    world.session.data_view(memoryview(b"dropped"))
    world.session.replied()
    assert world.state is State.CLOSING
    assert [each[0] for each in world.sent] == [1, b"exit-status", "close"]


def test_a_second_request_is_refused(world: World) -> None:
    """Also after an error, and whatever it asks for."""
    world.request()
    assert world.request() is False
    assert world.session.request_exec(string(b"id")) is False
    assert len(world.connecting) == 1


def test_a_session_that_closes_leaves_no_stream(world: World) -> None:
    """While it connects, the attempt is cancelled; connected, the stream is closed."""
    world.request()
    world.session.closed()
    assert world.cancelled == 1

    connected = World()
    connected.request()
    stream = Stream()
    connected.connecting[0].callback(stream)
    connected.session.closed()
    assert stream.closed

    late = World()
    late.request()
    late.session.conn.channelsToRemoteChannel.clear()
    late.connecting[0].callback(stream := Stream())
    assert stream.closed
