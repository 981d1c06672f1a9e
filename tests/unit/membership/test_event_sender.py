"""When the events of a host go to auth."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.audit.chain import event
from tele.membership.background_spool import BackgroundSpool
from tele.membership.events import GATHER, GATHERED_PAUSE, EventSender
from tele.membership.spool import BATCH_LINES, MemorySpool
from tele.model.api.audit import EMIT_EVENTS

NOW = datetime(2026, 11, 30, tzinfo=UTC)


class Auth:
    """Takes what is sent."""

    trouble = ""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def perform(self, _: str, operation: Any, request: Any) -> None:
        if operation is EMIT_EVENTS:
            self.batches.append(len(request.events))


class World:
    """A sender that runs."""

    def __init__(self) -> None:
        self.clock, self.auth = Clock(), Auth()
        auth: Any = self.auth
        self.sender = EventSender(self.clock, auth, BackgroundSpool(self.clock, MemorySpool()))
        Deferred.fromCoroutine(self.sender.run())
        self._count = 0

    def emit(self, name: str, count: int = 1) -> None:
        for _ in range(count):
            self._count += 1
            self.sender.emit(event(name, str(self._count), NOW, "c"))

    @property
    def sent(self) -> list[int]:
        """How many events each request had."""
        return self.auth.batches


def test_the_first_file_is_told_at_once_and_the_next_ones_together() -> None:
    """A thousand small files make no thousand requests."""
    world = World()
    world.emit("sftp")
    world.clock.advance(GATHER)
    assert world.sent == [1]
    for _ in range(8):
        world.emit("sftp")
        world.clock.advance(GATHERED_PAUSE / 10)
    assert world.sent == [1]
    world.clock.pump([GATHERED_PAUSE / 10] * 3)
    assert sum(world.sent) == 9
    assert len(world.sent) == 2


def test_an_event_that_is_no_file_s_does_not_wait() -> None:
    """An auditor sees logins while others copy files, and what was before them."""
    world = World()
    world.emit("sftp")
    world.clock.advance(GATHER)
    world.emit("sftp", 3)
    world.emit("session.end")
    world.clock.advance(GATHER)
    assert world.sent == [1, 4]


def test_a_crowd_of_files_is_not_held_up() -> None:
    """While more wait than a request takes, the next one goes at once."""
    world = World()
    world.emit("sftp", 3 * BATCH_LINES + 1)
    world.clock.advance(GATHER)
    assert world.sent == [BATCH_LINES] * 3 + [1]
