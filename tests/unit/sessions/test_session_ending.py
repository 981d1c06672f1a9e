"""What ends when a user's access does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from session_world import context
from tele.conch.session.programs import Exit
from tele.errors import AccessDenied
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.sessions.ending import IExpellable, SessionEnding
from tele.spawner.control_groups import EXPELLED_GRACE

LOCKED = Denied(Reason.LOCKED, "locked: call security")


@implementer(IExpellable)
class FakeProgram:
    """A program that notes what it is told."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    tap: Any = None

    def __init__(self) -> None:
        self.told: list[str] = []
        self.exited: Deferred[Exit] = Deferred()

    def expel(self) -> None:
        self.told.append("expel")

    def kill(self) -> None:
        self.told.append("kill")

    def signal(self, name: str) -> bool:
        return False

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """Nothing."""

    def hang_up(self) -> None:
        """Nothing."""


class FakeConnection:
    """A connection whose transport notes its last message."""

    def __init__(self) -> None:
        self.transport = self
        self.messages: list[str] = []

    def evict(self, message: str) -> None:
        self.messages.append(message)


def test_what_runs_is_told_and_then_killed() -> None:
    """Programs are told at once, and the client why; who ignores it is killed after the grace
    period, and who has ended by then is left alone.
    """
    clock, connection = Clock(), FakeConnection()
    ending = SessionEnding(clock, context().grant)
    obedient, stubborn, over = FakeProgram(), FakeProgram(), FakeProgram()
    for program in (obedient, stubborn, over):
        ending.follow(program)
    over.exited.callback(Exit(0))
    ending.expel(LOCKED, connection)
    assert connection.messages == ["locked: call security"]
    obedient.exited.callback(Exit(None, "HUP"))
    clock.advance(EXPELLED_GRACE)
    assert [each.told for each in (obedient, stubborn, over)] == [["expel"], ["expel", "kill"], []]
    assert clock.getDelayedCalls() == []


def test_nothing_begins_after_access_has_ended() -> None:
    """Not before there is a connection, either; what was being started ends at once (attack)."""
    ending = SessionEnding(Clock(), context().grant)
    ending.check()
    ending.expel(LOCKED, None)
    with pytest.raises(AccessDenied, match="call security") as denied:
        ending.check()
    assert denied.value.reason == Reason.LOCKED.value
    late = FakeProgram()
    ending.follow(late)
    assert late.told == ["expel"]


def test_nothing_begins_after_the_certificate_has_expired() -> None:
    """What runs goes on."""
    clock = Clock()
    ending = SessionEnding(clock, context(expires=now(clock) + timedelta(hours=1)).grant)
    program = FakeProgram()
    ending.follow(program)
    clock.advance(3599)
    ending.check()
    clock.advance(1)
    with pytest.raises(AccessDenied, match="log in again") as denied:
        ending.check()
    assert denied.value.reason == Reason.EXPIRED.value
    assert program.told == []


def test_what_cannot_be_expelled_is_not_kept() -> None:
    """A protocol in place of a program ends with its channel."""
    ending = SessionEnding(Clock(), context().grant)
    protocol: Any = object()
    ending.follow(protocol)
    ending.expel(LOCKED, None)


@pytest.mark.parametrize("reason", [Reason.IDLE, Reason.EXPIRED])
def test_a_time_limit_ends_the_connection_and_nothing_that_is_detached(reason: Reason) -> None:
    """Programs are hung up by the end of their channels, as when the client disconnects; also one
    that was being started. Nothing new begins.
    """
    clock, connection = Clock(), FakeConnection()
    ending = SessionEnding(clock, context().grant)
    running, late = FakeProgram(), FakeProgram()
    ending.follow(running)
    ending.expel(Denied(reason, "idle for 5 min"), connection)
    ending.follow(late)
    assert connection.messages == ["idle for 5 min"]
    assert (running.told, late.told, clock.getDelayedCalls()) == ([], [], [])
    with pytest.raises(AccessDenied, match="idle for 5 min"):
        ending.check()


def test_a_program_that_is_not_permitted_any_more_ends_alone() -> None:
    """It is killed if it ignores that; the connection and other programs go on."""
    clock, connection = Clock(), FakeConnection()
    ending = SessionEnding(clock, context().grant)
    forbidden, other, over = FakeProgram(), FakeProgram(), FakeProgram()
    for program in (forbidden, other, over):
        ending.follow(program)
    over.exited.callback(Exit(0))
    for program in (forbidden, over):
        ending.end(program)
    clock.advance(EXPELLED_GRACE)
    told = [each.told for each in (forbidden, other, over)]
    assert told == [["expel", "kill"], [], []]
    assert connection.messages == []
    ending.check()
