"""Several recorders take part in a session; none harms it, another session, or another recorder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from spool_world import start
from tele.errors import AccessDenied, Unavailable
from tele.interfaces import IRecorder, IRecording, NamedRecorder
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.line import AGAIN, CLOSE_SECONDS, OPEN_SECONDS, PAUSE_SECONDS
from tele.recording.tee import REPORT_AGAIN, ConnectionTape
from tele.tape.order import SequenceCheck
from tele.testing.recorder import MemoryRecorder


@implementer(IRecorder, IRecording)
class Bad:
    """A recorder with faults, and its own recording. ``faults`` are the methods that raise."""

    def __init__(self, *faults: str, opening: Deferred[Any] | None = None) -> None:
        self.faults = set(faults)
        self.opening = opening
        self.frames: list[Frame] = []
        self.opened = 0
        self.closed: list[str] = []
        self.is_paused = False
        self.closing: Deferred[None] = succeed(None)

    def _maybe(self, name: str) -> None:
        if name in self.faults:
            raise RuntimeError("a mistake of the plugin")

    def open(self, begin: RecordingStart) -> Any:
        self.opened += 1
        self._maybe("open")
        return succeed(self) if self.opening is None else self.opening

    def write(self, frame: Frame) -> None:
        self._maybe("write")
        self.frames.append(frame)

    @property
    def paused(self) -> bool:
        self._maybe("paused")
        return self.is_paused

    def when_resumed(self, callback: Callable[[], None]) -> None:
        self._maybe("when_resumed")

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        self.closed.append(reason)
        self._maybe("close")
        return self.closing


class World:
    """A connection with a bad recorder and a good one."""

    def __init__(self, bad: Any, *, strict: bool) -> None:
        self.clock = Clock()
        self.bad = bad
        self.good = MemoryRecorder()
        self.tape = ConnectionTape(
            [NamedRecorder("bad", bad), NamedRecorder("good", self.good)],
            start(),
            lambda: int(self.clock.seconds() * 1e9),
            strict=strict,
            clock=self.clock,
        )
        self.ends: list[str] = []
        self.losses: list[tuple[str, str]] = []
        self.tape.on_end(self.ends.append)
        self.tape.on_loss(lambda name, reason: self.losses.append((name, reason)))

    def ready(self) -> Any:
        """Return what a command waits for: None if it may start, a Failure if it is refused."""
        results: list[Any] = []
        Deferred.fromCoroutine(self.tape.ready()).addBoth(results.append)
        return results[0] if results else "it waits"

    def output(self, data: bytes = b"x") -> None:
        self.tape.write(1, FrameKind.OUTPUT, data)


def test_each_recorder_gets_everything() -> None:
    """The same frames with the same numbers, and the same end."""
    world = World(Bad(), strict=True)
    assert world.ready() is None
    world.output()
    world.tape.note(1, FrameKind.EXIT, status=0)
    world.tape.close("done")
    assert world.bad.frames == world.good.frames
    assert [frame.sequence for frame in world.good.frames] == [1, 2]
    assert (world.bad.closed, world.good.recordings[0].closed) == (["done"], "done")


@pytest.mark.parametrize("fault", ["write", "paused", "when_resumed"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_recorder_that_raises(fault: str, *, strict: bool) -> None:
    """It gets no more calls in this session. Strict: the session ends, once, with the reason, and
    nothing more is started; otherwise it goes on, and that is reported once.
    """
    world = World(Bad(fault), strict=strict)
    assert world.ready() is None
    world.bad.is_paused = fault == "when_resumed"
    resumed: list[int] = []
    for number in range(3):
        world.output()
        if world.tape.paused:
            world.tape.when_resumed(partial(resumed.append, number))
    assert [frame.sequence for frame in world.good.frames] == [1, 2, 3]
    if fault == "when_resumed":
        assert resumed == [0]
    if strict:
        assert world.ends == [
            "the session cannot be recorded any more: the recorder bad failed",
        ]
        assert world.ready().check(Unavailable)
    else:
        assert world.ends == []
        assert world.losses == [("bad", "the recorder bad failed")]
        assert world.ready() is None
        assert world.tape.problem == "the recorder bad failed"
    assert len(world.bad.closed) == 1
    world.tape.close("done")
    assert len(world.bad.closed) == 1
    assert world.good.recordings[0].closed == "done"


def test_frames_stay_in_order_when_a_recorder_fails() -> None:
    """What ends with a session is recorded after what was being recorded."""
    world = World(Bad("write"), strict=True)
    world.tape.on_end(lambda _: world.tape.note(1, FrameKind.EXIT, signal="HUP"))
    world.ready()
    world.output()
    assert [(f.sequence, f.kind) for f in world.good.frames] == [
        (1, FrameKind.OUTPUT),
        (2, FrameKind.EXIT),
    ]


@pytest.mark.parametrize("strict", [True, False])
def test_a_recorder_that_cannot_open(*, strict: bool) -> None:
    """A mistake in a plugin is no refusal: the role decides. Its text stays in the log."""
    world = World(Bad("open"), strict=strict)
    result = world.ready()
    if strict:
        assert result.check(Unavailable)
        assert "mistake" not in str(result.value)
        assert "the recorder bad failed" in str(result.value)
        world.bad.faults.clear()
        assert world.ready() is None
    else:
        assert result is None
        world.output()
        assert len(world.good.frames) == 1
        assert world.bad.opened == 1
        assert world.tape.problem == "the recorder bad failed"


@pytest.mark.parametrize("strict", [True, False])
def test_a_recorder_may_refuse(*, strict: bool) -> None:
    """Any other error than that it is not possible for now is a refusal of the session."""
    world = World(Bad(opening=fail(AccessDenied("not this user", "x"))), strict=strict)
    assert world.ready().check(AccessDenied)


@pytest.mark.parametrize("strict", [True, False])
def test_a_recorder_that_does_not_answer(*, strict: bool) -> None:
    """After its time the session is refused, or runs. What is opened later is used; it is not asked
    twice.
    """
    opening: Deferred[Any] = Deferred()
    world = World(Bad(opening=opening), strict=strict)
    results: list[Any] = []
    Deferred.fromCoroutine(world.tape.ready()).addBoth(results.append)
    world.clock.advance(OPEN_SECONDS - 1)
    assert results == []
    world.clock.advance(2)
    (result,) = results
    if strict:
        assert result.check(Unavailable)
        assert "bad opened no recording within 20 s" in str(result.value)
        assert world.ready() == "it waits"
        world.clock.advance(OPEN_SECONDS)
    else:
        assert result is None
        for _ in range(3):
            world.output()
            world.clock.advance(AGAIN / 1e9)
        world.tape.note(1, FrameKind.EXIT, status=0)
    assert world.bad.opened == 1
    opening.callback(world.bad)
    assert world.ready() is None
    world.output()
    order = SequenceCheck()
    for frame in world.bad.frames:
        order.take(frame)
    assert world.bad.frames[-1].kind is FrameKind.OUTPUT
    world.tape.close("done")
    assert world.bad.closed == ["done"]
    assert world.clock.getDelayedCalls() == []


def test_a_recorder_that_answers_after_the_end() -> None:
    """What it opens then is closed."""
    opening: Deferred[Any] = Deferred()
    world = World(Bad(opening=opening), strict=False)
    Deferred.fromCoroutine(world.tape.ready())
    world.clock.advance(OPEN_SECONDS)
    world.tape.close("gone")
    opening.callback(world.bad)
    assert world.bad.closed == ["gone"]
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_recorder_that_is_slow_for_ever(*, strict: bool) -> None:
    """It pauses the session, and after its time the session ends, or goes on without it."""
    world = World(Bad(), strict=strict)
    world.ready()
    world.output()
    world.bad.is_paused = True
    resumed: list[int] = []
    for number in (1, 2):
        assert world.tape.paused
        world.tape.when_resumed(partial(resumed.append, number))
    world.clock.advance(PAUSE_SECONDS - 1)
    assert resumed == []
    world.clock.advance(2)
    assert resumed == [1, 2]
    assert world.tape.paused is False
    reason = "the recorder bad took no data for 60 s"
    assert world.tape.problem == reason
    assert world.losses == ([] if strict else [("bad", reason)])
    assert world.ends == ([f"the session cannot be recorded any more: {reason}"] if strict else [])


def test_a_recorder_that_does_not_close() -> None:
    """Nothing waits for it, and no timer stays after its time."""
    world = World(Bad(), strict=True)
    world.bad.closing = Deferred()
    world.ready()
    world.tape.close("done")
    assert world.good.recordings[0].closed == "done"
    world.clock.advance(CLOSE_SECONDS)
    assert world.clock.getDelayedCalls() == []


def test_a_recorder_that_fails_often_is_reported_seldom() -> None:
    """The audit has one event a minute for each recorder, not one for each loss."""
    world = World(Bad(), strict=False)
    world.ready()
    for _ in range(100):
        world.tape.lost("bad", "the disk was full")
    world.tape.lost("good", "the disk was full")
    assert world.losses == [("bad", "the disk was full"), ("good", "the disk was full")]
    world.clock.advance(REPORT_AGAIN / 1e9)
    world.tape.lost("bad", "the disk was full")
    assert len(world.losses) == 3


def test_one_recorder_late_and_one_in_time() -> None:
    """Each has what passed, or states it as lost."""
    world = World(Bad(opening=fail(Unavailable("full"))), strict=False)
    assert world.ready() is None
    world.output(b"lost")
    world.tape.note(1, FrameKind.RESIZE, columns=80)
    world.bad.opening = None
    world.clock.advance(AGAIN / 1e9)
    world.output(b"kept")
    kinds = [frame.kind for frame in world.bad.frames]
    assert kinds == [FrameKind.GAP, FrameKind.RESIZE, FrameKind.GAP]
    assert json.loads(world.bad.frames[0].data)["frames"] == [[1, 1]]
    world.output(b"again")
    assert world.bad.frames[-1].data == b"again"
    assert [frame.sequence for frame in world.good.frames] == [1, 2, 3, 4]


def test_a_failure_is_not_a_refusal_of_the_next_connection() -> None:
    """Each connection begins anew with each recorder."""
    bad = Bad("write")
    first = World(bad, strict=True)
    first.ready()
    first.output()
    assert isinstance(first.ready(), Failure)
    bad.faults.clear()
    second = World(bad, strict=True)
    assert second.ready() is None
    second.output()
    assert second.ends == []
