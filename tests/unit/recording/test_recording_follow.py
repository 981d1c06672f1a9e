"""A session that runs is followed: what arrives is shown, and nothing that is not of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve

from recorded_sessions import chunks_of, frame, opened
from tele.errors import BadRecording, NotFound
from tele.model.api.operation import Octets
from tele.model.api.recordings import GET_CHUNK, GET_RECORDING, RecordingDetails
from tele.model.frame import FrameKind
from tele.model.session import Recording, RecordingState
from tele.recording.follow import POLL_SECONDS, Following
from tele.recording.playback import EDGE_STEP, Source, Step
from tele.tape.layout import Chunk, read_chunk
from test_recording_seek import BEGUN, START


class Running:
    """A session at auth of which chunks arrive one by one."""

    def __init__(self) -> None:
        output = [frame(at, FrameKind.OUTPUT, b"at %d\r\n" % at) for at in range(1, 40)]
        self.chunks = chunks_of([opened(), *output], each=10, start=START)
        self.arrived = 2
        self.state = RecordingState.RUNNING
        self.time = 100.0
        self.calls: list[str] = []
        row = Recording(START.id, "ssh", "alice", "root", "web1", BEGUN, None, True, 0)
        self.details = RecordingDetails(row, self.arrived, None, self.state)

    def perform(self, operation: Any, request: Any) -> Any:
        self.calls.append(operation.name)
        if operation is GET_RECORDING:
            return evolve(self.details, state=self.state, available=self.arrived)
        assert operation is GET_CHUNK
        if request.number >= self.arrived:
            raise NotFound("not there yet")
        return Octets(self.chunks[request.number])

    def following(self) -> Following:
        source = Source(START.id, START, None, lambda: iter(()), self.details)
        return Following(source, self.perform, lambda: self.time)


def shown(steps: Iterator[Step]) -> list[int]:
    """The seconds of the steps up to the edge."""
    found = []
    for step in steps:
        if step.edge:
            break
        found.append(int(step.at))
    return found


def test_what_arrives_is_shown() -> None:
    """First all that is there; then, while it runs, each chunk as it comes."""
    running = Running()
    steps = running.following().steps(0)
    assert shown(steps) == list(range(19))
    assert shown(steps) == []
    running.arrived = 3
    running.time += POLL_SECONDS
    assert shown(steps) == list(range(19, 29))


def test_auth_is_not_asked_more_often_for_a_fast_player() -> None:
    """However often a reader asks, there is one call in each interval."""
    running = Running()
    steps = running.following().steps(0)
    shown(steps)
    del running.calls[:]
    for _ in range(100):
        assert next(steps).edge
    assert running.calls == []
    running.time += POLL_SECONDS
    for _ in range(100):
        assert next(steps).edge
    assert running.calls == ["get_chunk"]


def test_a_wait_counts_the_time_at_the_edge() -> None:
    """What came after a pause is not waited for again: the viewer stays at the edge."""
    running = Running()
    steps = running.following().steps(0)
    shown(steps)
    for _ in range(8):
        assert next(steps).wait == EDGE_STEP
    running.arrived = 3
    running.time += POLL_SECONDS
    waits = [step.wait for step, _ in zip(steps, range(4), strict=False) if not step.edge]
    assert waits[:3] == [0.0, 0.0, 0.75]


@pytest.mark.parametrize("state", [RecordingState.UNFINISHED, RecordingState.INCOMPLETE])
def test_it_ends_when_nothing_more_will_come(state: RecordingState) -> None:
    """A node that is gone, or a recording that was closed without its last chunks."""
    running = Running()
    steps = running.following().steps(0)
    shown(steps)
    running.state = state
    left = []
    for step in steps:
        left.append(step)
        running.time += POLL_SECONDS
        assert len(left) < 20
    assert all(step.edge for step in left)


def test_it_ends_with_the_last_chunk() -> None:
    """The last chunk of a session is marked; after it nothing is asked."""
    running = Running()
    running.arrived = len(running.chunks)
    assert list(running.following().frames())[-1] is not None


def test_the_edge_is_the_last_frame_that_is_there() -> None:
    """A viewer begins where the session is now."""
    assert Running().following().edge() == 18.0


def test_attack_another_session_is_not_shown() -> None:
    """A node that sends a chunk of another session in the middle of this one is found out."""
    running = Running()
    other = chunks_of([opened(), frame(90, FrameKind.OUTPUT, b"forged")], each=2, start=START)
    running.chunks[1] = other[1]
    with pytest.raises(BadRecording, match="follow"):
        shown(running.following().steps(0))
    elsewhere = Running()
    elsewhere.chunks = chunks_of([opened()], start=evolve(START, user="bob"))
    with pytest.raises(BadRecording, match="another session"):
        shown(elsewhere.following().steps(0))


def test_a_sealed_session_is_followed() -> None:
    """Its chunks are opened with the keys that auth gives to who may read it."""
    running = Running()
    opened_with: list[int] = []

    def open_chunk(data: bytes, number: int, previous: bytes | None) -> Chunk:
        opened_with.append(number)
        return read_chunk(data, number, previous)

    source = Source(START.id, START, None, lambda: iter(()), running.details, open_chunk=open_chunk)
    following = Following(source, running.perform, lambda: running.time)
    assert following.edge() == 18.0
    assert shown(following.steps(0)) == list(range(19))
    assert opened_with == [1, 0, 1]
