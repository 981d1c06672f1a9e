"""Recording when disk, descriptors or a user's share run out: ends are kept, reasons are true."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred

from spool_world import Auth, Place, output, place, start, uploading
from tele.errors import Unavailable
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.share import USER_LEAST
from tele.recording.spool import RESERVE, RESERVE_STEP, SpoolFolder
from tele.recording.tee import ConnectionTape

__all__ = ["place"]


@define
class Disk:
    """The spool's disk. ``problem`` is an errno or 0; ``reserved`` is what a full one gives."""

    reserve: Path
    problem: int = 0
    only: str = ""
    written: list[str] = field(factory=list)

    def check(self, name: str) -> None:
        """Raise as the kernel does, unless space was released for it."""
        if self.problem and self.only in name:
            if self.problem == errno.ENOSPC and self.reserve.stat().st_size < RESERVE:
                return
            raise OSError(self.problem, os.strerror(self.problem))


@pytest.fixture
def disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that can be filled, with a real reserve on it."""
    made = Disk(place.spool.reserve._path)
    original = SpoolFolder._write

    def write(self: SpoolFolder, name: str, data: bytes) -> None:
        made.check(name)
        original(self, name, data)

    monkeypatch.setattr(SpoolFolder, "_write", write)
    yield made
    place.spool.reserve.close()


def gaps(place: Place, recording_id: str) -> list[dict[str, Any]]:
    """Return what the gaps of a recording say."""
    return [json.loads(f.data) for f in place.frames(recording_id) if f.kind is FrameKind.GAP]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (errno.EDQUOT, "the disk quota was used up"),
        (errno.EMFILE, "the process had no file descriptors left"),
        (errno.ENFILE, "the machine had no file descriptors left"),
        (errno.EACCES, "permission was denied"),
        (errno.EIO, "the disk failed"),
        (errno.ENOSPC, "the disk was full"),
    ],
)
def test_a_gap_has_the_true_reason(place: Place, disk: Disk, problem: int, reason: str) -> None:
    """What kept output from the recording is what the gap says, not always a full disk."""
    begin = start()
    recording = place.open(begin)
    disk.problem = problem
    recording.write(output(1, b"held back"))
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(2, b"dropped"))
    disk.problem = 0
    place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    lost = {"lost": {"output": 7}, "reason": reason, "frames": [[2, 2]]}
    assert gaps(place, begin.id) == [lost]


def test_a_gap_has_all_its_reasons(place: Place, disk: Disk) -> None:
    """A gap that began with one reason and went on with another names both."""
    begin = start()
    recording = place.open(begin)
    for problem in (errno.EMFILE, errno.EIO):
        disk.problem = problem
        recording.write(output(1, b"x"))
        place.clock.advance(FLUSH_SECONDS)
    disk.problem = 0
    place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    (gap,) = gaps(place, begin.id)
    assert gap["reason"] == "the process had no file descriptors left; the disk failed"


def test_the_end_is_written_on_a_full_disk(place: Place, disk: Disk) -> None:
    """A session that ends on a full disk is closed and signed at once, with reserved space; its
    output did not use any of it.
    """
    begin = start()
    recording = place.open(begin)
    disk.problem = errno.ENOSPC
    for number in range(5):
        recording.write(output(number, b"x" * 100))
        place.clock.advance(FLUSH_SECONDS)
    assert disk.reserve.stat().st_size == RESERVE, "output does not use the reserve"
    safe: list[Any] = []
    recording.close("done").addBoth(safe.append)
    place.clock.advance(FLUSH_SECONDS)
    assert safe == [None]
    kinds = [f.kind for f in place.frames(begin.id)]
    assert kinds == [FrameKind.START, FrameKind.OUTPUT, FrameKind.GAP, FrameKind.END]
    assert disk.reserve.stat().st_size == RESERVE - RESERVE_STEP
    assert place.clock.getDelayedCalls() == []


def test_auth_knows_of_an_end_that_cannot_be_written(place: Place, disk: Disk) -> None:
    """A session that ended is not shown as running until its disk takes the end of the recording:
    auth receives the end at once, and the rest when the disk takes it.
    """
    begin, auth = start(), Auth()
    uploading(place, auth)
    recording = place.open(begin)
    disk.problem = errno.EROFS
    place.clock.advance(5)
    assert auth.ended is None
    recording.close("done")
    assert auth.ended == begin.started + timedelta(seconds=5)
    assert auth.manifest is None
    disk.problem = 0
    place.clock.advance(FLUSH_SECONDS)
    assert auth.verify().complete
    closed = auth.source().manifest
    assert closed is not None
    assert closed.ended == auth.ended


def test_no_new_session_while_the_reserve_is_used(
    place: Place, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of the reserve is for sessions that run: none begins until it is whole."""
    recording = place.open()
    disk.problem = errno.ENOSPC
    recording.write(output(1, b"x"))
    place.clock.advance(FLUSH_SECONDS)
    recording.close("done")

    def no_space(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(Unavailable, match="no space for its end"):
            place.open()
    disk.problem = 0
    place.open().close("done")


@pytest.mark.parametrize("only", ["start.json", "00000000.chunk"])
@pytest.mark.parametrize("problem", [errno.EMFILE, errno.EIO, errno.ENOSPC])
def test_a_session_that_cannot_be_recorded_does_not_begin(
    place: Place, disk: Disk, only: str, problem: int
) -> None:
    """If not even its first chunk can be written the session is refused, and nothing stays."""
    disk.problem, disk.only = problem, only
    with pytest.raises(Unavailable, match="cannot be recorded: the "):
        place.open()
    assert place.spool.folders() == []
    assert place.changes == []
    assert place.clock.getDelayedCalls() == []


def test_a_recording_that_failed_to_open_is_tried_again(place: Place, disk: Disk) -> None:
    """All that wait for it get the reason, and a later call does not wait for ever."""
    opening: list[Deferred[Any]] = []

    class Later:
        def open(self, begin: RecordingStart) -> Deferred[Any]:
            opening.append(Deferred())
            return opening[-1]

    recorder: Any = Later()
    tape = ConnectionTape(recorder, start(), lambda: 0)
    results: list[Any] = []
    for _ in range(2):
        Deferred.fromCoroutine(tape.ready()).addErrback(lambda f: results.append(f.value))
    opening[0].errback(Unavailable("the session cannot be recorded: Too many open files"))
    assert [str(error)[-19:] for error in results] == ["Too many open files"] * 2
    Deferred.fromCoroutine(tape.ready()).addCallback(results.append)
    opening[1].callback(place.open())
    assert results[2:] == [None]
    tape.close("done")


def test_a_user_has_a_share_of_the_disk(
    place: Place, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose recordings hold a quarter of the disk waits; nothing is lost, others go on, and
    it goes on when auth has taken what was there.
    """
    free = SimpleNamespace(f_bavail=4, f_frsize=USER_LEAST)
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    mine = place.open()
    shares = place.recorder.shares
    for number in range(20):
        mine.write(output(number, os.urandom(USER_LEAST // 8)))
        place.clock.advance(FLUSH_SECONDS)
    assert mine.paused
    resumed: list[str] = []
    mine.when_resumed(lambda: resumed.append("mine"))
    other = start()
    theirs = place.open(RecordingStart(**{**_fields(other), "user": "bob"}))
    theirs.write(output(1, b"x"))
    place.clock.advance(FLUSH_SECONDS)
    assert not theirs.paused
    assert resumed == []
    free.f_bavail = 1 << 10
    place.clock.advance(FLUSH_SECONDS)
    assert resumed == ["mine"]
    assert not mine.paused
    for recording in (mine, theirs):
        recording.close("done")
    assert shares._by_user.keys() == {"alice", "bob"}
    for folder in place.spool.folders():
        shares.forget(folder.id)
    assert not shares._by_user
    place.clock.advance(FLUSH_SECONDS)
    assert place.clock.getDelayedCalls() == []


def test_a_disk_that_others_filled_delays_no_session(
    place: Place, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that holds little goes on, also if no other holds anything: there is a gap."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=1))
    recording = place.open()
    for number in range(20):
        recording.write(output(number, os.urandom(512)))
        place.clock.advance(FLUSH_SECONDS)
    assert not recording.paused
    recording.close("done")


def test_a_disk_whose_space_is_unknown(
    place: Place, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a frame never raises, also when the size of the disk is not to be had."""

    def fails(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "statvfs", fails)
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"x"))
    place.clock.advance(FLUSH_SECONDS)
    assert not recording.paused
    recording.close("done")
    assert gaps(place, begin.id) == []


