"""Recording a session: on disk in a second, recovered after a kill, uploaded through outages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from spool_world import CA, KEY, Auth, Place, output, place, start, uploading
from tele.errors import AccessDenied, BadRecording, Conflict, Unavailable
from tele.model.frame import Frame, FrameKind
from tele.recording.capture import Capture, CaptureLimits
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.playback import Source, from_file, schedule
from tele.recording.program_tap import ProgramTap
from tele.recording.proof import check_signer
from tele.recording.spool import SpoolFolder
from tele.recording.tee import ConnectionTape
from tele.tape.file import write_file
from tele.tape.verify import read_frames
from tele.tape.writer import CUT_AT

__all__ = ["place"]


def test_frames_are_on_disk_within_a_second(place: Place) -> None:
    """Without anything being closed, what was written a second ago can be read."""
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"hello"))
    place.clock.advance(FLUSH_SECONDS)
    assert [f.data for f in place.frames(begin.id) if f.kind is FrameKind.OUTPUT] == [b"hello"]
    recording.close("done")


def test_a_closed_recording_is_signed_and_whole(place: Place) -> None:
    """The manifest names every chunk and is signed by the host's key."""
    begin = start()
    recording = place.open(begin)
    for number in range(5):
        recording.write(output(number, b"x" * 100))
        place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    manifest = place.spool.folder(begin.id).manifest
    assert manifest is not None
    assert (manifest.recovered, manifest.interactive, manifest.frames) == (False, False, 7)
    check_signer(manifest, {CA.public.blob}, "c")
    with pytest.raises(BadRecording):
        check_signer(manifest, {KEY.public.blob}, "c")
    with pytest.raises(BadRecording):
        check_signer(evolve(manifest, frames=6), {CA.public.blob}, "c")
    place.clock.advance(FLUSH_SECONDS)
    assert not place.clock.getDelayedCalls()


KILLED = """
import os, signal, sys
from pathlib import Path
from datetime import UTC, datetime
from twisted.internet import reactor
from tele.certs.keys import PrivateKey
from tele.model.codec import decode
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import Spool
key = PrivateKey.generate()
recorder = TapeRecorder(Spool(Path(sys.argv[1])), reactor, key.sign, lambda: "x")
def opened(recording):
    recording.write(Frame(1, 1, FrameKind.OUTPUT, b"kept"))
    reactor.callLater(1.2, lambda: (recording.write(Frame(2, 1, FrameKind.OUTPUT, b"x" * 9)),
                                    os.kill(os.getpid(), signal.SIGKILL)))
recorder.open(decode(RecordingStart, sys.argv[2].encode())).addCallback(opened)
reactor.run()
"""


