"""Which events and frames a file leaves that a client transfers."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from session_world import FakeAudit, context
from sync_recorder import SyncRecorder
from tele.loop import now
from tele.model.frame import FrameKind
from tele.model.session import Launched
from tele.recording.tee import ConnectionTape
from tele.sessions.tape import make_tape
from tele.sessions.transfer_record import (
    EVENTS_BURST,
    GATHER_SECONDS,
    GATHERED,
    TransferRecords,
)
from tele.testing import MemoryRecorder

FILE_SERVER = Launched("subsystem", b"sftp", files=True)


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


INIT, VERSION = string(b"\1\0\0\0\3"), string(b"\2\0\0\0\3")
REMOVE = string(b"\x0d" + bytes(4) + string(b"/x"))
DENIED = string(b"\x65" + bytes(4) + struct.pack(">I", 3))


class World:
    """A connection with a recording, or without one."""

    def __init__(self, *, recorded: bool = True, strict: bool = True, sync: bool = False) -> None:
        self.clock = Clock()
        self.audit = FakeAudit()
        self.recorder: Any = SyncRecorder() if sync else MemoryRecorder()
        self.context = context()
        self.tape: ConnectionTape | None = None
        if recorded:
            self.tape = ConnectionTape(
                self.recorder,
                make_start(self.clock, self.context),
                lambda: 0,
                strict=strict,
                sync=sync,
                clock=self.clock,
            )
            Deferred.fromCoroutine(self.tape.ready())
            self.tape.on_loss(lambda name, why: self.audit.emit("lost", self.context, why=why))
        audit: Any = self.audit
        self.records = TransferRecords(self.clock, self.context, audit, self.tape)

    def frames(self, kind: FrameKind) -> list[dict[str, Any]]:
        return [json.loads(f.data) for f in self.recorder.frames if f.kind is kind]


def make_start(clock: Clock, of: Any) -> Any:
    """Return the start of a recording."""
    host: Any = SimpleNamespace(cluster="c", name="web1", host_id="host-1")
    return make_tape(clock, MemoryRecorder(), of, host).start


def test_an_event_says_what_the_frame_says() -> None:
    """And the error as an event has it; the channel tells channels apart."""
    world = World()
    observer = world.records.observe(FILE_SERVER, 3)
    observer.input(memoryview(INIT))
    observer.output(memoryview(VERSION))
    observer.input(memoryview(REMOVE))
    observer.output(memoryview(DENIED))
    (frame,) = world.frames(FrameKind.TRANSFER)
    assert frame == {
        "protocol": "sftp", "op": "remove", "path": "/x", "result": "permission denied",
    }  # fmt: skip
    world.records.flush()
    assert world.audit.events == [
        ("sftp", {**frame, "channel": 3, "error": "permission denied"}),
    ]


def test_an_open_file_is_recorded_if_output_waits_for_it() -> None:
    """In a mode where output waits for auth, it has the name before the client gets content."""
    opening = string(b"\3" + bytes(4) + string(b"/x") + struct.pack(">II", 1, 0))
    handle = string(b"\x66" + bytes(4) + string(b"h"))
    for sync in (True, False):
        world = World(sync=sync)
        observer = world.records.observe(FILE_SERVER, 1)
        for view in (INIT, opening):
            observer.input(memoryview(view))
        for view in (VERSION, handle):
            observer.output(memoryview(view))
        told = world.frames(FrameKind.TRANSFER)
        assert [(each["op"], each["path"]) for each in told] == ([("open", "/x")] if sync else [])
        assert world.audit.events == []


def test_events_are_limited_and_frames_are_not() -> None:
    """A client that removes a million files does not fill the audit; the next event counts those
    that were left out (attack).
    """
    world = World()
    observer = world.records.observe(FILE_SERVER, 1)
    observer.input(memoryview(INIT))
    observer.output(memoryview(VERSION))
    count = int(EVENTS_BURST) + 10
    for _ in range(count):
        observer.input(memoryview(REMOVE))
        observer.output(memoryview(DENIED))
    world.clock.advance(GATHER_SECONDS)
    assert len(world.audit.events) == EVENTS_BURST
    assert len(world.frames(FrameKind.TRANSFER)) == count
    world.clock.advance(1)
    observer.input(memoryview(REMOVE))
    observer.output(memoryview(DENIED))
    world.records.flush()
    assert world.audit.events[-1][1]["others_not_listed"] == 10


def removes(world: World, count: int) -> None:
    """Let the client remove files."""
    observer = world.records.observe(FILE_SERVER, 1)
    observer.input(memoryview(INIT))
    observer.output(memoryview(VERSION))
    for _ in range(count):
        observer.input(memoryview(REMOVE))
        observer.output(memoryview(DENIED))


def test_events_of_files_are_made_together_with_their_own_times() -> None:
    """Soon, though nothing more passes, and each says when it happened."""
    world = World()
    began = now(world.clock)
    removes(world, 2)
    assert not world.audit.events
    assert len(world.frames(FrameKind.TRANSFER)) == 2
    world.clock.advance(GATHER_SECONDS)
    assert len(world.audit.events) == 2
    assert world.audit.times == [began, began]
    assert not world.clock.getDelayedCalls()


def test_few_operations_wait_in_memory_for_their_events() -> None:
    """A client cannot have many wait that a killed node would lose (attack)."""
    world = World()
    removes(world, GATHERED + 1)
    assert len(world.audit.events) == GATHERED
    world.records.flush()
    assert len(world.audit.events) == GATHERED + 1
    assert not world.clock.getDelayedCalls()


def test_events_of_files_come_before_what_cannot_be_read() -> None:
    """The audit is in the order in which it happened."""
    world = World(recorded=False)
    observer = world.records.observe(FILE_SERVER, 1)
    for view in (INIT, REMOVE):
        observer.input(memoryview(view))
    for view in (VERSION, DENIED, bytes(8)):
        observer.output(memoryview(view))
    assert [name for name, _ in world.audit.events] == ["sftp", "recording.gap"]


def test_what_cannot_be_read_is_a_gap() -> None:
    """On the recording, and an event, with or without a recording; the session goes on."""
    world = World(strict=False)
    world.records.observe(FILE_SERVER, 1).input(memoryview(b"GET / HTTP/1.0"))
    (gap,) = world.frames(FrameKind.GAP)
    assert gap["lost"] == {}
    assert world.tape is not None
    assert not world.tape.ended_because
    assert world.audit.events == [("lost", {"why": gap["reason"]})]
    world = World(recorded=False)
    world.records.observe(FILE_SERVER, 1).input(memoryview(b"GET / HTTP/1.0"))
    assert world.audit.events == [("recording.gap", {"why": gap["reason"]})]


def test_what_cannot_be_read_ends_a_session_that_has_to_be_recorded() -> None:
    """A role says so: nothing goes on that is not recorded (attack)."""
    world = World(strict=True)
    world.records.observe(FILE_SERVER, 1).input(memoryview(b"GET / HTTP/1.0"))
    assert world.tape is not None
    assert "file transfers are not listed" in world.tape.ended_because
