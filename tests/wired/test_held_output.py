"""Output that waits until it may reach the client, as in a session that is recorded in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred

from channel_ends import ChannelWorld, no_descriptor_lost, output
from tele.conch.connection.held_pump import HELD_LIMIT
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.errors import Unavailable

__all__ = ["no_descriptor_lost"]

MIB = 1 << 20


@define
class Holding:
    """A tap that holds what it has seen. ``seen`` are the bytes so far at each hold."""

    holds: bool = True
    paused: bool = False
    drops_input: bool = False
    wants_typed: bool = False
    seen: int = 0
    waiting: list[tuple[int, Deferred[None]]] = field(factory=list)
    notices: list[Callable[[str], object]] = field(factory=list)
    exits: list[Exit] = field(factory=list)
    open: bool = False

    def output(self, *views: memoryview) -> None:
        self.seen += sum(map(len, views))

    error = input = output

    def resized(self, columns: int, rows: int) -> None:
        """Nothing is held of it."""

    def exited(self, exit: Exit) -> None:  # noqa: A002 - the name in ITap
        self.exits.append(exit)

    def when_resumed(self, callback: Any) -> None:
        """It is never behind."""

    def hold(self) -> Deferred[None] | None:
        if self.open:
            return None
        self.waiting.append((self.seen, Deferred()))
        return self.waiting[-1][1]

    def on_notice(self, callback: Callable[[str], object]) -> Callable[[], None]:
        self.notices.append(callback)
        return lambda: self.notices.remove(callback)

    def allow(self, count: int = 1) -> None:
        """Allow what was held first."""
        for _ in range(count):
            self.waiting.pop(0)[1].callback(None)

    def allow_all(self) -> None:
        """Allow everything from now on."""
        self.open = True
        self.allow(len(self.waiting))


@pytest.fixture
def tap(world: ChannelWorld) -> Holding:
    """What holds the output of all programs."""
    made = world.programs.tap = Holding()
    return made


@pytest.fixture
def world() -> ChannelWorld:
    """A server and clients."""
    return ChannelWorld()


def test_nothing_reaches_the_client_before_it_may(world: ChannelWorld, tap: Holding) -> None:
    """Output and errors wait, each for what was observed up to it, and leave in order."""
    ends = world.link()
    channel, program = ends.run()
    program.write_output(b"one")
    ends.settle()
    program.write_output(b"two")
    ends.settle()
    program.write_error(b"oops")
    ends.settle()
    assert (output(channel), output(channel, 1)) == (b"", b"")
    assert [seen for seen, _ in tap.waiting] == [3, 6, 10]
    tap.allow()
    ends.settle()
    assert (output(channel), output(channel, 1)) == (b"one", b"")
    tap.allow(2)
    ends.settle()
    assert (output(channel), output(channel, 1)) == (b"onetwo", b"oops")
    tap.open = True
    program.finish()
    ends.settle()
    ends.client_link.close()


def test_the_exit_follows_what_is_held(world: ChannelWorld, tap: Holding) -> None:
    """It is told after the last output, and after the recording of the end has arrived, too."""
    ends = world.link()
    channel, program = ends.run()
    program.write_output(b"last words")
    program.finish(Exit(7))
    ends.settle()
    assert not channel.ended.called
    assert tap.exits == []
    tap.allow()
    ends.settle()
    assert output(channel) == b"last words"
    assert tap.exits == [Exit(7)]
    assert not channel.ended.called
    tap.allow()
    ends.settle()
    assert channel.ended.result == Exit(7)
    ends.client_link.close()


def test_what_is_held_is_bounded(world: ChannelWorld, tap: Holding) -> None:
    """A program that writes much is not read while too much waits; all of it arrives, in order."""
    ends = world.link()
    channel, program = ends.run()
    data = b"".join(number.to_bytes(4, "big") for number in range(MIB // 2))
    written = 0
    for _ in range(100):
        written += program.write_output(data[written : written + 65536])
        ends.settle()
    assert tap.seen <= HELD_LIMIT
    assert output(channel) == b""
    assert written < len(data)
    while written < len(data) or tap.waiting:
        tap.allow(min(1, len(tap.waiting)))
        written += program.write_output(data[written : written + 65536])
        ends.settle()
    assert output(channel) == data
    tap.open = True
    program.finish()
    ends.settle()
    ends.client_link.close()


def test_what_must_not_leave_is_dropped(world: ChannelWorld, tap: Holding) -> None:
    """The session ends elsewhere; nothing of it reaches the client after that."""
    ends = world.link()
    channel, program = ends.run()
    program.write_output(b"secret")
    ends.settle()
    tap.waiting.pop()[1].errback(Unavailable("auth is away"))
    with pytest.raises(BrokenPipeError):
        program.write_output(b"more")
    ends.settle()
    assert output(channel) == b""
    ends.client_link.close()
    program.finish()


def test_a_client_that_leaves_in_between(world: ChannelWorld, tap: Holding) -> None:
    """What is held is dropped with it, and what held it is told."""
    ends = world.link()
    _, program = ends.run()
    program.write_output(b"one")
    ends.settle()
    assert [wait.called for _, wait in tap.waiting] == [False]
    ends.client_link.close()
    assert [wait.called for _, wait in tap.waiting] == [True]
    program.finish()
    assert len(tap.exits) == 1


def test_messages_for_a_terminal(world: ChannelWorld, tap: Holding) -> None:
    """They are shown at once, beside what is held, as long as the session lasts."""
    ends = world.link()
    request = ProgramRequest("exec", b"x", {}, PtyRequest("xterm", 80, 24))
    channel, program = ends.run(request)
    program.write_output(b"held")
    ends.settle()
    (notice,) = tap.notices
    notice("recording: waiting for auth")
    ends.settle()
    assert b"recording: waiting for auth" in output(channel)
    assert b"held" not in output(channel)
    tap.allow_all()
    program.finish()
    ends.settle()
    ends.client_link.close()
    assert tap.notices == []
