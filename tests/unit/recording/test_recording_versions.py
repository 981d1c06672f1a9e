"""What the recorder writes has numbers; what an earlier version left is finished without them."""

from __future__ import annotations

import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from spool_world import Auth, Place, lose, output, place, start
from tele.errors import BadRecording
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.leftovers import NOT_WRITTEN, numbered_after
from tele.recording.spool import stored
from tele.tape.layout import NO_CHUNK, read_chunk
from tele.tape.order import SequenceCheck
from tele.tape.verify import VERSION, WITHOUT_NUMBERS
from tele.tape.writer import TapeWriter

__all__ = ["place"]

MILLISECOND = 1_000_000


def left_by_an_earlier_version(place: Place, begin: RecordingStart, chunks: int) -> None:
    """Make a spool as a version without numbers left it."""
    folder = place.folder(begin.id)
    folder.create(begin)
    writer = TapeWriter(numbered=False)
    writer.add(Frame(0, 0, FrameKind.START, encode(begin)))
    for number in range(chunks):
        cut = writer.cut()
        assert cut is not None
        folder.write_chunk(number, cut[1])
        writer.add(output((number + 1) * MILLISECOND, b"%d" % (number + 1)))


def test_frames_are_written_with_their_numbers(place: Place) -> None:
    """Chunks are of version 2, and the manifest states the last number."""
    begin = start()
    recording = place.open(begin)
    recording.write(output(1, b"a"))
    recording.write(Frame(2, 1, FrameKind.OUTPUT, b"b", 2))
    recording.close("done", 2)
    folder = place.folder(begin.id)
    manifest = folder.manifest
    assert manifest is not None
    assert (manifest.version, manifest.sequence) == (VERSION, 2)
    assert {folder.chunk(number)[:4] for number in folder.numbers()} == {b"TLT2"}
    numbers = [f.sequence for f in place.frames(begin.id)]
    assert numbers == [0, 1, 2, 2]


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
@pytest.mark.parametrize("gone", [False, True])
def test_an_old_recording_is_finished_in_its_version(
    place: Place, sent: int, *, gone: bool
) -> None:
    """No recording has chunks of both versions: what auth acknowledged is of the old one, too."""
    begin = start()
    left_by_an_earlier_version(place, begin, 3)
    auth = Auth()
    folder = place.folder(begin.id)
    auth.started[begin.id] = begin
    for number in range(sent):
        auth.chunks[number] = data = folder.chunk(number)
        if gone:
            folder.release(number, data, place.spool.reserve)
    place.recover(auth)
    verdict = auth.verify()
    assert verdict.complete
    assert auth.manifest is not None
    assert (auth.manifest.version, auth.manifest.sequence) == (WITHOUT_NUMBERS, 0)
    assert {data[:4] for data in auth.chunks.values()} == {b"TLT1"}
    assert auth.shown() == [b"1", b"2"]


def test_an_old_recording_with_a_hole_is_finished_in_its_version(place: Place) -> None:
    """Frames after the hole are copied without numbers."""
    begin = start()
    left_by_an_earlier_version(place, begin, 4)
    lose(place.folder(begin.id), "00000002.chunk", "gone")
    auth = Auth()
    place.recover(auth)
    assert auth.verify().complete
    assert auth.shown() == [b"1", b"3"]
    assert {data[:4] for data in auth.chunks.values()} == {b"TLT1"}


@pytest.mark.parametrize("sent", [0, 1, 3])
def test_numbers_go_on_after_chunks_that_only_auth_has(place: Place, sent: int) -> None:
    """The last number is in the spool also when no chunk is there any more."""
    begin = start()
    recording = place.open(begin)
    for number in range(1, 3):
        recording.write(output(number, b"%d" % number))
        place.clock.advance(FLUSH_SECONDS)
    folder, auth = place.folder(begin.id), Auth()
    auth.started[begin.id] = begin
    for number in range(sent):
        auth.chunks[number] = data = folder.chunk(number)
        folder.release(number, data, place.spool.reserve)
    place.recover(auth)
    assert auth.verify().complete
    assert auth.manifest is not None
    assert auth.manifest.sequence == 2


