"""Every frame of a session has a number before anything can drop it, so that a loss shows."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from spool_world import Place, place, start
from tele.errors import BadRecording, Unavailable
from tele.model.frame import Frame, FrameKind
from tele.recording.backlog import KEPT_LIMIT
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.losses import KEPT_RANGES, Losses
from tele.recording.tee import ConnectionTape
from tele.tape.layout import DATA_LIMIT
from tele.tape.order import SequenceCheck
from tele.tape.writer import TapeWriter
from tele.testing.recorder import MemoryRecorder

__all__ = ["place"]


def opened(recorder: Any) -> ConnectionTape:
    """The tape of a connection; its time is 1."""
    tape = ConnectionTape(recorder, start(), lambda: 1, strict=False)
    Deferred.fromCoroutine(tape.ready())
    return tape


def test_frames_are_numbered_from_one() -> None:
    """Before the recorder sees them, whatever channel they are of; a gap has none of its own."""
    recorder = MemoryRecorder()
    tape = opened(recorder)
    tape.note(1, FrameKind.OPEN, kind="shell")
    tape.write(1, FrameKind.OUTPUT, b"x")
    tape.note(1, FrameKind.GAP, lost={"input": 3}, reason="file transfer")
    tape.note(2, FrameKind.OPEN, kind="exec")
    assert [frame.sequence for frame in recorder.frames] == [1, 2, 2, 3]


def test_what_is_divided_is_divided_before() -> None:
    """No recorder has to make two frames of one."""
    recorder = MemoryRecorder()
    tape = opened(recorder)
    data = bytes(range(256)) * (10 * 1024) + b"end"
    tape.write(1, FrameKind.OUTPUT, data)
    assert b"".join(frame.data for frame in recorder.frames) == data
    assert [frame.sequence for frame in recorder.frames] == [1, 2, 3]
    assert max(len(frame.data) for frame in recorder.frames) == DATA_LIMIT


def test_what_passes_before_a_recording_is_open_is_numbered() -> None:
    """Facts that are kept and bytes that are not, in turns: all are there, or stated as lost."""
    recorder = MemoryRecorder(Unavailable("the disk was full"))
    tape = opened(recorder)
    for _ in range(KEPT_RANGES + 10):
        tape.note(1, FrameKind.RESIZE, columns=80)
        tape.write(1, FrameKind.OUTPUT, b"x")
    backlog = tape._lines[0]._backlog
    assert backlog is not None
    assert sum(len(frame.data) for frame in backlog.frames) <= KEPT_LIMIT + 1024
    recorder.refusal = None
    tape.close("done")
    order = SequenceCheck()
    for frame in recorder.frames:
        order.take(frame)
    order.end(2 * (KEPT_RANGES + 10))
    assert recorder.frames[-1].kind is FrameKind.GAP


def test_losses_have_a_bound() -> None:
    """Neighbours are one range, frames without a number none; many ranges ask for a gap."""
    losses = Losses()
    for number in (3, 4, 5, 9):
        losses.lose(Frame(0, 1, FrameKind.OUTPUT, b"12", number))
    losses.lose(Frame(0, 1, FrameKind.GAP, b"{}", 9))
    losses.lose(Frame(0, 1, FrameKind.OUTPUT, b"34"))
    assert losses
    said = {"lost": {"output": 10, "gap": 2}, "frames": [[3, 5], [9, 9]], "reason": "why"}
    assert json.loads(losses.take("why")) == said
    assert not losses
    for number in range(KEPT_RANGES):
        assert not losses.is_full
        losses.lose(Frame(0, 1, FrameKind.OUTPUT, b"x", 2 * number + 1))
    assert losses.is_full


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """What is written to recordings, with the numbers that chunks do not have yet."""
    frames: list[Frame] = []
    add = TapeWriter.add

    def note(self: TapeWriter, frame: Frame) -> None:
        frames.append(frame)
        add(self, frame)

    monkeypatch.setattr(TapeWriter, "add", note)
    return frames


def check(frames: list[Frame], last: int) -> list[str]:
    """All is there or stated right before the next frame, up to ``last``; returns the reasons of
    gaps, without repeats.
    """
    order = SequenceCheck()
    for frame in frames:
        order.take(frame)
        assert frame.kind is FrameKind.GAP or not order._skipped
    assert (frames[-1].kind, frames[-1].sequence) == (FrameKind.END, last)
    return list({json.loads(f.data)["reason"]: 0 for f in frames if f.kind is FrameKind.GAP})


def test_a_full_disk_states_which_frames_it_cost(
    place: Place, added: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output is lost and facts are kept, in turns, more often than a gap has ranges."""
    tape = opened(place.recorder)
    tape.note(1, FrameKind.OPEN, kind="shell")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tele.recording.spool.SpoolFolder.write_chunk", full)
        place.clock.advance(FLUSH_SECONDS)
        for _ in range(KEPT_RANGES + 10):
            tape.write(1, FrameKind.OUTPUT, b"x")
            tape.note(1, FrameKind.RESIZE, columns=80)
    place.clock.advance(FLUSH_SECONDS)
    tape.write(1, FrameKind.OUTPUT, b"again")
    tape.close("done")
    place.clock.advance(FLUSH_SECONDS)
    assert check(added, 2 * (KEPT_RANGES + 10) + 2) == ["the disk was full"]


def test_a_limit_states_which_frames_it_cost(place: Place, added: list[Frame]) -> None:
    """Output beyond a limit of auth is lost, and facts are kept: each gap states its frames."""
    begin = start()
    recording = place.open(begin)
    place.recorder.limit(begin.id, "over the limit")
    last = 2 * (KEPT_RANGES + 10)
    for number in range(1, last, 2):
        recording.write(Frame(number, 1, FrameKind.OUTPUT, b"x", number))
        recording.write(Frame(number, 1, FrameKind.RESIZE, b"{}", number + 1))
    recording.close("done", last)
    place.clock.advance(FLUSH_SECONDS)
    assert check(added, last) == ["over the limit"]


def test_frames_that_never_reached_the_recorder_are_missing(
    place: Place, added: list[Frame]
) -> None:
    """The end says how many there were."""
    recording = place.open(start())
    recording.write(Frame(1, 1, FrameKind.OUTPUT, b"x", 1))
    recording.close("done", 3)
    place.clock.advance(FLUSH_SECONDS)
    with pytest.raises(BadRecording, match="frames 2 to 3 are missing"):
        check(added, 3)
