"""Sessions that cannot be recorded: by default they go on, and are recorded when there is room."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from zope.interface import implementer

from spool_world import Place, place, start
from tele.errors import Unavailable
from tele.interfaces import IRecorder
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.backlog import KEPT_LIMIT
from tele.recording.line import AGAIN
from tele.recording.tee import ConnectionTape

__all__ = ["place"]

FULL = Unavailable("the session cannot be recorded: the disk was full")


@implementer(IRecorder)
class Recorder:
    """A recorder whose disk is full until it is not."""

    def __init__(self, inner: Any) -> None:
        self.full = True
        self.tries = 0
        self.inner = inner

    def open(self, begin: RecordingStart) -> Deferred[Any]:
        self.tries += 1
        return fail(FULL) if self.full else self.inner.open(begin)


@implementer(IRecorder)
class Opening:
    """A recorder that has not opened a recording yet."""

    def __init__(self, opening: Deferred[Any]) -> None:
        self.opening = opening

    def open(self, begin: RecordingStart) -> Deferred[Any]:
        return self.opening


class World:
    """A connection on a node, and its time."""

    def __init__(self, place: Place, *, strict: bool) -> None:
        self.place = place
        self.begin = start()
        self.recorder = Recorder(place.recorder)
        self.time = 1
        self.tape = ConnectionTape(
            self.recorder, self.begin, lambda: self.time, strict=strict, record_input=True
        )

    def ready(self) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(self.tape.ready()).addBoth(results.append)
        return getattr(results[0], "value", results[0])

    def started(self) -> bool:
        return self.tape.started

    def frames(self) -> list[Frame]:
        return self.place.frames(self.begin.id)

    def gaps(self) -> list[dict[str, Any]]:
        return [json.loads(f.data) for f in self.frames() if f.kind is FrameKind.GAP]


def test_strictly_nothing_runs_that_is_not_recorded(place: Place) -> None:
    """With a role that says so the session is refused, and the next attempt may succeed."""
    world = World(place, strict=True)
    assert world.ready() is FULL
    world.recorder.full = False
    assert world.ready() is None
    assert (world.tape.started, world.tape.problem) == (True, "")
    world.tape.close("done")


def test_a_channel_that_closes_does_not_refuse_the_others(place: Place) -> None:
    """The first that asked may leave while the recording is opened: the others wait for it."""
    opening: Deferred[Any] = Deferred()
    tape = ConnectionTape(Opening(opening), start(), lambda: 1)
    results: list[list[Any]] = [[], []]
    asked = [Deferred.fromCoroutine(tape.ready()).addBoth(each.append) for each in results]
    asked[0].cancel()
    assert isinstance(results[0][0].value, CancelledError)
    assert results[1] == []
    place.recorder.open(start()).chainDeferred(opening)
    assert results[1] == [None]
    assert tape.started
    tape.close("done")


def test_a_session_continues_and_is_recorded_when_there_is_space(place: Place) -> None:
    """What was launched meanwhile is on the recording, what was shown is counted in a gap, and the
    reason stays for the audit.
    """
    world = World(place, strict=False)
    assert world.ready() is None
    assert world.started() is False
    assert world.tape.problem == str(FULL)
    world.tape.note(1, FrameKind.OPEN, kind="exec", command="id", pty=None)
    world.tape.write(1, FrameKind.OUTPUT, b"not kept")
    resumed: list[str] = []
    world.tape.when_resumed(lambda: resumed.append("at once"))
    assert resumed == ["at once"]
    assert not world.tape.paused
    world.recorder.full = False
    world.time += AGAIN
    world.tape.write(1, FrameKind.OUTPUT, b"!")
    assert world.started() is True
    world.tape.write(1, FrameKind.OUTPUT, b"kept")
    world.tape.close("done")
    assert [f.kind for f in world.frames()] == [
        FrameKind.START, FrameKind.OPEN, FrameKind.GAP, FrameKind.OUTPUT, FrameKind.END,
    ]  # fmt: skip
    lost = {"output": len(b"not kept!")}
    assert world.gaps() == [{"lost": lost, "frames": [[2, 3]], "reason": str(FULL)}]
    assert world.tape.problem == str(FULL)


def test_opening_is_retried_once_a_second(place: Place) -> None:
    """However much a session writes, the disk is tried once a second."""
    world = World(place, strict=False)
    world.ready()
    for _ in range(1000):
        world.time += AGAIN // 100
        world.tape.write(1, FrameKind.OUTPUT, b"x")
    assert 9 <= world.recorder.tries <= 12


def test_what_is_kept_has_a_bound(place: Place) -> None:
    """A client that makes facts without end makes no memory without end; the rest is counted."""
    world = World(place, strict=False)
    world.ready()
    for _ in range(1000):
        world.tape.note(1, FrameKind.RESIZE, columns=80, rows=24, padding="x" * 1000)
    backlog = world.tape._lines[0]._backlog
    assert backlog is not None
    assert sum(len(frame.data) for frame in backlog.frames) <= KEPT_LIMIT
    world.recorder.full = False
    world.tape.close("done")
    assert world.gaps()[0]["lost"]["resize"] > 900_000


def test_the_end_is_the_last_chance(place: Place) -> None:
    """A short session that found room only at its end is on record with what is known of it."""
    world = World(place, strict=False)
    world.ready()
    world.tape.note(1, FrameKind.OPEN, kind="exec", command="id", pty=None)
    world.recorder.full = False
    world.tape.close("done")
    assert FrameKind.OPEN in [f.kind for f in world.frames()]
    assert world.frames()[-1].kind is FrameKind.END


def test_an_end_without_any_room(place: Place) -> None:
    """It leaves nothing behind, and no session fails."""
    world = World(place, strict=False)
    world.ready()
    world.tape.write(1, FrameKind.OUTPUT, b"x")
    world.tape.close("done")
    assert place.spool.folders() == []
    assert place.clock.getDelayedCalls() == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_connection_that_ends_while_its_recording_is_opened(
    place: Place, *, strict: bool
) -> None:
    """The recording is closed, and does not stay open without a writer."""
    world = World(place, strict=strict)
    opening: Deferred[Any] = Deferred()
    world.tape._lines[0]._recorder = Opening(opening)
    results: list[Any] = []
    Deferred.fromCoroutine(world.tape.ready()).addErrback(results.append)
    world.tape.close("gone")
    recording = place.open(world.begin)
    opening.callback(recording)
    assert results[0].check(Unavailable)
    assert recording.closing
    assert world.frames()[-1].kind is FrameKind.END


def test_all_waiting_programs_continue(place: Place) -> None:
    """Several channels that begin at once wait for one recording, also if there is none."""
    world = World(place, strict=False)
    opening: Deferred[Any] = Deferred()
    world.tape._lines[0]._recorder = Opening(opening)
    results: list[Any] = []
    for _ in range(3):
        Deferred.fromCoroutine(world.tape.ready()).addBoth(results.append)
    opening.errback(FULL)
    assert results == [None] * 3