def _fields(begin: RecordingStart) -> dict[str, Any]:
    return {name: getattr(begin, name) for name in type(begin).__annotations__}


USED_UP = """
import os, sys
from pathlib import Path
from twisted.internet.task import Clock
from tele.capacity.descriptors import process_budget
from tele.certs.keys import PrivateKey
from tele.model.codec import decode
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.recorder import TapeRecorder
from tele.recording.share import USER_LEAST
from tele.recording.spool import Spool
process_budget()
clock, key = Clock(), PrivateKey.generate()
recorder = TapeRecorder(Spool(Path(sys.argv[1])), clock, key.sign, lambda: "x")
while True:
    try:
        os.open(os.devnull, os.O_RDONLY)
    except OSError:
        break
def opened(recording):
    for number in range(9):
        recording.write(Frame(number, 1, FrameKind.OUTPUT, b"kept %d" % number))
        clock.advance(1)
    recording.close("done").addCallback(lambda _: print("closed"))
    clock.advance(1)
recorder.open(decode(RecordingStart, sys.argv[2].encode())).addCallback(opened)
"""


def test_recording_without_any_descriptor_left(tmp_path: Path) -> None:
    """A process whose descriptors are all used up begins, goes on with and ends a recording, and
    loses nothing of it.
    """
    from tele.model.codec import encode

    begin = start()
    words = ["prlimit", "--nofile=128:128", sys.executable, "-c", USED_UP, str(tmp_path / "spool")]
    words.append(encode(begin).decode())
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("closed\n", "")
    there = Place(tmp_path / "spool")
    frames: list[Frame] = there.frames(begin.id)
    assert [f.data for f in frames if f.kind is FrameKind.OUTPUT] == [
        b"kept %d" % n for n in range(9)
    ]
    assert not [f for f in frames if f.kind is FrameKind.GAP]
