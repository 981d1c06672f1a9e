"""Recording a session: on disk in a second, recovered after a kill, uploaded through outages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied, BadRecording, Conflict, TeleError, Unavailable, Unreachable
from tele.interfaces import IAuthority
from tele.loop import now
from tele.model.api.records import RecordingProgress
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostRole
from tele.model.session import Manifest, RecordingStart
from tele.recording.playback import Source, from_file, schedule
from tele.recording.proof import check_signer
from tele.recording.recorder import FLUSH_SECONDS, TapeRecorder
from tele.recording.spool import Spool
from tele.recording.tee import CAPTURE_LIMIT, ConnectionTape, ProgramTap
from tele.recording.upload import Uploader
from tele.tape.file import write_file
from tele.tape.verify import read_frames
from tele.tape.writer import CUT_AT

HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
CA, KEY = PrivateKey.generate(), PrivateKey.generate()
BEGIN = datetime(2027, 1, 15, 8, tzinfo=UTC)
CERTIFICATE = issue_host(
    CA, KEY.public.blob, HostCertificateRequest(HOST_ID, "web1", "c", HostRole.NODE), BEGIN,
    lambda n: bytes(n),
)  # fmt: skip


def start(recording_id: str | None = None) -> RecordingStart:
    return RecordingStart(
        recording_id or str(uuid.uuid4()), "ssh", "c", "alice", "root", ("access",), "s", "web1",
        HOST_ID, "192.0.2.1:1", BEGIN,
    )  # fmt: skip


class Place:
    """A node's spool and recorder with a fake clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN.timestamp())
        self.spool = Spool(folder)
        self.changes: list[str] = []
        self.recorder = self.restarted()

    def restarted(self) -> TapeRecorder:
        return TapeRecorder(
            self.spool, self.clock, KEY.sign, lambda: CERTIFICATE.line, self.changes.append
        )

    def open(self, begin: RecordingStart | None = None) -> Any:
        opened: list[Any] = []
        self.recorder.open(begin or start()).addBoth(opened.append)
        if isinstance(opened[0], Failure):
            opened[0].raiseException()
        return opened[0]

    def frames(self, recording_id: str) -> list[Frame]:
        folder = self.spool.folder(recording_id)
        chunks = [folder.chunk(n) for n in folder.numbers()]
        return list(read_frames(chunks, folder.manifest, folder.start))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh node."""
    return Place(tmp_path / "spool")


def output(time: int, data: bytes) -> Frame:
    return Frame(time, 1, FrameKind.OUTPUT, data)


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
    assert not place.clock.getDelayedCalls()


def test_a_recorder_that_died_is_followed_by_one_that_closes(place: Place) -> None:
    """What is left of a killed process is closed as recovered, and nothing of it is lost."""
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"before"))
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(2, b"in the last second"))
    # The process is gone: its timers with it.
    for call in place.clock.getDelayedCalls():
        call.cancel()
    assert place.restarted().recover() == [begin.id]
    manifest = place.spool.folder(begin.id).manifest
    assert manifest is not None
    assert manifest.recovered
    check_signer(manifest, {CA.public.blob}, "c")
    frames = place.frames(begin.id)
    assert [f.data for f in frames if f.kind is FrameKind.OUTPUT] == [b"before"]
    assert frames[-1].kind is FrameKind.END
    assert place.restarted().recover() == []


def test_what_left_nothing_behind_is_closed_as_its_session(place: Place) -> None:
    """A process that died before its first chunk was on disk, or whose first chunk was damaged,
    leaves a recording that still says of which session it is.
    """
    begin = start()
    place.open(begin)
    for call in place.clock.getDelayedCalls():
        call.cancel()
    folder = place.spool.folder(begin.id)
    (folder.path / "00000000.chunk").write_bytes(b"damaged")
    assert place.restarted().recover() == [begin.id]
    assert [f.kind for f in place.frames(begin.id)] == [FrameKind.START, FrameKind.END]
    source = Source(
        begin.id, begin, folder.manifest, lambda: (folder.chunk(n) for n in folder.numbers())
    )
    assert source.verify({CA.public.blob}, "c").recovered


@pytest.mark.parametrize("damage", ["cut", "garbage", "temporary"])
def test_a_damaged_last_chunk_does_not_take_the_rest_along(place: Place, damage: str) -> None:
    """A chunk that a crash of the machine damaged is put aside."""
    begin = start()
    recording = place.open(begin)
    for number in range(3):
        recording.write(output(number, b"%d" % number))
        place.clock.advance(FLUSH_SECONDS)
    folder = place.spool.folder(begin.id)
    last = folder.path / f"{folder.numbers()[-1]:08d}.chunk"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:20])
    elif damage == "garbage":
        last.write_bytes(b"\0" * 100)
    else:
        last.rename(folder.path / f".{last.name}")
    place.restarted().recover()
    texts = [f.data for f in place.frames(begin.id) if f.kind is FrameKind.OUTPUT]
    assert texts == [b"0", b"1"]


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
    """Packs when it is told to."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, Future[Any]]] = []

    def __call__(self, work: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.begun.append((work, future))
        return future

    def finish(self) -> None:
        for work, future in self.begun:
            future.set_result(work())
        self.begun = []


def test_a_full_chunk_is_packed_beside_the_session(place: Place) -> None:
    """The session goes on while a chunk is packed; it is on disk a second later, in order."""
    slow = Slow()
    place.recorder.worker = slow
    begin = start()
    recording = place.open(begin)
    data = [bytes((number,)) * 65536 for number in range(2 * CUT_AT // 65536)]
    for number, each in enumerate(data[: len(data) // 2 + 4]):
        recording.write(output(number, each))
    assert len(slow.begun) == 1
    assert place.spool.folder(begin.id).numbers() == [0]  # what the start was written with
    slow.finish()
    for number, each in enumerate(data[len(data) // 2 + 4 :]):
        recording.write(output(100 + number, each))
    slow.finish()
    place.clock.advance(FLUSH_SECONDS)
    written = [f.data for f in place.frames(begin.id) if f.kind is FrameKind.OUTPUT]
    assert written == data
    recording.write(output(200, b"x" * CUT_AT))
    slow.finish()
    closed: list[Any] = []
    recording.close("done").addCallback(closed.append)
    assert closed
    folder = place.spool.folder(begin.id)
    assert folder.manifest is not None
    assert len(folder.manifest.chunks) == len(folder.numbers())
    assert place.frames(begin.id)[-1].kind is FrameKind.END


def test_a_disk_that_is_full_as_a_chunk_is_packed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk that was packed meanwhile is kept until there is room; what came after it is
    counted.
    """
    slow = Slow()
    place.recorder.worker = slow
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"a" * CUT_AT))
    slow.finish()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tele.recording.spool.SpoolFolder.write_chunk", full)
        recording.write(output(2, b"b" * CUT_AT))
        recording.write(output(3, b"lost"))
        place.clock.advance(FLUSH_SECONDS)
    place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    frames = place.frames(begin.id)
    assert b"".join(f.data[:1] for f in frames if f.kind is FrameKind.OUTPUT) == b"aabb"
    gaps = [json.loads(f.data) for f in frames if f.kind is FrameKind.GAP]
    assert [gap["lost"] for gap in gaps] == [{"output": 4}]


def test_kill_loses_at_most_the_last_second(place: Place) -> None:
    """A real process killed in the middle: what is older than a second is recovered."""
    from tele.model.codec import encode

    begin = start()
    child = [sys.executable, "-c", KILLED, str(place.spool.root), encode(begin).decode()]
    assert subprocess.run(child, check=False, timeout=60).returncode == -9
    assert place.recorder.recover() == [begin.id]
    assert b"kept" in [f.data for f in place.frames(begin.id)]


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

    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="No space left"):
        patched.setattr(type(folder), "_write", write)
        place.open(begin)
    assert place.spool.folders() == []
    folder.path.mkdir()
    assert place.restarted().recover() == []
    assert place.spool.folders() == []


# -- what is heard --------------------------------------------------------------------
class Exit:
    """How a program ended."""

    def __init__(self, status: int | None = 0, signal: str | None = None) -> None:
        self.status = status
        self.signal = signal
        self.core = False


def heard(
    place: Place, *, terminal: bool, content: bool = True, record_input: bool = False
) -> tuple[ProgramTap, Callable[[], list[Frame]]]:
    begin = start()
    tape = ConnectionTape(place.recorder, begin, lambda: 5, record_input=record_input)
    Deferred.fromCoroutine(tape.ready())
    tap = ProgramTap(tape, 1, terminal=terminal, content=content)

    def ended() -> list[Frame]:
        tap.exited(Exit())
        tape.close("done")
        return place.frames(begin.id)

    return tap, ended


def total(frames: list[Frame], kind: FrameKind) -> int:
    return sum(len(f.data) for f in frames if f.kind is kind)


def test_a_terminal_is_recorded_whole(place: Place) -> None:
    """However much it shows."""
    tap, ended = heard(place, terminal=True)
    for _ in range(10):
        tap.output(memoryview(bytes(1_000_000)))
    frames = ended()
    assert total(frames, FrameKind.OUTPUT) == 10_000_000
    assert not [f for f in frames if f.kind is FrameKind.GAP]


def test_other_output_is_recorded_up_to_a_limit(place: Place) -> None:
    """What is beyond the limit is counted in a gap."""
    tap, ended = heard(place, terminal=False)
    for _ in range(10):
        tap.output(memoryview(bytes(1_000_000)))
    tap.error(memoryview(b"oops"))
    frames = ended()
    assert total(frames, FrameKind.OUTPUT) == CAPTURE_LIMIT
    assert total(frames, FrameKind.ERROR) == 4
    gap = json.loads(next(f.data for f in frames if f.kind is FrameKind.GAP))
    assert gap["lost"] == {"output": 10_000_000 - CAPTURE_LIMIT}


def test_input_only_if_asked_for(place: Place) -> None:
    """What people type, their passwords among it, is not recorded by default."""
    tap, ended = heard(place, terminal=True)
    tap.input(memoryview(b"secret"))
    assert total(ended(), FrameKind.INPUT) == 0
    tap, ended = heard(place, terminal=True, record_input=True)
    tap.input(memoryview(b"ls\n"))
    assert total(ended(), FrameKind.INPUT) == 3


# -- uploading ------------------------------------------------------------------------
@implementer(IAuthority)
class Auth:
    """Auth in memory; ``fail_next`` operations fail as if it were away."""

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}
        self.manifest: Manifest | None = None
        self.interactive = False
        self.ended: datetime | None = None
        self.calls: list[str] = []
        self.away = False
        self.refuse: TeleError | None = None

    def perform(self, operation: Any, request: Any) -> Deferred[Any]:
        self.calls.append(operation.name)
        if self.away:
            return fail(Unreachable("auth is away"))
        if self.refuse is not None:
            return fail(self.refuse)
        match operation.name:
            case "recording_progress":
                done = self.manifest is not None
                return succeed(RecordingProgress(tuple(sorted(self.chunks)), done))
            case "put_chunk":
                self.chunks[request.number] = request.data
            case "update_recording":
                self.interactive = request.interactive
                self.ended = request.ended
            case "finish_recording":
                self.manifest = request.manifest
        return succeed(None)

    def follow(
        self, operation: Any, request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        return Deferred()


def uploading(place: Place, auth: Auth) -> Uploader:
    uploader = Uploader(place.spool, auth, place.clock)
    place.recorder.changed = uploader.changed
    return uploader


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


def test_auth_is_told_that_a_session_ended_before_all_of_it_is_there(place: Place) -> None:
    """What takes a while to upload does not pass for a session that runs; a short one costs
    no call more.
    """
    for count, told in ((1, False), (4, True)):
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
        Uploader(place.spool, auth, place.clock).start()
        assert auth.manifest is not None
        ends = [at for at, name in enumerate(auth.calls) if name == "update_recording"]
        assert bool(ends) is (told or auth.calls.count("put_chunk") > 1)
        assert all(at < auth.calls.index("put_chunk") for at in ends)
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
    assert not place.clock.getDelayedCalls()
    auth.away = False
    auth.calls.clear()
    again = Uploader(place.spool, auth, place.clock)
    again.start()
    assert auth.manifest is not None
    chunks = [auth.chunks[n] for n in sorted(auth.chunks)]
    frames = read_frames(chunks, auth.manifest, begin)
    texts = [f.data for f in frames if f.kind is FrameKind.OUTPUT]
    assert texts == [b"%d" % n for n in range(10)]
    assert place.spool.folders() == []


def test_tries_are_spaced_out(place: Place) -> None:
    """An auth that is away is not asked again and again."""
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
    """It stands in nobody's way, and it is not thrown away."""
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
    auth.refuse = None
    place.open().close("done")
    assert auth.manifest is not None
    shutil.rmtree(place.spool.root)


def test_a_host_that_is_no_member_for_now_keeps_its_recordings(place: Place) -> None:
    """Removed or locked: it asks seldom, and sends all when it is a member again."""
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
    assert now(place.clock) >= BEGIN
