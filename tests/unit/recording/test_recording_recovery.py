"""Recordings whose recorder is gone: they are closed with what the spool and auth have."""

from __future__ import annotations

import errno
import json
import os
import uuid
from typing import Any

import pytest

from spool_world import Auth, Place, lose, output, place, start, uploading
from tele.errors import Unavailable
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.leftovers import NOT_WRITTEN
from tele.recording.recovery import GIVEN_UP
from tele.recording.spool import RESERVE, RESERVE_STEP, SpoolFolder

__all__ = ["place"]

MILLISECOND = 1_000_000


def run(place: Place, begin: RecordingStart, seconds: int) -> Any:
    """Let a session show its seconds, one after the other, and return its recording."""
    recording = place.open(begin)
    for number in range(1, seconds + 1):
        recording.write(output(number * MILLISECOND, b"%d" % number))
        place.clock.advance(FLUSH_SECONDS)
    return recording


def gaps(auth: Auth) -> list[dict[str, Any]]:
    return [json.loads(f.data) for f in auth.frames() if f.kind is FrameKind.GAP]


def test_a_recorder_that_died_is_followed_by_one_that_closes(place: Place) -> None:
    """What is left of a killed process is closed as recovered, and nothing of it is lost."""
    begin = start()
    recording = run(place, begin, 2)
    recording.write(output(9, b"in the last second"))
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2"]
    assert auth.frames()[-1].kind is FrameKind.END
    assert place.spool.folders() == []


def test_it_waits_for_auth(place: Place) -> None:
    """Nothing is closed before auth has said what it has: else both would have an end."""
    begin = start()
    run(place, begin, 2)
    auth = Auth()
    auth.away = True
    place.recover(auth)
    place.clock.advance(30)
    assert not place.folder(begin.id).is_closed
    auth.away = False
    place.clock.advance(30)
    assert auth.verify().complete


