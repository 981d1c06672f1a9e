"""A program that roles want traced is traced from its start to its end, or does not start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from session_world import FakeAudit, context
from tele.conch.session.programs import Exit
from tele.errors import TeleError, Unavailable
from tele.interfaces import ISessionTracer, ITrace
from tele.model.access import RecordingPlan
from tele.model.trace import Traced, TracedProgram, TraceEvent, TraceKind, TraceLost
from tele.node import tracing
from tele.node.tracing import (
    FLUSH_SECONDS,
    OPEN_SECONDS,
    UNKNOWN_SECONDS,
    ProgramTrace,
    Tracing,
)
from tele.sessions.trace_record import TraceRecords

GROUP = "/sys/fs/cgroup/of-the-test"


@implementer(ITrace)
@define(eq=False)
class FakeTrace:
    """One program; ``flushed`` is when all is reported."""

    number: int = 5
    flushed: Deferred[None] = field(factory=lambda: succeed(None))
    calls: list[str] = field(factory=list)

    def started(self, pid: int, cgroup: int) -> None:
        self.calls.append("started")

    def flush(self) -> Deferred[None]:
        return self.flushed

    def close(self) -> Deferred[None]:
        self.calls.append("closed")
        return succeed(None)


@implementer(ISessionTracer)
@define
class FakeTracer:
    """Traces programs, or answers as it is told to."""

    answer: Any = None
    lacking: Mapping[TraceKind, str] = field(factory=dict)
    programs: list[TracedProgram] = field(factory=list)

    def missing(self) -> Mapping[TraceKind, str]:
        return self.lacking

    def open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[Any]:
        self.programs.append(program)
        if isinstance(self.answer, Exception):
            return fail(self.answer)
        answer: Deferred[Any] = self.answer if self.answer is not None else succeed(FakeTrace())
        return answer

    def stop(self) -> Deferred[None]:
        return succeed(None)


class World:
    """A node with a tracer, and a connection to it."""

    def __init__(self, tracer: Any, **options: Any) -> None:
        self.clock = Clock()
        self.audit = FakeAudit()
        options.setdefault("recording", RecordingPlan(trace=(TraceKind.COMMAND, TraceKind.DISK)))
        self.context = context(**options)
        audit: Any = self.audit
        self.records = TraceRecords(
            self.clock, self.context, audit, None, lambda _: None, lambda _: None
        )
        self.tracing = Tracing(self.clock, tracer)

    def open(self) -> Deferred[ProgramTrace | None]:
        """Begin to trace the next program."""
        return Deferred.fromCoroutine(self.tracing.open(self.context, 3, self.records))

    def opened(self) -> ProgramTrace:
        """Return a program that is traced."""
        found: list[ProgramTrace | None] = []
        self.open().addCallback(found.append)
        assert found[0] is not None
        return found[0]

    def refusal(self) -> str:
        """Return why the next program does not start."""
        errors: list[Any] = []
        self.open().addErrback(errors.append)
        error = errors[0].value
        assert isinstance(error, TeleError)
        return str(error)


def test_nothing_is_traced_that_no_role_asks_for() -> None:
    """The tracer is not called then."""
    tracer = FakeTracer()
    world = World(tracer, recording=RecordingPlan())
    found: list[Any] = []
    world.open().addCallback(found.append)
    assert (found, tracer.programs) == ([None], [])


def test_the_tracer_is_told_what_of_whom() -> None:
    """And its number goes to the process that is to be the program."""
    tracer = FakeTracer()
    trace = World(tracer).opened()
    assert trace.number == 5
    kinds = (TraceKind.COMMAND, TraceKind.DISK)
    assert tracer.programs == [TracedProgram("session-1", 3, "alice", "root", kinds)]


@pytest.mark.parametrize(
    ("tracer", "text"),
    [
        (None, "command: this node traces nothing"),
        (FakeTracer(lacking={TraceKind.DISK: "old kernel"}), "disk: old kernel"),
        (FakeTracer(answer=Unavailable("no memory")), "no memory"),
        (FakeTracer(answer=RuntimeError("a secret")), "of this node failed (RuntimeError)"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced_does_not_start(tracer: Any, text: str) -> None:
    """The user reads the reason, and nothing of a mistake inside of the tracer."""
    why = World(tracer).refusal()
    assert why.startswith("the program does not start: it cannot be traced, and a role demands")
    assert why.endswith(text)


def test_a_kind_that_no_role_asks_for_may_be_missing() -> None:
    """Only what is asked for counts."""
    assert World(FakeTracer(lacking={TraceKind.SYSCALLS: "too old"})).opened().number == 5


def test_a_tracer_that_does_not_answer_is_not_waited_for() -> None:
    """The program does not start."""
    world = World(FakeTracer(answer=Deferred()))
    errors: list[Any] = []
    world.open().addErrback(errors.append)
    world.clock.advance(OPEN_SECONDS)
    assert errors[0].check(Unavailable)


def test_break_glass_starts_untraced_with_an_event() -> None:
    """Who has to repair the node logs in also when its tracer is broken."""
    world = World(FakeTracer(lacking={TraceKind.COMMAND: "broken"}), break_glass=True)
    found: list[Any] = []
    world.open().addCallback(found.append)
    assert found == [None]
    assert world.audit.events == [
        ("recording.gap", {"recorder": "tracer", "why": "command: broken"})
    ]


def test_the_end_comes_after_what_was_done() -> None:
    """The exit waits until all is reported, for some seconds at most."""
    for report in (True, False):
        fake = FakeTrace(flushed=Deferred())
        world = World(FakeTracer(answer=succeed(fake)))
        trace = world.opened()
        ended: list[Exit] = []
        trace.ended(Exit(0, None)).addCallback(ended.append)
        assert not ended
        if report:
            fake.flushed.callback(None)
        else:
            world.clock.advance(FLUSH_SECONDS)
        assert ended == [Exit(0, None)]
        assert fake.calls == ["closed"]


def test_what_goes_on_in_the_background_is_traced_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as anything lives in the program's control group."""
    living = {GROUP}
    monkeypatch.setattr(tracing, "find_group", lambda *_: GROUP)
    monkeypatch.setattr(tracing, "is_populated", living.__contains__)
    fake = FakeTrace()
    world = World(FakeTracer(answer=succeed(fake)))
    trace = world.opened()
    trace.started(17, 99)
    trace.ended(Exit(0, None))
    world.clock.pump([1.0] * 120)
    assert fake.calls == ["started"]
    living.clear()
    world.clock.advance(60)
    assert fake.calls == ["started", "closed"]
    assert not world.clock.getDelayedCalls()


