"""Recordings with numbered frames: what is not there is stated as lost, or found out."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import BadRecording
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.tape.examine import ChunkExaminer
from tele.tape.faults import Faults
from tele.tape.layout import (
    FRAME_HEAD_2,
    NO_CHUNK,
    Facts,
    digest,
    pack_chunk,
    pack_chunk_2,
    pack_frames,
    read_chunk,
)
from tele.tape.order import RANGES_LIMIT, SequenceCheck
from tele.tape.verify import VERSION, read_frames, verify

START = RecordingStart(
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11", "ssh", "c", "alice", "root", ("access",), "s", "web1",
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22", "192.0.2.1:1",
    datetime(2026, 11, 24, 12, tzinfo=UTC),
)  # fmt: skip


def out(sequence: int, data: bytes = b"x") -> Frame:
    """A frame with a number."""
    return Frame(sequence * 10, 1, FrameKind.OUTPUT, data, sequence)


def gap(after: int, *ranges: tuple[int, int]) -> Frame:
    """A gap that is written when the frame ``after`` was the last one."""
    body = json.dumps({"lost": {}, "frames": ranges, "reason": "the disk was full"}).encode()
    return Frame(after * 10, 0, FrameKind.GAP, body, after)


def end(sequence: int) -> Frame:
    return Frame(sequence * 10, 0, FrameKind.END, b'{"reason": "done"}', sequence)


BEGIN = Frame(0, 0, FrameKind.START, encode(START))


def write(*groups: Sequence[Frame], **words: Any) -> tuple[list[bytes], Manifest]:
    """One chunk for each group, and their manifest."""
    chunks: list[bytes] = []
    for number, group in enumerate(groups):
        previous = digest(chunks[-1]) if chunks else NO_CHUNK
        last = number == len(groups) - 1
        chunks.append(pack_chunk_2(*pack_frames(group), number, previous, last=last))
    digests = tuple(ChunkDigest(n, len(c), digest(c).hex()) for n, c in enumerate(chunks))
    manifest = Manifest(
        START.id, VERSION, START, START.started, digests, sum(map(len, groups)), True, False,
        "cert", sequence=groups[-1][-1].sequence,
    )  # fmt: skip
    return chunks, evolve(manifest, **words)


GROUPS = ([BEGIN, out(1), out(2)], [out(3), gap(5, (4, 5)), out(6)], [out(7), end(7)])
CHUNKS, MANIFEST = write(*GROUPS)


def check(chunks: list[bytes], manifest: Manifest | None, missing: tuple[int, ...] = ()) -> Any:
    return verify(chunks, manifest, START, lambda _: None, missing)


def test_what_is_written_is_read() -> None:
    """Frames come back with their numbers, and the whole verifies."""
    frames = [frame for group in GROUPS for frame in group]
    assert list(read_frames(CHUNKS, MANIFEST, START)) == frames
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 7]
    assert check(CHUNKS, MANIFEST).complete
    assert not check(CHUNKS[:2], None).complete


def test_the_head_is_as_documented() -> None:
    """Each field is at its offset; the facts need no unpacking."""
    chunk = CHUNKS[1]
    assert chunk[:5] == b"TLT2\0"
    assert CHUNKS[2][4] == 1
    assert struct.unpack_from(">I", chunk, 5) == (1,)
    assert chunk[9:41] == digest(CHUNKS[0])
    raw, facts = pack_frames(GROUPS[1])
    assert struct.unpack_from(">I", chunk, 41) == (len(raw),)
    assert struct.unpack_from(">QQIQQH", chunk, 45) == (3, 6, 3, 30, 60, 0)
    assert chunk[83:95] == bytes(12)
    assert facts == Facts(3, 6, 3, 30, 60) == read_chunk(chunk, 1).facts
    assert raw.startswith(bytes.fromhex("0000000000000003 000000000000001e 00000001 05 00000001"))


@pytest.mark.parametrize("offset", [4, 45, 52, 60, 61, 64, 65, 72, 73, 80, 81, 82, 83, 94])
def test_a_head_that_says_something_else_is_refused(offset: int) -> None:
    """Flags that are not known, other facts, a data key and a nonce: none is skipped over."""
    changed = bytearray(CHUNKS[1])
    changed[offset] ^= 0x40
    with pytest.raises(BadRecording, match=r"states|sealed"):
        list(read_chunk(bytes(changed), 1).frames())


@pytest.mark.parametrize("length", [0, 4, 44, 45, 94, 95, len(CHUNKS[1]) - 1])
def test_a_chunk_that_is_cut_off_is_refused(length: int) -> None:
    """Also within its head."""
    with pytest.raises(BadRecording):
        list(read_chunk(CHUNKS[1][:length], 1).frames())


def test_kinds_of_later_versions_have_numbers() -> None:
    """A frame that is skipped is not missing."""
    raw = b"".join(
        FRAME_HEAD_2.pack(number, number, 1, kind, 2) + b"{}"
        for number, kind in ((1, FrameKind.OPEN), (2, 200), (3, FrameKind.CLOSE))
    )
    begin, _ = pack_frames([BEGIN])
    ending, _ = pack_frames([end(3)])
    facts = Facts(1, 3, 5, 0, 30)
    chunk = pack_chunk_2(begin + raw + ending, facts, 0, NO_CHUNK, last=True)
    kinds = [frame.kind for frame in read_frames([chunk], None, START)]
    assert kinds == [FrameKind.START, FrameKind.OPEN, FrameKind.CLOSE, FrameKind.END]


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([out(1), out(3), end(3)], "frame 2 is missing"),
        ([out(2), end(2)], "frame 1 is missing"),
        ([out(1), end(4)], "frames 2 to 4 are missing"),
        ([out(1), out(5), gap(5, (2, 3)), end(5)], "frame 4 is missing"),
        ([out(1), out(1), end(1)], "frame 1 is there twice"),
        ([out(1), out(3), out(2), end(3)], "frame 2 stands after frame 3"),
        ([out(1), out(2), gap(2, (2, 2)), end(2)], "is there or stated twice"),
        ([out(1), gap(3, (2, 3)), gap(3, (3, 3)), end(3)], "is there or stated twice"),
        ([out(1), gap(3, (2, 3)), out(2), end(3)], "frame 2 is there twice"),
        ([out(1), gap(1, (2, 3)), out(4), end(4)], "before its time"),
        ([out(1), out(2), end(1)], "its end is after frame 1, but it has 2"),
        ([out(0), end(0)], "has no number"),
        ([out(1), gap(2, (2, 1)), end(2)], "does not state which"),
        ([out(1), gap(2, (0, 1)), end(2)], "does not state which"),
    ],
)
def test_frames_that_are_neither_there_nor_stated(frames: list[Frame], said: str) -> None:
    """Each way in which numbers do not add up is named."""
    chunks, manifest = write([BEGIN, *frames])
    with pytest.raises(BadRecording, match=said):
        check(chunks, manifest)


@pytest.mark.parametrize(
    "body",
    [b'{"frames": 7}', b'{"frames": [[1]]}', b'{"frames": [[1, true]]}', b'{"frames": ["12"]}'],
)
def test_a_gap_that_states_no_ranges(body: bytes) -> None:
    """What is not a list of pairs of numbers is refused, and no error of the program."""
    with pytest.raises(BadRecording, match="does not state"):
        SequenceCheck().take(Frame(0, 0, FrameKind.GAP, body, 3))


def test_a_gap_that_is_nested_deeply_is_no_error_of_the_program() -> None:
    """It states nothing, so that what is lost is missing."""
    order = SequenceCheck()
    order.take(Frame(0, 0, FrameKind.GAP, b'{"frames": ' + b"[" * 100_000, 3))
    with pytest.raises(BadRecording, match="frames 1 to 3 are missing"):
        order.end(3)


def test_memory_is_bounded() -> None:
    """Numbers with holes everywhere are refused at a limit."""
    order = SequenceCheck()
    with pytest.raises(BadRecording, match="too many"):
        for number in range(2, 2 * RANGES_LIMIT + 5, 2):
            order.number(number)
    ranges = [(n, n) for n in range(1, RANGES_LIMIT + 2)]
    with pytest.raises(BadRecording, match="does not state"):
        SequenceCheck().take(gap(RANGES_LIMIT + 1, *ranges))


@given(st.lists(st.sampled_from("klg"), max_size=60))
def test_all_losses_that_are_stated_are_good(steps: list[str]) -> None:
    """Frames that are kept, lost, and gaps in between, in any order; one less stated is not."""
    frames: list[Frame] = [BEGIN]
    lost: list[tuple[int, int]] = []
    number = 0
    for step in [*steps, "g"]:
        if step == "g":
            frames.append(gap(number, *lost))
            lost = []
            continue
        number += 1
        if step == "k":
            frames.append(out(number))
        elif lost and lost[-1][1] == number - 1:
            lost[-1] = lost[-1][0], number
        else:
            lost.append((number, number))
    frames.append(end(number))
    assert check(*write(frames)).complete
    for at, frame in enumerate(frames):
        if frame.kind is FrameKind.OUTPUT or b"[[" in frame.data:
            with pytest.raises(BadRecording, match="missing"):
                check(*write(frames[:at] + frames[at + 1 :]))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_numbers_in_lost_chunks_are_not_asked_for(missing: int) -> None:
    """The hole is shown; everything else is checked as before."""
    rest = [chunk for number, chunk in enumerate(CHUNKS) if number != missing]
    assert not check(rest, MANIFEST, (missing,)).complete


def test_a_lost_chunk_excuses_no_other_frame() -> None:
    """What is missing after the hole is found out."""
    chunks, manifest = write(GROUPS[0], [out(3)], [out(5), out(7), end(7)])
    with pytest.raises(BadRecording, match="frame 6 is missing"):
        check([chunks[0], chunks[2]], manifest, (1,))


def test_a_gap_after_a_hole_may_state_what_was_in_it() -> None:
    """The recorder lost frames at both sides of the chunk that is lost."""
    groups = ([BEGIN, out(1)], [out(4)], [gap(6, (2, 3), (5, 6)), out(7), end(7)])
    chunks, manifest = write(*groups)
    assert check(chunks, manifest).complete
    assert not check([chunks[0], chunks[2]], manifest, (1,)).complete


def test_versions_are_not_mixed() -> None:
    """Neither chunks of both, nor a manifest of one version with chunks of the other."""
    old = pack_chunk(b"", 1, digest(CHUNKS[0]), last=True)
    for manifest in (None, evolve(MANIFEST, chunks=(
        MANIFEST.chunks[0], ChunkDigest(1, len(old), digest(old).hex())
    ))):  # fmt: skip
        with pytest.raises(BadRecording, match="of another version"):
            check([CHUNKS[0], old], manifest)
    for version in (1, 2):
        with pytest.raises(BadRecording):
            check(CHUNKS, evolve(MANIFEST, version=version))
        with pytest.raises(BadRecording, match="of another version"):
            check(CHUNKS, evolve(MANIFEST, version=version, sequence=0))


@pytest.mark.parametrize(
    "change",
    [{"sequence": 6}, {"sequence": 8}, {"sequence": -1}, {"keys": 1}, {"generation": 2},
     {"version": 4}],
)  # fmt: skip
def test_a_manifest_that_says_something_else_is_refused(change: dict[str, Any]) -> None:
    """Another number of frames, and what this version does not know."""
    with pytest.raises(BadRecording):
        check(CHUNKS, evolve(MANIFEST, **change))


def test_attack_very_many_frames_that_are_there_twice() -> None:
    """A node sends a chunk of a few hundred bytes with frames that are all wrong, among as many
    losses as are kept: finding that out costs for each frame what a good one costs, not the losses.
    """
    losses = [out(2 * number) for number in range(1, RANGES_LIMIT)]
    repeated = [out(2 + 2 * (number % 9)) for number in range(100_000)]
    faults = Faults()
    examiner = ChunkExaminer(None, None, (), faults)
    frames = [Frame(0, 0, FrameKind.START, b"{}"), *losses, *repeated]
    raw, facts = pack_frames(frames)
    examiner.take(0, pack_chunk_2(raw, facts, 0, NO_CHUNK, last=False))
    assert examiner.frames == len(frames)
    assert len(faults.kept) + faults.more >= len(repeated)
    assert any("is there twice" in fault.text for fault in faults.kept)
