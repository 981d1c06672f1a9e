"""What a recording says at its start."""

from __future__ import annotations

from datetime import timedelta

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from session_world import LATER, context
from tele.loop import now
from tele.model.access import RecordingPlan
from tele.model.frame import FrameKind
from tele.model.identity import HostIdentity, HostRole
from tele.sessions.tape import make_tape
from tele.testing import MemoryRecorder

HOST = HostIdentity("host-1", "web1", "c", HostRole.NODE, LATER)


def test_the_start_of_a_recording() -> None:
    """It has the user, the login, the host and the moment; frames have nanoseconds since then."""
    clock = Clock()
    clock.advance(1_800_000_000)
    began = now(clock)
    recorder = MemoryRecorder()
    tape = make_tape(clock, recorder, context(recording=RecordingPlan(input=True)), HOST)
    Deferred.fromCoroutine(tape.ready())
    clock.advance(1.5)
    tape.note(0, FrameKind.FORWARD, action="listen")
    (recording,) = recorder.recordings
    start = recording.start
    assert (start.id, start.user, start.login, start.roles) == (
        "session-1", "alice", "root", ("access",),
    )  # fmt: skip
    assert (start.cluster, start.node, start.node_id) == ("c", "web1", "host-1")
    assert (start.remote_addr, start.started) == ("192.0.2.7:50000", began)
    assert recording.frames[-1].time == timedelta(seconds=1.5) // timedelta(microseconds=1) * 1000
    assert tape.record_input
    tape.close("the connection ended")