def test_without_a_control_group_it_is_traced_for_some_minutes() -> None:
    """Nothing says when all of it has ended."""
    fake = FakeTrace()
    world = World(FakeTracer(answer=succeed(fake)))
    trace = world.opened()
    trace.started(17, 0)
    trace.ended(Exit(0, None))
    world.clock.advance(UNKNOWN_SECONDS - 1)
    assert fake.calls == ["started"]
    world.clock.advance(1)
    assert fake.calls == ["started", "closed"]
    assert not world.clock.getDelayedCalls()


def test_what_is_left_running_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is given up, and that is an event; the node's end gives up all."""
    monkeypatch.setattr(tracing, "find_group", lambda *_: GROUP)
    monkeypatch.setattr(tracing, "is_populated", lambda _: True)
    monkeypatch.setattr(tracing, "REMAINING_LIMIT", 2)
    fakes = [FakeTrace() for _ in range(3)]
    tracer = FakeTracer()
    world = World(tracer)
    for fake in fakes:
        tracer.answer = succeed(fake)
        trace = world.opened()
        trace.started(17, 99)
        trace.ended(Exit(0, None))
    assert [fake.calls for fake in fakes] == [["started", "closed"], ["started"], ["started"]]
    assert [name for name, _ in world.audit.events] == ["recording.gap"]
    Deferred.fromCoroutine(world.tracing.stop())
    assert all("closed" in fake.calls for fake in fakes)
    assert not world.clock.getDelayedCalls()


@define(eq=False)
class KillableTrace(FakeTrace):
    """One of a tracer that tells hand-overs."""

    def kill(self) -> None:
        self.calls.append("killed")


@define
class TellingTracer(FakeTracer):
    """Tells hand-overs; keeps what it is to call."""

    tells_handovers: bool = True
    receivers: list[Callable[[Traced | TraceLost], None]] = field(factory=list)

    def open(
        self, program: TracedProgram, receiver: Callable[[Traced | TraceLost], None]
    ) -> Deferred[Any]:
        self.receivers.append(receiver)
        return FakeTracer.open(self, program, receiver)


DENYING = RecordingPlan(trace=(TraceKind.COMMAND,), no_handovers=True)


def test_a_tracer_that_tells_no_handovers_cannot_forbid_them() -> None:
    """A role that does is refused there: its programs do not start."""
    said = World(FakeTracer(), recording=DENYING).refusal()
    assert "handovers: deny: the tracer of this node (node.tracer) does not tell them" in said


def test_what_hands_over_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of its group, also when its first process has ended; a group that is not of one
    session is left alone.
    """
    killed: list[str] = []
    monkeypatch.setattr(tracing, "kill_group", killed.append)
    trace = KillableTrace()
    tracer = TellingTracer(answer=succeed(trace))
    world = World(tracer, recording=DENYING)
    opened = world.opened()
    assert tracer.programs[0].may_end
    groups = iter(["/sys/fs/cgroup/x/tele-sessions/1.2", "/sys/fs/cgroup/user.slice"])
    monkeypatch.setattr(tracing, "find_group", lambda *_: next(groups))
    handed = Traced(TraceEvent.HANDOVER, 2, 0, "cron", 7, 6, 0, "sh", 0, {"path": "/etc/crontab"})
    for _ in range(2):
        opened.started(7, 9)
        tracer.receivers[0](Traced(TraceEvent.COMMAND, 1, 0, "exec", 7, 6, 0, "sh"))
        tracer.receivers[0](handed)
    assert trace.calls == ["started", "killed", "started", "killed"]
    assert killed == ["/sys/fs/cgroup/x/tele-sessions/1.2"]