@pytest.mark.parametrize("how", ["gone", "empty", "torn", "zeros", "temporary"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_chunk_that_auth_has_is_no_loss(place: Place, how: str, number: int) -> None:
    """Whatever a power cut did to a chunk in the spool: auth has it, and the chain goes on."""
    begin = start()
    run(place, begin, 3)
    auth = Auth()
    folder = place.folder(begin.id)
    auth.started[begin.id] = begin
    auth.chunks = {n: folder.chunk(n) for n in range(number + 1)}
    lose(folder, f"{number:08d}.chunk", how)
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2", b"3"]
    assert gaps(auth) == []


@pytest.mark.parametrize("how", ["gone", "empty", "torn", "zeros", "temporary"])
def test_the_last_second_is_lost_alone(place: Place, how: str) -> None:
    """A last chunk that is lost takes nothing along, and the recording is complete."""
    begin = start()
    run(place, begin, 3)
    lose(place.folder(begin.id), "00000003.chunk", how)
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2"]
    assert auth.incomplete == ""


@pytest.mark.parametrize("how", ["gone", "zeros"])
def test_what_follows_a_hole_is_kept_after_a_gap(place: Place, how: str) -> None:
    """A chunk is there and the one before it is not: both were of the last second. What is there
    is kept, and the gap says what is not.
    """
    begin = start()
    run(place, begin, 5)
    lose(place.folder(begin.id), "00000002.chunk", how)
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"3", b"4", b"5"]
    assert gaps(auth) == [{"lost": {}, "reason": NOT_WRITTEN, "frames": [[2, 2]]}]


@pytest.mark.parametrize("how", ["gone", "empty", "torn", "zeros", "temporary"])
@pytest.mark.parametrize("at_auth", [False, True])
def test_user_and_node_are_in_the_first_frame_too(place: Place, how: str, *, at_auth: bool) -> None:
    """A ``start.json`` that is not there costs nothing, also if only auth has the first chunk."""
    begin = start()
    run(place, begin, 2)
    auth = Auth()
    folder = place.folder(begin.id)
    if at_auth:
        auth.started[begin.id] = begin
        auth.chunks = {0: folder.chunk(0)}
        lose(folder, "00000000.chunk", how)
    lose(folder, "start.json", how)
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2"]


@pytest.mark.parametrize("how", ["empty", "torn", "zeros", "temporary"])
@pytest.mark.parametrize("sent", [0, 2, 4])
def test_a_torn_manifest_is_written_again(place: Place, how: str, sent: int) -> None:
    """Also if auth has all chunks, the last one among them: that one ends it, and none follows."""
    begin = start()
    run(place, begin, 2).close("done")
    folder = place.folder(begin.id)
    auth = Auth()
    auth.started[begin.id] = begin
    auth.chunks = {n: folder.chunk(n) for n in range(sent)}
    lose(folder, "manifest.json", how)
    place.recover(auth)
    verdict = auth.verify()
    assert (verdict.recovered, verdict.chunks) == (True, 4)
    ends = [f for f in auth.frames() if f.kind is FrameKind.END]
    assert len(ends) == 1


def test_a_manifest_that_names_more_than_there_is(place: Place) -> None:
    """The manifest reached the disk and the last chunk did not: it is no hole, it was not promised
    yet. It is closed without it, and what is torn never gets to auth.
    """
    begin = start()
    run(place, begin, 2).close("done")
    lose(place.folder(begin.id), "00000003.chunk", "zeros")
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2"]
    assert auth.missing == ()


@pytest.mark.parametrize("how", ["gone", "empty", "torn", "zeros"])
def test_the_list_of_what_auth_has_is_torn(place: Place, how: str) -> None:
    """What auth acknowledged and the spool knows nothing of any more is read at auth."""
    auth = Auth()
    uploading(place, auth)
    begin = start()
    run(place, begin, 4)
    folder = place.folder(begin.id)
    assert folder.numbers() == []
    lose(folder, "acknowledged", how)
    auth.calls.clear()
    place.recover(auth)
    assert auth.verify().recovered
    assert auth.shown() == [b"1", b"2", b"3", b"4"]
    assert auth.calls.count("get_chunk") >= 3


def test_what_is_known_is_not_read_again(place: Place) -> None:
    """A long recording is closed without fetching what the spool remembers of it."""
    auth = Auth()
    uploading(place, auth)
    run(place, start(), 20)
    auth.calls.clear()
    place.recover(auth)
    assert auth.verify().recovered
    assert "get_chunk" not in auth.calls


@pytest.mark.parametrize("lost", [(0,), (2,), (1, 3), (4,)])
def test_what_auth_had_and_lost_is_named(place: Place, lost: tuple[int, ...]) -> None:
    """Auth lost chunks that it had acknowledged, as when it goes on from a backup: the recording
    is closed, what is there is signed, and what is not is named.
    """
    for killed in (True, False):
        auth = Auth()
        uploading(place, auth)
        recording = run(place, start(), 4)
        for number in lost:
            del auth.chunks[number]
        if killed:
            place.recover(auth)
        else:
            recording.close("done")
        assert auth.missing == lost
        assert auth.manifest is not None
        assert [c.number for c in auth.manifest.chunks] == list(range(len(auth.manifest.chunks)))
        assert all(c.sha256 for c in auth.manifest.chunks)
        assert place.spool.folders() == []


def test_a_lost_chunk_of_which_nothing_is_known(place: Place) -> None:
    """The chunk after it has its hash, so that no other one can be put in its place."""
    auth = Auth()
    uploading(place, auth)
    begin = start()
    run(place, begin, 4)
    lose(place.folder(begin.id), "acknowledged", "gone")
    kept = auth.chunks.pop(2)
    place.recover(auth)
    assert auth.manifest is not None
    assert auth.missing == (2,)
    import hashlib

    assert auth.manifest.chunks[2].sha256 == hashlib.sha256(kept).hexdigest()
    assert auth.manifest.chunks[2].size == 0


def test_a_folder_that_is_gone(place: Place) -> None:
    """The folder itself did not reach the disk: auth says which sessions run here, and what it has
    of them is closed; one of which it has nothing is given up.
    """
    for shown in (2, 0):
        auth = Auth()
        uploading(place, auth)
        begin = start()
        if shown:
            run(place, begin, shown)
        else:
            place.open(begin)
            auth.chunks.clear()
        lose(place.folder(begin.id), "", "folder")
        auth.running = (begin.id,)
        place.recover(auth)
        if shown:
            assert auth.verify().recovered
            assert auth.shown() == [b"1", b"2"]
        else:
            assert (auth.manifest, auth.incomplete) == (None, GIVEN_UP)
        assert place.spool.folders() == []


def test_a_session_that_runs_is_not_taken_for_one_that_is_left(place: Place) -> None:
    """Auth names the sessions of this process as well: they go on."""
    auth = Auth()
    uploader = uploading(place, auth)
    begin = start()
    recording = run(place, begin, 1)
    auth.running = (begin.id,)
    uploader.start()
    recording.write(output(5 * MILLISECOND, b"goes on"))
    recording.close("done")
    verdict = auth.verify()
    assert not verdict.recovered
    assert auth.shown() == [b"1", b"goes on"]


@pytest.mark.parametrize("how", ["gone", "empty", "zeros"])
def test_a_session_that_never_began(place: Place, how: str) -> None:
    """Neither the spool nor auth has anything of it: nothing stays."""
    begin = start()
    place.open(begin)
    folder = place.folder(begin.id)
    lose(folder, "00000000.chunk", how)
    lose(folder, "start.json", how)
    auth = Auth()
    place.recover(auth)
    assert place.spool.folders() == []
    assert auth.manifest is None
    assert "update_recording" not in auth.calls


@pytest.mark.parametrize("how", ["gone", "empty", "zeros"])
def test_a_lost_first_chunk_leaves_user_and_node(place: Place, how: str) -> None:
    """A first chunk that is lost leaves a recording that names its session."""
    begin = start()
    place.open(begin)
    lose(place.folder(begin.id), "00000000.chunk", how)
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    kinds = {frame.kind for frame in auth.frames()}
    assert kinds <= {FrameKind.START, FrameKind.GAP, FrameKind.END}


def test_a_recovery_that_is_interrupted_is_done_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the end was written and before the manifest: there is one end, and nothing is
    there twice.
    """
    begin = start()
    run(place, begin, 5)
    lose(place.folder(begin.id), "00000002.chunk", "gone")
    auth = Auth()
    with monkeypatch.context() as patch:

        def fails(*_: Any) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr("tele.recording.spool.SpoolFolder.write_manifest", fails)
        place.recover(auth)
    place.recover(auth)
    assert auth.shown() == [b"1", b"3", b"4", b"5"]
    assert auth.verify().recovered


def test_it_knows_that_there_was_a_terminal(place: Place) -> None:
    """Also if the mark of it did not reach the disk: the first frame of the channel says it."""
    begin = start()
    recording = place.open(begin)
    recording.write(Frame(1, 1, FrameKind.OPEN, b'{"kind": "shell", "pty": {"term": "x"}}'))
    place.clock.advance(FLUSH_SECONDS)
    lose(place.folder(begin.id), "interactive", "gone")
    auth = Auth()
    place.recover(auth)
    assert auth.manifest is not None
    assert auth.manifest.interactive


def test_a_host_that_cannot_sign_for_now(place: Place) -> None:
    """Closing is tried again when it has a certificate."""
    begin = start()
    recording = run(place, begin, 1)

    def no_identity() -> str:
        raise Unavailable("no identity yet")

    auth = Auth()
    uploading(place, auth)
    certificate = place.recorder._host_certificate
    place.recorder._host_certificate = no_identity
    failed: list[Any] = []
    recording.close("done").addErrback(failed.append)
    assert failed
    place.clock.advance(60)
    assert auth.manifest is None
    place.recorder._host_certificate = certificate
    place.clock.advance(60)
    assert auth.verify().complete


@pytest.mark.parametrize("name", ["start.json", "00000001.chunk", "acknowledged"])
def test_what_the_disk_does_not_give_stops_no_other(place: Place, name: str) -> None:
    """A recording with a file that cannot be read is tried again, then ended at auth and put aside
    with all that it has; others, and whatever else lies there, are not concerned.
    """
    bad, good = start(), start()
    run(place, bad, 2)
    run(place, good, 2)
    broken = place.folder(bad.id).path
    (broken / name).unlink(missing_ok=True)
    (broken / name).mkdir()
    left = sorted(path.name for path in broken.iterdir())
    (place.spool.root / str(uuid.uuid4())).write_bytes(b"no folder")
    auth = Auth()
    place.recover(auth)
    assert auth.manifest is not None
    assert auth.manifest.id == good.id
    assert auth.incomplete == ""
    for _ in range(300):
        place.clock.advance(1)
    assert auth.incomplete == "its node cannot read it: Is a directory"
    assert auth.ended is not None
    assert place.spool.folders() == []
    kept = broken.with_name(f"refused-{bad.id}")
    assert sorted(path.name for path in kept.iterdir()) == left


def test_a_full_disk_keeps_no_recording_from_being_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's user is written again with reserved space, as all that ends a recording is."""
    run(place, start(), 2)
    write, tried = SpoolFolder.write_start, list[int]()

    def full(self: SpoolFolder, begin: RecordingStart) -> None:
        tried.append(place.spool.reserve.left)
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, begin)

    monkeypatch.setattr(SpoolFolder, "write_start", full)
    auth = Auth()
    place.recover(auth)
    assert auth.verify().recovered
    assert tried == [RESERVE, RESERVE - RESERVE_STEP]
