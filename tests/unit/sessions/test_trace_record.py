"""Which events and frames it leaves what a traced program does."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from session_world import FakeAudit, context
from tele.model.access import RecordingPlan
from tele.model.frame import FrameKind
from tele.model.trace import Traced, TraceEvent, TraceKind, TraceLost
from tele.recording.tee import ConnectionTape
from tele.sessions.trace_record import (
    ELEMENTS_LIMIT,
    EVENTS_BURST,
    LIMITERS_LIMIT,
    WAITING_LIMIT,
    TraceRecords,
)
from tele.testing import MemoryRecorder
from test_transfer_record import make_start

SECOND = 1_000_000_000


def record(number: int = 1, event: TraceEvent = TraceEvent.COMMAND, **fields: Any) -> Traced:
    """Return a record of a program that executed another one."""
    given = {"time": 5 * SECOND, "action": "exec", "details": {"argv": ["ls", "-l"]}, **fields}
    return Traced(event=event, number=number, pid=7, parent=6, uid=1000, program="sh", **given)


class World:
    """A connection that is traced, with a recording or without one."""

    def __init__(self, *, recorded: bool = True, strict: bool = False) -> None:
        self.clock = Clock()
        self.clock.advance(7)
        self.audit = FakeAudit()
        self.recorder = MemoryRecorder()
        plan = RecordingPlan(strict=strict, trace=(TraceKind.COMMAND,))
        self.context = context(recording=plan)
        self.ended: list[str] = []
        self.tape: ConnectionTape | None = None
        if recorded:
            self.tape = ConnectionTape(
                self.recorder,
                make_start(self.clock, self.context),
                lambda: int(self.clock.seconds()) * SECOND - 4 * SECOND,
                strict=strict,
                clock=self.clock,
            )
            Deferred.fromCoroutine(self.tape.ready())
            self.tape.on_loss(lambda name, why: self.audit.emit("lost", self.context, why=why))
            self.tape.on_end(self.ended.append)
        audit: Any = self.audit
        self.forbidden: list[str] = []
        ending = self.ended.append, self.forbidden.append
        self.records = TraceRecords(self.clock, self.context, audit, self.tape, *ending)

    def frames(self, kind: FrameKind) -> list[dict[str, Any]]:
        """Return what frames of a kind say, with their channel."""
        return [
            {**json.loads(each.data), "channel": each.channel}
            for each in self.recorder.frames
            if each.kind is kind
        ]


def test_a_record_is_a_frame_and_an_event() -> None:
    """The frame has its time within the recording, the event the date; both have the channel."""
    world = World()
    world.records.take(2, record())
    (frame,) = world.frames(FrameKind.COMMAND)
    said = {
        "action": "exec", "number": 1, "pid": 7, "parent": 6, "uid": 1000, "program": "sh",
        "result": 0, "argv": ["ls", "-l"], "channel": 2,
    }  # fmt: skip
    assert frame == {**said, "at": 1 * SECOND}  # two seconds before now, which is the third
    assert world.audit.events == [
        ("session.command", {**said, "happened": "1970-01-01T00:00:05.000Z"})
    ]


def test_each_kind_has_an_event_and_a_frame_of_its_own() -> None:
    """None is left out of one of them."""
    world = World()
    for event in TraceEvent:
        world.records.take(1, record(event=event))
    names = [name for name, _ in world.audit.events]
    assert names == [f"session.{event.value}" for event in TraceEvent]
    kinds = ("COMMAND", "DISK", "NETWORK", "SYSCALLS", "HANDOVER")
    assert all(len(world.frames(FrameKind[kind])) == 1 for kind in kinds)


def test_events_are_limited_in_rate_and_frames_are_not() -> None:
    """Opening files without end fills no audit, and hides no command: each kind has its limit."""
    world = World()
    for number in range(int(EVENTS_BURST) + 50):
        world.records.take(1, record(number, TraceEvent.DISK))
    world.records.take(1, record(9999))
    assert len(world.frames(FrameKind.DISK)) == EVENTS_BURST + 50
    names = [name for name, _ in world.audit.events]
    assert (names.count("session.disk"), names.count("session.command")) == (EVENTS_BURST, 1)
    world.clock.advance(1)
    world.records.take(1, record(10_000, TraceEvent.DISK))
    assert world.audit.events[-1][1]["others_not_listed"] == 50


def test_long_arguments_are_cut_in_the_audit_only() -> None:
    """The recording has all of them."""
    world = World()
    words = ["x" * 5000, *map(str, range(500))]
    world.records.take(1, record(details={"argv": words}))
    assert world.frames(FrameKind.COMMAND)[0]["argv"] == words
    shown = world.audit.events[0][1]["argv"]
    assert len(shown) == ELEMENTS_LIMIT + 1
    assert len(shown[0]) < 1000
    assert shown[-1] == f"... ({len(words) - ELEMENTS_LIMIT} more)"


def test_a_loss_is_a_gap_and_an_event() -> None:
    """With the numbers of what is lost; the session goes on."""
    world = World()
    world.records.take(1, TraceLost(1041, 1050))
    (gap,) = world.frames(FrameKind.GAP)
    assert gap["reason"] == "records 1041 to 1050 were lost"
    assert world.audit.events == [("lost", {"why": "records 1041 to 1050 were lost"})]
    assert not world.ended


def test_a_loss_ends_a_strict_session() -> None:
    """With its reason, with a recording and without one on this host."""
    for recorded in (True, False):
        world = World(recorded=recorded, strict=True)
        world.records.take(1, TraceLost(3, 0))
        (why,) = world.ended
        assert "records from 3 on are lost: the tracer failed" in why


def test_a_recorder_that_is_behind_is_waited_for() -> None:
    """Records keep their order; those that have no place are a gap, with their numbers."""
    world = World()
    (recording,) = world.recorder.recordings
    recording.paused = True
    for number in range(1, WAITING_LIMIT + 4):
        world.records.take(1, record(number))
    assert not world.frames(FrameKind.COMMAND)
    recording.resume()
    numbers = [frame["number"] for frame in world.frames(FrameKind.COMMAND)]
    assert numbers == list(range(1, WAITING_LIMIT + 1))
    (gap,) = world.frames(FrameKind.GAP)
    first, last = WAITING_LIMIT + 1, WAITING_LIMIT + 3
    assert gap["reason"] == f"records {first} to {last} were lost: the recorder is behind"


def test_what_was_seen_before_a_loss_comes_before_it() -> None:
    """Also where the recorder is behind."""
    world = World()
    (recording,) = world.recorder.recordings
    recording.paused = True
    world.records.take(1, record(1))
    world.records.take(1, TraceLost(2, 2))
    kinds = [each.kind for each in world.recorder.frames]
    assert kinds.index(FrameKind.COMMAND) < kinds.index(FrameKind.GAP)


def test_each_way_of_a_handover_has_a_limit_of_its_own() -> None:
    """One that is made without end hides no other from the audit (attack)."""
    world = World()
    for number in range(int(EVENTS_BURST) + 50):
        world.records.take(1, record(number, TraceEvent.HANDOVER, action="io_uring"))
    world.records.take(1, record(9999, TraceEvent.HANDOVER, action="cron"))
    assert world.audit.events[-1][1]["action"] == "cron"
    for number in range(LIMITERS_LIMIT + 50):
        world.records.take(1, record(number, TraceEvent.HANDOVER, action=f"way_{number}"))
    assert len(world.frames(FrameKind.HANDOVER)) == EVENTS_BURST + 101 + LIMITERS_LIMIT


def test_a_handover_that_a_role_forbids_ends_the_session() -> None:
    """Once, with what it was; it is on the recording and in the audit before."""
    world = World()
    world.context.grant = evolve(
        world.context.grant, recording=RecordingPlan(trace=(TraceKind.DISK,), no_handovers=True)
    )
    world.records.take(1, record())
    assert world.forbidden == []
    for _ in range(2):
        details = {"path": "/etc/crontab"}
        world.records.take(1, record(2, TraceEvent.HANDOVER, action="cron", details=details))
    (said,) = world.forbidden
    assert said.endswith("a role forbids hand-overs (handovers: deny): cron /etc/crontab")
    assert len(world.frames(FrameKind.HANDOVER)) == 2
    assert world.audit.events[-1][0] == "session.handover"


def test_repeated_opens_are_counted_where_a_role_asks() -> None:
    """A loss comes after what was counted before it."""
    world = World()
    world.context.grant = evolve(
        world.context.grant, recording=RecordingPlan(trace=(TraceKind.DISK,), count_opens=True)
    )
    for number in range(1, 6):
        opened = record(number, TraceEvent.DISK, action="open", details={"path": "/x"})
        world.records.take(1, opened)
    world.records.take(1, TraceLost(6, 7))
    frames = world.frames(FrameKind.DISK)
    assert [(each["number"], each.get("times")) for each in frames] == [(1, None), (5, 4)]
    assert len(world.frames(FrameKind.GAP)) == 1


def test_what_the_kernel_did_not_ask_is_a_gap() -> None:
    """It has no numbers; a strict session ends."""
    for strict in (False, True):
        world = World(strict=strict)
        world.records.take(1, TraceLost(0, 0, 1))
        (gap,) = world.frames(FrameKind.GAP)
        said = "the kernel did not ask the tracer once: something may not be recorded"
        assert gap["reason"] == said
        assert len(world.ended) == strict