@pytest.mark.parametrize("lost", [c for n in (1, 2, 3) for c in combinations(range(6), n)])
@pytest.mark.parametrize("how", ["gone", "torn"])
def test_any_chunks_can_be_lost_and_their_frames_are_stated(
    place: Place, lost: tuple[int, ...], how: str
) -> None:
    """Whatever a power cut took, with a gap among the rest: it verifies, and nothing is twice."""
    begin = start()
    recording = place.open(begin)
    for number in range(1, 16, 3):
        recording.write(Frame(number, 1, FrameKind.OUTPUT, b"x", number))
        body = {"lost": {}, "reason": "y", "frames": [[number + 1, number + 2]]}
        recording.write(Frame(number, 0, FrameKind.GAP, json.dumps(body).encode(), number + 2))
        place.clock.advance(FLUSH_SECONDS)
    for number in lost:
        lose(place.folder(begin.id), f"{number:08d}.chunk", how)
    auth = Auth()
    place.recover(auth)
    assert auth.verify().complete


def numbered(*numbers: int) -> list[Frame]:
    """Frames with these numbers; a negative one is a gap for what is before it."""
    frames = []
    for number in numbers:
        if number > 0:
            frames.append(Frame(number, 1, FrameKind.OUTPUT, b"x", number))
        else:
            body = {"lost": {"output": 1}, "reason": "y", "frames": [[-number, -number]]}
            frames.append(Frame(-number, 0, FrameKind.GAP, json.dumps(body).encode(), -number))
    return frames


@pytest.mark.parametrize(
    ("last", "numbers"),
    [
        (0, (1, 2, 3)),
        (3, (7, 8)),
        (3, (-6, 7)),
        (3, (-4, 5)),
        (5, (4, 5, 6)),
        (5, (4, -5, 6)),
        (5, (-3, 4)),
        (3, (8, -9)),
        (3, (-9,)),
        (9, (-9,)),
    ],
)
def test_what_is_nowhere_is_stated_once(last: int, numbers: tuple[int, ...]) -> None:
    """After the frame ``last`` each number is in one frame or in one gap."""
    order = SequenceCheck()
    for frame in numbered(*range(1, last + 1)):
        order.take(frame)
    found = list(numbered_after(numbered(*numbers), last))
    for frame in found:
        order.take(frame)
    order.end(max(last, *(abs(number) for number in numbers)))
    assert [f.time for f in found] == sorted(f.time for f in found)


def test_a_damaged_gap_states_nothing() -> None:
    """What a later chunk says of its losses is checked like all that is read from a disk."""
    bad = Frame(5, 0, FrameKind.GAP, b'{"frames": [["a", 2]]}', 5)
    found = list(numbered_after([bad, *numbered(6)], 3))
    assert [json.loads(f.data) for f in found if f.kind is FrameKind.GAP] == [
        {"lost": {}, "reason": NOT_WRITTEN, "frames": [[4, 5]]}
    ]


def test_a_summary_knows_the_last_number() -> None:
    """Also that of a gap, which has no number of its own; without numbers there is none."""
    writer = TapeWriter()
    for frame in numbered(1, 2, -5):
        writer.add(frame)
    cut = writer.cut()
    assert cut is not None
    assert stored(read_chunk(cut[1], 0, NO_CHUNK), len(cut[1])).sequence == 5
    writer = TapeWriter(numbered=False)
    writer.add(output(1, b"x"))
    cut = writer.cut()
    assert cut is not None
    assert stored(read_chunk(cut[1], 0), len(cut[1])).sequence is None
    with pytest.raises(BadRecording):
        read_chunk(cut[1][:40], 0)


def test_a_last_chunk_that_is_cut_anywhere(tmp_path: Path) -> None:
    """A power cut leaves any part of the last chunk: what was before it is a whole recording."""
    whole = Place(tmp_path / "whole")
    begin = start()
    recording = whole.open(begin)
    for number in (1, 2):
        recording.write(output(number, b"%d" % number))
        whole.clock.advance(FLUSH_SECONDS)
    last = whole.folder(begin.id).path / "00000002.chunk"
    size = last.stat().st_size
    assert size > 100
    for length in range(size + 1):
        cut = Place(tmp_path / f"cut{length}")
        shutil.copytree(whole.folder(begin.id).path, cut.folder(begin.id).path)
        os.truncate(cut.folder(begin.id).path / last.name, length)
        auth = Auth()
        cut.recover(auth)
        verdict = auth.verify()
        assert (verdict.complete, verdict.recovered) == (True, True)
        assert auth.shown() == ([b"1", b"2"] if length == size else [b"1"])
        cut.spool.close()
