"""Output that has to be at auth first waits for that, says so, and not for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from spool_world import Auth, Place, place, start, uploading
from tele.errors import Unavailable
from tele.interfaces import IRecorder, ISyncRecording
from tele.model.frame import Frame, FrameKind
from tele.recording.hold import NOTICE_SECONDS
from tele.recording.tee import RESUMED, WAITING, ConnectionTape, TapeState
from tele.recording.upload import WAITED_FOR
from tele.tape.verify import read_frames
from tele.testing.recorder import MemoryRecorder

__all__ = ["place"]

END_AFTER = 30.0


def state(tape: ConnectionTape) -> TapeState:
    """What it is now."""
    return tape.state


class World:
    """A connection whose output waits for auth, and its time."""

    def __init__(self, *, strict: bool = True, recorder: Any = None) -> None:
        self.clock = Clock()
        self.recording = recording = Recording(start())
        self.tape = ConnectionTape(
            recorder or Opens(recording),
            start(),
            lambda: int(self.clock.seconds() * 1e9),
            strict=strict,
            sync=True,
            sync_end_after=END_AFTER,
            clock=self.clock,
        )
        self.notices: list[str] = []
        self.ends: list[str] = []
        self.losses: list[tuple[str, str]] = []
        self.tape.on_notice(self.notices.append)
        self.tape.on_end(self.ends.append)
        self.tape.on_loss(lambda name, reason: self.losses.append((name, reason)))
        self.opened: list[Any] = []
        Deferred.fromCoroutine(self.tape.ready()).addBoth(self.opened.append)

    def output(self, data: bytes = b"x") -> list[Any] | None:
        """Something is shown; return what becomes of it, or None if it may go at once."""
        self.tape.write(1, FrameKind.OUTPUT, data)
        waiting = self.tape.held(self.tape.number)
        if waiting is None:
            return None
        results: list[Any] = []
        waiting.addBoth(results.append)
        return results

    def pauses(self) -> list[str]:
        frames: list[Frame] = self.recording.frames
        return [json.loads(f.data)["state"] for f in frames if f.kind is FrameKind.PAUSE]


@implementer(ISyncRecording)
class Recording:
    """A recording that answers when told to, how far auth is."""

    paused = False

    def __init__(self, begin: Any) -> None:
        self.frames: list[Frame] = []
        self.asked: list[tuple[int, Deferred[None]]] = []
        self.closed = ""

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)

    def when_resumed(self, callback: Callable[[], None]) -> None:
        callback()

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        self.closed = reason
        return succeed(None)

    def synced(self, sequence: int) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self.asked.append((sequence, answer))
        return answer

    def answer(self) -> int:
        sequence, answer = self.asked.pop(0)
        answer.callback(None)
        return sequence


@implementer(IRecorder)
class Opens:
    """A recorder with one recording."""

    def __init__(self, recording: Any) -> None:
        self.recording = recording

    def open(self, begin: Any) -> Any:
        return self.recording


def test_output_waits_until_auth_has_it() -> None:
    """In order; what comes while one answer is awaited shares the next question."""
    world = World()
    assert world.opened == [None]
    first, second, third = world.output(), world.output(), world.output()
    assert [sequence for sequence, _ in world.recording.asked] == [1]
    assert (first, second, third) == ([], [], [])
    assert world.recording.answer() == 1
    assert (first, second, third) == ([None], [], [])
    assert world.recording.answer() == 3
    assert second == third == [None]
    assert world.tape.held(2) is None
    assert world.recording.asked == []
    assert world.clock.getDelayedCalls() == []


def test_without_the_mode_nothing_is_held() -> None:
    """Output of other modes goes at once."""
    clock = Clock()
    tape = ConnectionTape(Opens(Recording(start())), start(), lambda: 1, clock=clock)
    Deferred.fromCoroutine(tape.ready())
    tape.write(1, FrameKind.OUTPUT, b"x")
    assert tape.held(1) is None
    assert state(tape) is TapeState.RUNNING


def test_a_recorder_that_cannot_tell_is_refused() -> None:
    """A node cannot do a mode that none of its recorders can; that is said, and nothing runs."""
    world = World(recorder=MemoryRecorder(), strict=False)
    assert world.opened[0].check(Unavailable)
    assert "knows what auth has" in str(world.opened[0].value)


def test_a_session_that_waits_says_so() -> None:
    """On its terminals and in its recording; when auth is back, too. Nothing is lost by it."""
    world = World()
    shown = world.output()
    world.clock.advance(NOTICE_SECONDS - 0.1)
    assert world.notices == []
    world.clock.advance(0.2)
    assert (world.notices, state(world.tape)) == ([WAITING], TapeState.HELD)
    assert shown == []
    world.recording.answer()
    assert shown == [None]
    assert (world.notices, state(world.tape)) == ([WAITING, RESUMED], TapeState.RUNNING)
    assert world.pauses() == ["held", "resumed"]
    world.clock.advance(END_AFTER)
    assert world.ends == []


def test_a_slow_auth_is_not_an_absent_one() -> None:
    """A session ends only if nothing at all was answered for so long."""
    world = World()
    shown = [world.output()]
    for _ in range(40):
        shown.append(world.output())
        world.clock.advance(NOTICE_SECONDS * 0.9)
        world.recording.answer()
    assert world.notices == []
    assert world.ends == []


def test_a_session_that_waits_too_long_ends() -> None:
    """What was held is not shown; nothing more is shown or started."""
    world = World(strict=False)
    first, second = world.output(b"secret"), world.output()
    world.clock.advance(NOTICE_SECONDS)
    world.clock.advance(END_AFTER - NOTICE_SECONDS - 0.1)
    assert state(world.tape) is TapeState.HELD
    world.clock.advance(0.2)
    assert state(world.tape) is TapeState.ENDED
    assert len(world.ends) == 1
    assert "30 s" in world.ends[0]
    for results in (first, second, world.output()):
        assert results is not None
        assert isinstance(results[0], Failure)
        assert results[0].check(Unavailable)
    again: list[Any] = []
    Deferred.fromCoroutine(world.tape.ready()).addErrback(again.append)
    assert again[0].check(Unavailable)
    late: list[str] = []
    world.tape.on_end(late.append)
    assert late == world.ends
    world.recording.answer()
    assert first is not None
    assert len(first) == 1
    world.tape.close("gone")
    assert world.recording.closed == "gone"
    assert world.clock.getDelayedCalls() == []


def test_an_idle_session_does_not_end() -> None:
    """Nothing waits: the channel that did is closed. Auth may be away as long as it likes."""
    world = World()
    world.tape.write(1, FrameKind.OUTPUT, b"x")
    waiting = world.tape.held(1)
    assert waiting is not None
    waiting.addErrback(lambda failure: failure.trap(CancelledError) and None)
    waiting.cancel()
    world.clock.advance(END_AFTER * 3)
    assert (world.notices, world.ends) == ([], [])
    shown = world.output()
    world.clock.advance(NOTICE_SECONDS)
    assert world.notices == [WAITING]
    world.recording.answer()
    assert shown == []
    world.recording.answer()
    assert shown == [None]


def test_a_connection_that_ends_leaves_nothing_behind() -> None:
    """What was held fails, and no timer stays."""
    world = World()
    shown = world.output()
    world.tape.close("gone")
    assert shown is not None
    assert shown[0].check(Unavailable)
    assert world.clock.getDelayedCalls() == []
    assert world.ends == []


def test_a_recorder_that_cannot_be_asked() -> None:
    """A mistake in a plugin is no error of the session: the role decides."""
    world = World(strict=True)

    def mistake(sequence: int) -> Deferred[None]:
        raise RuntimeError("a mistake of the plugin")

    world.recording.synced = mistake  # type: ignore[method-assign]
    shown = world.output()
    assert shown is not None
    assert shown[0].check(Unavailable)
    assert world.ends == ["the session cannot be recorded any more: its recorder failed"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_recording_that_will_never_be_at_auth(*, strict: bool) -> None:
    """The role decides: the session ends, or goes on and says so in the audit."""
    world = World(strict=strict)
    shown = world.output()
    world.recording.asked.pop()[1].errback(Unavailable("the recording is gone"))
    assert shown is not None
    if strict:
        assert shown[0].check(Unavailable)
        assert "the recording is gone" in world.ends[0]
        assert world.losses == []
    else:
        assert shown == [None]
        assert world.output() is None
        assert world.ends == []
        assert world.losses == [("", "the recording is gone")]


def test_a_notice_is_for_terminals_that_are_there() -> None:
    """A channel that has closed is not called."""
    world = World()
    told: list[str] = []
    gone = world.tape.on_notice(told.append)
    gone()
    gone()
    world.output()
    world.clock.advance(NOTICE_SECONDS)
    assert (told, world.notices) == ([], [WAITING])


class Node:
    """A connection on a node with the real recorder and uploader."""

    def __init__(self, place: Place, *, strict: bool) -> None:
        self.auth = Auth()
        self.place = place
        self.begin = start()
        uploading(place, self.auth).start()
        began = place.clock.seconds()
        self.tape = ConnectionTape(
            place.recorder,
            self.begin,
            lambda: int((place.clock.seconds() - began) * 1e9),
            strict=strict,
            sync=True,
            sync_end_after=END_AFTER,
            clock=place.clock,
        )
        self.ends: list[str] = []
        self.tape.on_end(self.ends.append)
        Deferred.fromCoroutine(self.tape.ready())

    def output(self, data: bytes) -> list[Any] | None:
        self.tape.write(1, FrameKind.OUTPUT, data)
        waiting = self.tape.held(self.tape.number)
        results: list[Any] = []
        return None if waiting is None else (waiting.addBoth(results.append), results)[1]


def test_with_the_nodes_recorder_what_is_shown_is_at_auth(place: Place) -> None:
    """Shown means stored, while auth comes and goes; the recording has all, and the pauses."""
    node = Node(place, strict=False)
    assert node.output(b"1") is None
    assert b"1" in [f.data for f in at_auth(node)]
    node.auth.away = True
    held = [node.output(b"2"), node.output(b"3")]
    place.clock.advance(NOTICE_SECONDS + 1)
    assert held == [[], []]
    assert state(node.tape) is TapeState.HELD
    node.auth.away = False
    for _ in range(4):
        place.clock.advance(WAITED_FOR / 2)
    assert held == [[None], [None]]
    assert state(node.tape) is TapeState.RUNNING
    node.tape.close("done")
    place.clock.advance(1)
    assert node.auth.verify().complete
    assert node.auth.shown() == [b"1", b"2", b"3"]
    assert [f.kind for f in node.auth.frames()].count(FrameKind.PAUSE) == 2


def at_auth(node: Node) -> list[Frame]:
    chunks = [node.auth.chunks[number] for number in sorted(node.auth.chunks)]
    return list(read_frames(chunks, None, node.begin))


@pytest.mark.parametrize("strict", [True, False])
def test_a_full_disk_in_the_middle(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, strict: bool
) -> None:
    """Strict: the session ends, also without the sync mode, and nothing more is started. Otherwise
    it goes on, and what is lost is stated.
    """
    node = Node(place, strict=strict)
    assert node.output(b"1") is None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tele.recording.spool.SpoolFolder.write_chunk", full)
        first = node.output(b"2")
        second = node.output(b"3")
        assert first is not None
        if strict:
            assert isinstance(first[0], Failure)
            assert node.ends == ["the session cannot be recorded any more: the disk was full"]
            refused: list[Any] = []
            Deferred.fromCoroutine(node.tape.ready()).addErrback(refused.append)
            assert refused[0].check(Unavailable)
        else:
            assert first == [None]
            assert second is None
            assert node.ends == []
    place.clock.advance(5)
    node.tape.close("done")
    place.clock.advance(5)
    assert node.auth.verify().complete