class Slow:
    """A disk whose writes the test completes; stands for a thread that waits for it."""

    def __init__(self, place: Place) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        recorder: Any = place.recorder
        recorder.writer = recorder.commit._writer = self

    def call(self, function: Callable[..., Any], *words: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.waiting.append((lambda: function(*words), answer))
        return answer

    def go_on(self) -> None:
        while self.waiting:
            job, answer = self.waiting.pop(0)
            try:
                answer.callback(job())
            except Exception as error:
                answer.errback(error)


def test_a_slow_disk_makes_a_session_wait(place: Place) -> None:
    """While a chunk waits for the disk the next one fills; a session that is faster than that
    waits, nothing of it is lost, and it goes on when the disk has taken the chunk.
    """
    begin = start()
    recording = place.open(begin)
    slow = Slow(place)
    data = [bytes((number,)) * 65536 for number in range(2 * CUT_AT // 65536)]
    for number, each in enumerate(data[: len(data) // 2]):
        recording.write(output(number, each))
    assert len(slow.waiting) == 1
    assert not recording.paused
    for number, each in enumerate(data[len(data) // 2 :], 100):
        recording.write(output(number, each))
    assert recording.paused
    resumed: list[str] = []
    recording.when_resumed(lambda: resumed.append("resumed"))
    assert resumed == []
    slow.go_on()
    assert resumed == ["resumed"]
    recording.write(output(200, b"after"))
    closed: list[Any] = []
    recording.close("done").addCallback(closed.append)
    slow.go_on()
    place.clock.advance(FLUSH_SECONDS)
    slow.go_on()
    assert closed == [None]
    shown = [f.data for f in place.frames(begin.id) if f.kind is FrameKind.OUTPUT]
    assert shown == [*data, b"after"]


def test_what_cannot_be_paused_is_counted(place: Place) -> None:
    """Memory stays bounded where something cannot be made to wait; the gap says why."""
    begin = start()
    recording = place.open(begin)
    slow = Slow(place)
    for number in range(8 * CUT_AT // 65536):
        recording.write(output(number, bytes(65536)))
    assert recording._writer.waiting <= 3 * CUT_AT
    slow.go_on()
    place.clock.advance(FLUSH_SECONDS)
    slow.go_on()
    recording.close("done")
    slow.go_on()
    gaps = [json.loads(f.data) for f in place.frames(begin.id) if f.kind is FrameKind.GAP]
    assert [gap["reason"] for gap in gaps] == ["the disk was too slow"]


def test_all_recordings_are_written_and_synced_together(place: Place) -> None:
    """A hundred sessions cost one pass and one sync a period, and none when nothing happens."""
    recordings = [place.open() for _ in range(100)]
    place.clock.advance(FLUSH_SECONDS)
    place.syncs = 0
    for recording in recordings:
        recording.write(output(1, b"x"))
    assert len(place.clock.getDelayedCalls()) == 1
    place.clock.advance(FLUSH_SECONDS)
    assert place.syncs == 1
    place.clock.advance(60)
    assert place.syncs == 1
    for recording in recordings:
        recording.close("done")
    place.clock.advance(FLUSH_SECONDS)
    assert place.syncs == 2


def test_a_recording_is_safe_after_it_was_synced(place: Place) -> None:
    """Its end is acknowledged when it would survive a power cut, not before; a sync that fails
    is tried again.
    """
    recording = place.open()
    safe: list[Any] = []
    problem = OSError(5, "Input/output error")

    def fails(_: int) -> None:
        raise problem

    sound, place.spool._sync = place.spool._sync, fails
    recording.close("done").addCallback(safe.append)
    place.clock.pump([FLUSH_SECONDS] * 3)
    assert safe == []
    place.spool._sync = sound
    place.clock.advance(FLUSH_SECONDS)
    assert safe == [None]


def test_a_recorder_that_stops_syncs_first(place: Place) -> None:
    """What was written last is written and synced when the node stops, without waiting."""
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"last words"))
    place.syncs = 0
    safe: list[Any] = []
    recording.close("done").addCallback(safe.append)
    stopped: list[Any] = []
    place.recorder.close().addCallback(stopped.append)
    assert (safe, stopped, place.syncs) == ([None], [None], 1)
    assert not place.clock.getDelayedCalls()


def test_it_ends_after_its_start_however_the_clock_is_set(place: Place) -> None:
    """The end is the start and what the session lasted; a clock that was set back by a day makes
    no recording that ends before it starts.
    """
    begin = start()
    recording = place.open(begin)
    recording.write(output(2_000_000_000, b"two seconds after the start"))
    place.clock.advance(3)
    begun = datetime.fromtimestamp

    class SetBack(datetime):
        @classmethod
        def fromtimestamp(cls, seconds: float, tz: Any = None) -> Any:
            return begun(seconds - 86400, tz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tele.loop.datetime", SetBack)
        recording.close("done")
    manifest = place.folder(begin.id).manifest
    assert manifest is not None
    assert (manifest.ended - begin.started).total_seconds() == 5
    assert place.frames(begin.id)[-1].time == 5_000_000_000


def test_kill_loses_at_most_the_last_second(place: Place) -> None:
    """A real process killed in the middle: what is older than a second is recovered."""
    from tele.model.codec import encode

    begin = start()
    child = [sys.executable, "-c", KILLED, str(place.spool.root), encode(begin).decode()]
    assert subprocess.run(child, check=False, timeout=60).returncode == -9
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown()[0] == b"kept"


def test_a_full_disk_is_counted_and_survived(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session goes on; what was dropped is in a gap once there is room."""
    begin = start()
    recording = place.open(begin)
    full = True

    def write(self: Any, name: str, data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        original(self, name, data)

    original: Callable[..., None] = type(place.spool.folder(begin.id))._write
    monkeypatch.setattr(type(place.spool.folder(begin.id)), "_write", write)
    recording.write(output(1, b"held back"))
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(2, b"dropped"))
    recording.write(output(3, b"dropped too"))
    full = False
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(4, b"after"))
    recording.close("done")
    frames = place.frames(begin.id)
    gap = json.loads(next(f.data for f in frames if f.kind is FrameKind.GAP))
    assert gap["lost"] == {"output": 18}
    assert [f.data for f in frames if f.kind is FrameKind.OUTPUT] == [b"held back", b"after"]


def test_a_session_that_ends_on_a_full_disk_is_closed_when_there_is_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No restart is needed: gap, end and manifest follow, and only then is it safe."""
    begin = start()
    recording = place.open(begin)
    folder = place.spool.folder(begin.id)
    full = True

    def write(self: Any, name: str, data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        original(self, name, data)

    original: Callable[..., None] = type(folder)._write
    monkeypatch.setattr(type(folder), "_write", write)
    recording.write(output(1, b"held back"))
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(2, b"dropped"))
    safe: list[Any] = []
    recording.close("done").addBoth(safe.append)
    place.clock.pump([FLUSH_SECONDS] * 3)
    assert safe == []
    full = False
    place.clock.advance(FLUSH_SECONDS)
    assert safe == [], "it is not synced yet"
    place.clock.advance(FLUSH_SECONDS)
    assert safe == [None]
    assert place.clock.getDelayedCalls() == []
    manifest = folder.manifest
    assert manifest is not None
    assert not manifest.recovered
    check_signer(manifest, {CA.public.blob}, "c")
    kinds = [f.kind for f in place.frames(begin.id)]
    assert kinds == [FrameKind.START, FrameKind.OUTPUT, FrameKind.GAP, FrameKind.END]
    assert manifest.frames == len(kinds)


def test_what_never_began_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the session is refused, and its folder is gone; one of a kill goes later."""
    begin = start()
    folder = place.spool.folder(begin.id)

    def write(self: Any, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="the disk was full"):
        patched.setattr(type(folder), "_write", write)
        place.open(begin)
    assert place.spool.folders() == []
    folder.path.mkdir()
    place.recover(Auth())
    assert place.spool.folders() == []


# -- what is tapped -------------------------------------------------------------------
LIMITS = CaptureLimits(head=10_000, tail=700)


class Exit:
    """How a program ended."""

    def __init__(self, status: int | None = 0, signal: str | None = None) -> None:
        self.status = status
        self.signal = signal
        self.core = False


def tapped(
    place: Place, *, terminal: bool, content: bool = True, record_input: bool = False
) -> tuple[ProgramTap, Callable[[], list[Frame]]]:
    begin = start()
    tape = ConnectionTape(place.recorder, begin, lambda: 5, record_input=record_input)
    Deferred.fromCoroutine(tape.ready())
    tap = ProgramTap(tape, 1, LIMITS, terminal=terminal, content=content)

    def ended() -> list[Frame]:
        tap.exited(Exit())
        tape.close("done")
        return place.frames(begin.id)

    return tap, ended


def total(frames: list[Frame], kind: FrameKind) -> int:
    return sum(len(f.data) for f in frames if f.kind is kind)


def test_a_terminal_is_recorded_whole(place: Place) -> None:
    """However much it shows."""
    tap, ended = tapped(place, terminal=True)
    for _ in range(10):
        tap.output(memoryview(bytes(1_000_000)))
    frames = ended()
    assert total(frames, FrameKind.OUTPUT) == 10_000_000
    assert not [f for f in frames if f.kind is FrameKind.GAP]


def test_other_output_is_recorded_up_to_a_limit(place: Place) -> None:
    """Beginning and end are there; what lies between is a gap, and the whole has a SHA-256."""
    tap, ended = tapped(place, terminal=False)
    pieces = [bytes([number]) * 1_000 for number in range(250)]
    for piece in pieces:
        tap.output(memoryview(piece))
    tap.error(memoryview(b"oops"))
    frames, whole = ended(), b"".join(pieces)
    kinds = [f.kind for f in frames if f.kind is not FrameKind.ERROR]
    middle = kinds.index(FrameKind.GAP)
    head, tail = (
        b"".join(f.data for f in part if f.kind is FrameKind.OUTPUT)
        for part in (frames[:middle], frames[middle:])
    )
    assert (head, tail) == (whole[: LIMITS.head], whole[-LIMITS.tail :])
    assert total(frames, FrameKind.ERROR) == 4
    gap = json.loads(next(f.data for f in frames if f.kind is FrameKind.GAP))
    assert gap["lost"] == {"output": len(whole) - LIMITS.head - LIMITS.tail}
    assert [json.loads(f.data) for f in frames if f.kind is FrameKind.CAPTURE] == [
        {"stream": "output", "bytes": len(whole), "head": LIMITS.head, "tail": LIMITS.tail,
         "sha256": sha256(whole).hexdigest()},
        {"stream": "error", "bytes": 4, "head": 4, "tail": 0,
         "sha256": sha256(b"oops").hexdigest()},
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, LIMITS.head, LIMITS.head + 1, LIMITS.head + LIMITS.tail])
@pytest.mark.parametrize("piece", [1, 1_000, 100_000])
def test_output_within_the_limit_has_no_gap(place: Place, size: int, piece: int) -> None:
    """All of it is recorded, in order, whatever pieces it comes in."""
    tap, ended = tapped(place, terminal=False)
    whole = bytes(number % 251 for number in range(size))
    for at in range(0, size, piece):
        tap.output(memoryview(whole)[at : at + piece])
    frames = ended()
    assert b"".join(f.data for f in frames if f.kind is FrameKind.OUTPUT) == whole
    assert not [f for f in frames if f.kind is FrameKind.GAP]


@pytest.mark.parametrize("head", [0, 10, 1_000])
@pytest.mark.parametrize("tail", [0, 7, 64, 1_000])
def test_a_batch_is_kept_as_its_pieces_are(head: int, tail: int) -> None:
    """Head, tail, length and SHA-256 are the same whether pieces come alone or many at once, though
    of many only those at the end are copied.
    """
    whole = bytes(number % 251 for number in range(700))
    pieces = [memoryview(whole)[at : at + 35] for at in range(0, len(whole), 35)]
    alone = Capture(CaptureLimits(head, tail))
    recorded = b"".join(bytes(view) for piece in pieces for view in alone.take(piece))
    for batch in (2, 3, len(pieces)):
        capture = Capture(CaptureLimits(head, tail))
        kept = b""
        for at in range(0, len(pieces), batch):
            kept += b"".join(capture.take(*pieces[at : at + batch]))
        assert kept == recorded == whole[:head]
        assert capture.end() == alone.end()
        assert capture.end().tail == whole[head:][max(0, len(whole[head:]) - tail) :]


def test_input_of_a_command_is_kept_as_its_output_is(place: Place) -> None:
    """Only if a role asks for it, within the limits, with a SHA-256."""
    tap, ended = tapped(place, terminal=False, record_input=True)
    tap.input(memoryview(bytes(10_000)))
    captured = [json.loads(f.data) for f in ended() if f.kind is FrameKind.CAPTURE]
    assert [each["bytes"] for each in captured if each["stream"] == "input"] == [10_000]
    tap, ended = tapped(place, terminal=False)
    tap.input(memoryview(b"secret"))
    frames = ended()
    assert total(frames, FrameKind.INPUT) == 0
    assert {json.loads(f.data)["stream"] for f in frames if f.kind is FrameKind.CAPTURE} == {
        "output",
        "error",
    }


def test_input_of_a_terminal_only_as_far_as_it_showed(place: Place) -> None:
    """And only if a role asks. What arrives is not what the terminal took; what it did not show is
    a gap, once, that does not say how much.
    """
    tap, ended = tapped(place, terminal=True)
    tap.input(memoryview(b"secret"))
    assert not tap.wants_typed
    assert total(ended(), FrameKind.INPUT) == 0
    tap, ended = tapped(place, terminal=True, record_input=True)
    assert tap.wants_typed
    tap.input(memoryview(b"ls\nsecret\n"))
    tap.typed(b"ls\n")
    tap.typed_hidden()
    tap.typed_hidden()
    frames = ended()
    assert total(frames, FrameKind.INPUT) == 3
    (gap,) = [json.loads(f.data) for f in frames if f.kind is FrameKind.GAP]
    assert gap["lost"] == {}


# -- uploading ------------------------------------------------------------------------
def test_chunks_are_uploaded_while_the_session_runs(place: Place) -> None:
    """Auth has what is older than a second; the spool is empty when all is there."""
    auth = Auth()
    uploading(place, auth)
    begin = start()
    recording = place.open(begin)
    opened = b'{"kind": "shell", "pty": {"term": "x"}}'
    recording.write(Frame(0, 1, FrameKind.OPEN, opened))
    recording.write(output(1, b"live"))
    place.clock.advance(FLUSH_SECONDS)
    assert [f.data for f in read_frames(list(auth.chunks.values()), None, begin)][-1] == b"live"
    assert auth.calls.count("update_recording") == 1
    assert "finish_recording" not in auth.calls
    recording.close("done")
    assert auth.manifest is not None
    assert auth.interactive
    assert place.spool.folders() == []


def test_chunks_leave_the_spool_when_auth_has_them(place: Place) -> None:
    """A session that shows much for long takes no more of the disk than auth does not have yet;
    its manifest names every chunk all the same.
    """
    auth = Auth()
    uploading(place, auth)
    begin = start()
    recording = place.open(begin)
    folder = place.folder(begin.id)
    for number in range(50):
        recording.write(output(number, b"x" * 1000))
        place.clock.advance(FLUSH_SECONDS)
        assert folder.numbers() == []
    assert place.recorder.shares.total == 0
    assert folder.size < 8192
    recording.close("done")
    assert auth.verify().chunks == 52
    assert place.spool.folders() == []


def test_memory_of_a_recording_does_not_grow(place: Place) -> None:
    """A session that lasts for days holds no list of its chunks, neither itself nor what makes
    them.
    """
    recording = place.open()
    for number in range(300):
        recording.write(output(number, b"x"))
        place.clock.advance(FLUSH_SECONDS)
    for holder in (recording, recording._writer):
        for name, value in vars(holder).items():
            assert not hasattr(value, "__len__") or len(value) < 64, name
    recording.close("done")


def test_the_end_of_a_session_is_reported_before_its_upload_is_complete(place: Place) -> None:
    """What takes a while to upload does not pass for a session that runs; a short one costs
    no call more.
    """
    for count, reported in ((1, False), (4, True)):
        auth = Auth()
        uploader = uploading(place, auth)
        auth.away = True
        recording = place.open()
        for number in range(count):
            recording.write(output(number, b"x"))
            if number:
                place.clock.advance(FLUSH_SECONDS)
        recording.close("done")
        uploader.stop()
        auth.away = False
        auth.calls.clear()
        place.recover(auth)
        assert auth.manifest is not None
        ends = [at for at, name in enumerate(auth.calls) if name == "update_recording"]
        assert bool(ends) is (reported or len(auth.chunks) > 1)
        assert all(at < auth.calls.index("put_chunks") for at in ends)
        assert auth.ended == (manifest_end(auth) if ends else None)


def manifest_end(auth: Auth) -> datetime:
    assert auth.manifest is not None
    return auth.manifest.ended


def test_an_outage_loses_nothing(place: Place) -> None:
    """Auth away in the middle, and another process afterwards: all chunks, each once."""
    auth = Auth()
    uploader = uploading(place, auth)
    begin = start()
    recording = place.open(begin)
    for number in range(10):
        auth.away = 3 <= number < 8
        recording.write(output(number, b"%d" % number))
        place.clock.advance(FLUSH_SECONDS)
    auth.away = True
    recording.close("done")
    uploader.stop()
    place.clock.advance(FLUSH_SECONDS)
    assert not place.clock.getDelayedCalls()
    auth.away = False
    auth.calls.clear()
    place.recover(auth)
    assert auth.manifest is not None
    chunks = [auth.chunks[n] for n in sorted(auth.chunks)]
    frames = read_frames(chunks, auth.manifest, begin)
    texts = [f.data for f in frames if f.kind is FrameKind.OUTPUT]
    assert texts == [b"%d" % n for n in range(10)]
    assert place.spool.folders() == []


def test_tries_are_spaced_out(place: Place) -> None:
    """An auth that is away is called with pauses."""
    auth = Auth()
    auth.away = True
    uploader = uploading(place, auth)
    recording = place.open()
    recording.close("done")
    for _ in range(600):
        place.clock.advance(0.1)
    assert 4 <= len(auth.calls) <= 20
    uploader.stop()


def test_what_is_refused_for_good_is_put_aside(place: Place) -> None:
    """It blocks no other recording, and it is not deleted."""
    auth = Auth()
    auth.refuse = Conflict("other bytes")
    uploading(place, auth)
    begin = start()
    recording = place.open(begin)
    place.clock.advance(60)
    recording.close("done")
    place.clock.advance(60)
    assert place.spool.folders() == []
    assert (place.spool.root / f"refused-{begin.id}" / "manifest.json").exists()
    assert "update_recording" in auth.calls, "auth learns that it stays incomplete"
    auth.refuse = None
    place.open().close("done")
    assert auth.manifest is not None
    shutil.rmtree(place.spool.root)


def test_what_was_removed_at_auth_goes_when_the_session_ends(place: Place) -> None:
    """A recording that was removed while it was written causes no error, and is not sent again."""
    auth = Auth()
    uploading(place, auth)
    begin = start()
    recording = place.open(begin)
    place.clock.advance(FLUSH_SECONDS)
    auth.removed, auth.chunks = True, {}
    for number in range(20):
        recording.write(output(number, b"goes on"))
        place.clock.advance(FLUSH_SECONDS)
    assert place.folder(begin.id).numbers()
    recording.close("done")
    place.clock.pump([1.0] * 60)
    assert place.spool.folders() == []
    assert list(place.spool.root.glob("refused-*")) == []
    assert auth.chunks == {}


def test_a_host_that_is_no_member_for_now_keeps_its_recordings(place: Place) -> None:
    """Removed or locked: it calls auth seldom, and sends all when it is a member again."""
    auth = Auth()
    auth.refuse = AccessDenied("no member any more", "removed")
    uploading(place, auth)
    place.open().close("done")
    place.clock.pump([1.0] * 60)
    assert len(place.spool.folders()) == 1
    assert len(auth.calls) <= 2
    auth.refuse = None
    place.clock.pump([1.0] * 120)
    assert auth.manifest is not None
    assert place.spool.folders() == []


# -- reading back ---------------------------------------------------------------------
def test_a_file_gives_the_same_recording(place: Place, tmp_path: Path) -> None:
    """Exported and read again it still verifies; with a byte changed it does not."""
    begin = start()
    recording = place.open(begin)
    recording.write(output(1_000_000_000, b"one"))
    recording.write(output(9_000_000_000, b"two"))
    recording.close("done")
    folder = place.spool.folder(begin.id)
    source = Source(
        begin.id, begin, folder.manifest, lambda: (folder.chunk(n) for n in folder.numbers())
    )
    path = tmp_path / "r.tape"
    path.write_bytes(b"".join(write_file(source.blobs())))
    again = from_file(path)
    assert again.verify({CA.public.blob}, "c").complete
    assert list(again.frames()) == list(source.frames())
    steps = list(schedule(again.frames(), 1, 2.0))
    assert [(s.wait, s.frame.data) for s in steps] == [(0.0, b"one"), (2.0, b"two")]
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadRecording):
        from_file(path).verify({CA.public.blob}, "c")


def test_output_that_comes_while_a_chunk_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk on its way to the disk is no reason to drop what the session shows meanwhile."""
    begin = start()
    recording = place.open(begin)
    write_chunk = SpoolFolder.write_chunk
    late = [b"two", b"three"]

    def slowly(folder: SpoolFolder, number: int, data: bytes) -> None:
        if late:
            recording.write(output(2, late.pop(0)))
        write_chunk(folder, number, data)

    monkeypatch.setattr(SpoolFolder, "write_chunk", slowly)
    recording.write(output(1, b"one"))
    for _ in range(4):
        place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    frames = place.frames(begin.id)
    assert [f.data for f in frames if f.kind is FrameKind.OUTPUT] == [b"one", b"two", b"three"]
    assert FrameKind.GAP not in [f.kind for f in frames]


def test_attack_a_program_that_writes_byte_by_byte() -> None:
    """What is kept of the end of a stream is as large as that, however small its pieces are: a
    piece of its own costs forty times its byte.
    """
    capture = Capture(CaptureLimits(head=0, tail=64_000))
    tracemalloc.start()
    try:
        for number in range(200_000):
            capture.take(memoryview(bytes((number % 251,))))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 200_000
    assert capture.end().tail == bytes(number % 251 for number in range(136_000, 200_000))
