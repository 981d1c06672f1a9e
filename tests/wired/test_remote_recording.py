"""What is recorded of sessions whose programs run on a target, and what waits for that."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from channel_ends import output
from remote_world import Remote
from tele.conch.connection.channel import WINDOW
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.interfaces import ISyncRecording
from tele.model.access import RecordingPlan
from tele.model.frame import FrameKind
from tele.model.resources import RecordingMode
from tele.recording.hold import NOTICE_SECONDS
from tele.recording.tee import RESUMED, WAITING, TapeState
from tele.testing.recorder import MemoryRecorder, MemoryRecording

MIB = 1 << 20


@pytest.fixture
def recorded() -> Iterator[Remote]:
    """The same with a recording."""
    made = Remote(records=True)
    yield made
    made.close()


def test_what_is_recorded(recorded: Remote) -> None:
    """What was launched, output, errors, sizes and the end, as on a node."""
    channel = recorded.run(ProgramRequest("exec", b"top", pty=PtyRequest("xterm", 80, 24)))
    (program,) = recorded.programs
    program.write_output(b"shown")
    recorded.settle()
    channel.resize(100, 40)
    recorded.settle()
    program.write_error(b"wrong")
    recorded.settle()
    program.finish(Exit(7))
    recorded.settle()
    (opened,) = recorded.notes(FrameKind.OPEN)
    assert (opened["kind"], opened["command"]) == ("exec", "top")
    assert [frame.data for frame in recorded.frames(FrameKind.OUTPUT)] == [b"shown"]
    assert [frame.data for frame in recorded.frames(FrameKind.ERROR)] == [b"wrong"]
    (resized,) = recorded.notes(FrameKind.RESIZE)
    assert (resized["columns"], resized["rows"]) == (100, 40)
    (ended,) = recorded.notes(FrameKind.EXIT)
    assert ended["status"] == 7
    assert {frame.channel for frame in recorded.frames(FrameKind.OUTPUT)} == {1}


def test_what_is_typed_is_not_recorded_by_a_proxy() -> None:
    """It cannot see whether the terminal echoes, so it may be a password: the recording says that
    there was input (attack). What is sent to a command is recorded if a role asks.
    """
    remote = Remote(records=True, recording=RecordingPlan(input=True))
    channel = remote.run(ProgramRequest("shell", pty=PtyRequest("xterm", 80, 24)))
    channel.write(b"password")
    remote.settle()
    channel.write(b"more")
    remote.settle()
    assert not remote.frames(FrameKind.INPUT)
    assert len(remote.notes(FrameKind.GAP)) == 1
    channel = remote.run(ProgramRequest("exec", b"cat"))
    channel.write(b"words")
    remote.settle()
    assert [frame.data for frame in remote.frames(FrameKind.INPUT)] == [b"words"]
    remote.close()


def test_a_recorder_that_is_behind(recorded: Remote) -> None:
    """It stops the target, of which one window waits; nothing reaches the client that was not
    observed, and nothing is lost.
    """
    channel = recorded.run(ProgramRequest("shell", pty=PtyRequest("xterm", 80, 24)))
    (program,) = recorded.programs
    recording: Any = recorded.recorder.recordings[0]
    recording.paused = True
    left = 3 * WINDOW
    for _ in range(100):
        left -= program.write_output(bytes(min(left, MIB)))
        recorded.settle()
    assert output(channel) == b""
    assert not recorded.frames(FrameKind.OUTPUT)
    (ours,) = recorded.far.client.service.channels.values()
    assert ours.localWindowLeft == 0
    channel.write(b"input passes")
    recorded.settle()
    assert program.read_input() == b"input passes"
    recording.resume()
    while left:
        left -= program.write_output(bytes(min(left, MIB)))
        recorded.settle()
    program.finish(Exit(3))
    recorded.settle()
    assert len(output(channel)) == 3 * WINDOW
    assert sum(len(frame.data) for frame in recorded.frames(FrameKind.OUTPUT)) == 3 * WINDOW


def test_a_program_ends_while_the_recorder_is_behind(recorded: Remote) -> None:
    """Its end follows its output, in the recording and for the client."""
    channel = recorded.run(ProgramRequest("exec", b"make"))
    (program,) = recorded.programs
    recording: Any = recorded.recorder.recordings[0]
    recording.paused = True
    program.write_output(b"made")
    program.finish(Exit(2))
    recorded.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert (output(channel), ended) == (b"", [])
    recording.resume()
    recorded.settle()
    assert (output(channel), ended) == (b"made", [Exit(2)])


def test_a_program_that_goes_on_after_its_client(recorded: Remote) -> None:
    """Its end is recorded when the target closes the session."""
    channel = recorded.run(ProgramRequest("exec", b"make"))
    (program,) = recorded.programs
    channel.loseConnection()
    recorded.settle()
    assert program.hung_up
    program.finish(Exit(1))
    recorded.settle()
    (ended,) = recorded.notes(FrameKind.EXIT)
    assert ended["status"] is None


# -- output that has to be at auth first ----------------------------------------------
@implementer(ISyncRecording)
class SyncRecording(MemoryRecording):
    """A recording of which auth has what the test says."""

    def __init__(self, start: Any) -> None:
        super().__init__(start)
        self.asked: list[tuple[int, Deferred[None]]] = []

    def synced(self, sequence: int) -> Deferred[None]:
        self.asked.append((sequence, Deferred()))
        return self.asked[-1][1]

    def answer(self) -> None:
        """Auth has all that was asked for."""
        for _, waiting in self.asked[:]:
            self.asked.pop(0)
            waiting.callback(None)


class SyncRecorder(MemoryRecorder):
    """Its recordings wait for the test."""

    def open(self, start: Any) -> Deferred[Any]:
        self.recordings.append(SyncRecording(start))
        return succeed(self.recordings[-1])


@pytest.fixture
def synced() -> Iterator[Remote]:
    """A session whose output goes to the user when auth has it."""
    plan = RecordingPlan(RecordingMode.PROXY_SYNC, sync=True, sync_end_after=timedelta(seconds=60))
    made = Remote(records=True, recorder=SyncRecorder(), recording=plan)
    yield made
    made.close()


def released(remote: Remote) -> None:
    """Auth has all of it."""
    recording: Any = remote.recorder.recordings[0]
    while recording.asked:
        recording.answer()
        remote.settle()


def test_output_waits_for_auth(synced: Remote) -> None:
    """It is recorded at once, and shown when auth has it; input and signals pass; the end follows
    the output.
    """
    channel = synced.run(ProgramRequest("exec", b"make"))
    (program,) = synced.programs
    program.write_output(b"made")
    program.write_error(b"warned")
    channel.write(b"typed")
    channel.signal("INT")
    synced.settle()
    assert channel.received == []
    assert (program.read_input(), program.signals) == (b"typed", ["INT"])
    program.finish(Exit(2))
    synced.settle()
    ended: list[Exit] = []
    channel.ended.addCallback(ended.append)
    assert ended == []
    released(synced)
    assert (output(channel), output(channel, 1)) == (b"made", b"warned")
    assert ended == [Exit(2)]


def test_a_window_waits_for_auth(synced: Remote) -> None:
    """No more than that; then the target stops, and goes on when auth has it. Another session on
    the connection waits for its own output only.
    """
    channel = synced.run(ProgramRequest("exec", b"yes"))
    (program,) = synced.programs
    left = 3 * WINDOW
    for _ in range(40):
        left -= program.write_output(bytes(min(left, MIB)))
        synced.settle()
    assert left > 0
    (ours,) = synced.far.client.service.channels.values()
    assert ours.localWindowLeft == 0
    assert output(channel) == b""
    while left:
        released(synced)
        left -= program.write_output(bytes(min(left, MIB)))
        synced.settle()
    program.finish()
    synced.settle()
    released(synced)
    assert len(output(channel)) == 3 * WINDOW
    assert channel.ended.called


def test_auth_is_away(synced: Remote) -> None:
    """A terminal says so, and that it goes on; after a time the session is over, and what auth
    does not have is never shown.
    """
    channel = synced.run(ProgramRequest("shell", pty=PtyRequest("xterm", 80, 24)))
    (program,) = synced.programs
    program.write_output(b"first")
    synced.settle()
    synced.here.clock.advance(NOTICE_SECONDS)
    synced.settle()
    assert WAITING in output(channel).decode()
    assert b"first" not in output(channel)
    released(synced)
    shown = output(channel).decode()
    assert RESUMED in shown
    assert shown.endswith("first")
    program.write_output(b"second")
    synced.settle()
    synced.here.clock.advance(NOTICE_SECONDS)
    synced.here.clock.advance(60)
    synced.settle()
    assert b"second" not in output(channel)
    assert synced.tape is not None
    assert synced.tape.state is TapeState.ENDED
    released(synced)
    assert b"second" not in output(channel)


def test_a_client_that_leaves_while_output_waits(synced: Remote) -> None:
    """The program is hung up; the end is recorded."""
    channel = synced.run(ProgramRequest("exec", b"make"))
    (program,) = synced.programs
    program.write_output(b"made")
    synced.settle()
    channel.loseConnection()
    synced.settle()
    assert program.hung_up
    released(synced)
    assert not synced.far.client.service.channels
    assert len(synced.notes(FrameKind.EXIT)) == 1


def test_a_flood_of_small_pieces_while_auth_is_away(synced: Remote) -> None:
    """Hundreds of thousands of them cost about as much memory as one of their size (attack)."""
    channel = synced.run(ProgramRequest("exec", b"yes"))
    (there,) = synced.far.server.service.channels.values()
    there.write(b"first")
    synced.settle()
    tracemalloc.start()
    try:
        for _ in range(100):
            for _ in range(1000):
                there.write(b"x")
            synced.settle()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * MIB
    assert output(channel) == b""
    released(synced)
    assert output(channel) == b"first" + b"x" * 100_000
    assert len(synced.frames(FrameKind.OUTPUT)) < 100
