"""Which events a session leaves, whatever becomes of its programs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from grants import changed
from session_world import FakeAudit, context
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.errors import AccessDenied, InvalidInput, Unavailable
from tele.model.access import Denied, Reason, RecordingPlan
from tele.model.session import Launched
from tele.recording.tee import ConnectionTape
from tele.sessions.audited import AuditedSession
from tele.sessions.ending import SessionEnding
from tele.sessions.tape import make_tape
from tele.testing import MemoryRecorder

PTY = PtyRequest("xterm", 80, 24)


class World:
    """A session with programs that are launched as ``launched``, and come to ``answer``."""

    def __init__(self, tape: ConnectionTape | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.context = context(**options)
        self.audit = FakeAudit()
        self.ending = SessionEnding(self.clock, self.context.grant)
        self.launched: Launched | None = None
        self.answer: Deferred[Any] = succeed(SimpleNamespace(cgroup=0, tap=None))
        self.requests: list[ProgramRequest] = []
        audit: Any = self.audit
        self.session = AuditedSession(self.clock, self.context, self, tape, audit, self.ending)

    def env_allowed(self, name: str) -> bool:
        return name == "LANG"

    def start(self, request: ProgramRequest, channel: int, launching: Any) -> Deferred[Any]:
        self.requests.append(request)
        if self.launched is not None:
            launching(self.launched)
        return self.answer

    def run(self, request: ProgramRequest) -> Any:
        """Start a program; return what it comes to."""
        answer: list[Any] = []
        self.session.start(request, 1).addBoth(answer.append)
        return answer[0] if answer else None


def test_what_was_requested_and_what_ran() -> None:
    """An event has both, if they are not the same, and the control group of what runs."""
    world = World()
    world.answer = succeed(SimpleNamespace(cgroup=42, tap=None))
    world.run(ProgramRequest("exec", b"id"))
    world.launched = Launched("exec", b"/usr/lib/backup --all")
    world.run(ProgramRequest("subsystem", b"backup"))
    assert world.audit.events == [
        ("exec", {"kind": "exec", "command": "id", "pty": False, "channel": 1, "cgroup": 42}),
        (
            "subsystem",
            {"kind": "subsystem", "command": "backup", "pty": False, "channel": 1, "cgroup": 42,
             "runs": "/usr/lib/backup --all"},
        ),
    ]  # fmt: skip


def test_a_part_that_is_not_recorded_is_an_event() -> None:
    """A session that goes on although a recorder loses frames says which one, and why."""
    host: Any = SimpleNamespace(cluster="c", name="web1", host_id="host-1")
    tape = make_tape(Clock(), MemoryRecorder(), context(), host)
    world = World(tape)
    tape.lost("tape", "the disk was full")
    assert world.audit.events == [
        ("recording.gap", {"recorder": "tape", "why": "the disk was full"})
    ]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (Exit(3), {"status": 3}),
        (Exit(None, signal="KILL"), {"signal": "KILL"}),
        (Exit(None, message="the program was lost"),
         {"status": None, "error": "the program was lost"}),
    ],
)  # fmt: skip
def test_the_end_of_a_program_is_an_event(how: Exit, told: dict[str, Any]) -> None:
    """With its status or signal, the bytes of each stream and its time, recorded or not."""
    world = World()
    program = world.run(ProgramRequest("exec", b"id"))
    program.tap.input(memoryview(b"1"))
    program.tap.output(memoryview(b"22"))
    program.tap.error(memoryview(b"333"))
    world.clock.advance(1.5)
    program.tap.exited(how)
    what = {"kind": "exec", "command": "id", "pty": False, "channel": 1}
    counts = {"bytes_in": 1, "bytes_out": 2, "bytes_err": 3, "seconds": 1.5}
    assert world.audit.events[1:] == [("exec.end", {**what, **told, **counts})]


def test_a_forced_command_is_in_the_event() -> None:
    """Beside the requested one, and instead of what is launched."""
    world = World(force_command="true")
    world.launched = Launched("exec", b"true", forced="true")
    world.run(ProgramRequest("exec", b"id"))
    ((_, fields),) = world.audit.events
    assert (fields["command"], fields["forced"], "runs" in fields) == ("id", "true", False)


def test_what_could_not_be_started_is_an_event() -> None:
    """With the error that the client reads."""
    world = World()
    world.answer = fail(InvalidInput("there is no subsystem x"))
    assert world.run(ProgramRequest("subsystem", b"x")).check(InvalidInput)
    ((name, fields),) = world.audit.events
    assert (name, fields["error"]) == ("subsystem", "there is no subsystem x")


def test_nothing_starts_without_a_permission() -> None:
    """Neither a terminal that is not permitted now, nor anything after access has ended; each
    attempt is an event (attack).
    """
    world = World()
    world.context.grant = changed(world.context.grant, permit_pty=False)
    assert world.run(ProgramRequest("shell", pty=PTY)).check(AccessDenied)
    world.ending.expel(Denied(Reason.LOCKED, "locked"), None)
    assert world.run(ProgramRequest("shell")).check(AccessDenied)
    assert world.requests == []
    assert [fields["error"] for _, fields in world.audit.events] == [
        "a terminal is not permitted",
        "locked",
    ]


def test_the_end_of_a_session() -> None:
    """How long it lasted, whether it had a terminal, and why access ended."""
    world = World()
    world.session.logged_in()
    world.run(ProgramRequest("shell", pty=PTY))
    world.clock.advance(2.5)
    world.ending.expel(Denied(Reason.LOCKED, "locked"), None)
    world.session.logged_out()
    assert [name for name, _ in world.audit.events] == ["session.start", "exec", "session.end"]
    assert world.audit.events[-1][1] == {
        "seconds": 2.5,
        "interactive": True,
        "recorded": False,
        "error": "locked",
        "reason": "locked",
    }


@pytest.mark.parametrize("strictly", [True, False])
def test_a_session_that_cannot_be_recorded(strictly: bool) -> None:
    """Nothing runs if a role demands a recording; otherwise the events say why there is none."""
    clock = Clock()
    options: dict[str, Any] = {"recording": RecordingPlan(strict=strictly)}
    host: Any = SimpleNamespace(cluster="c", name="web1", host_id="host-1")
    recorder = MemoryRecorder(Unavailable("the disk is full"))
    world = World(make_tape(clock, recorder, context(**options), host), **options)
    world.launched = Launched("exec", b"id")
    answer = world.run(ProgramRequest("exec", b"id"))
    world.session.logged_out()
    (_, started), (_, ended) = world.audit.events
    if strictly:
        assert answer.check(Unavailable)
        assert started["error"] == "the disk is full"
    else:
        assert (started["unrecorded"], ended["unrecorded"]) == ("the disk is full",) * 2
    assert ended["recorded"] is False
