"""What is wrong with a recording is named, all of it, to the chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from proof_world import END, OTHER_ID, TRUSTED, Tape, host, perform_of
from tele.certs.keys import PrivateKey
from tele.errors import NotFound
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostRole
from tele.model.session import ChunkDigest, Manifest, Recording, RecordingState
from tele.recording.diagnosis import Diagnosis, diagnose
from tele.recording.evidence import evidence_at_authority, evidence_in_file
from tele.recording.playback import from_authority
from tele.tape.file import write_file
from tele.tape.layout import NO_CHUNK, digest, pack_chunk, pack_chunk_2, pack_frames
from tele.tape.verify import VERSION, WITHOUT_NUMBERS

SECOND = 1_000_000_000


@frozen
class Made:
    """A recording of six chunks, as auth has it."""

    row: Recording
    manifest: Manifest
    chunks: tuple[bytes, ...]


def frames(start: Any, version: int) -> list[list[Frame]]:
    """Six chunks: the start, four with two lines each, the end."""
    first = [Frame(0, 0, FrameKind.START, encode(start))]
    middle = [
        [
            Frame((2 * n + i) * SECOND, 1, FrameKind.OUTPUT, b"line\r\n", 2 * n + i - 1)
            for i in range(2)
        ]
        for n in range(1, 5)
    ]
    return [first, *middle, [Frame(20 * SECOND, 0, FrameKind.END, b"{}", 8)]]


def stored(parts: Sequence[Sequence[Frame]], version: int = VERSION) -> tuple[bytes, ...]:
    """Return frames as chained chunks."""
    chunks: list[bytes] = []
    previous = NO_CHUNK
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if version >= VERSION:
            raw, facts = pack_frames(part)
            chunks.append(pack_chunk_2(raw, facts, number, previous, last=last))
        else:
            old = b"".join(
                f.time.to_bytes(8, "big") + f.channel.to_bytes(4, "big") + bytes([f.kind])
                + len(f.data).to_bytes(4, "big") + f.data for f in part
            )  # fmt: skip
            chunks.append(pack_chunk(old, number, previous, last=last))
        previous = digest(chunks[-1])
    return tuple(chunks)


def closed(
    chunks: Sequence[bytes], tape: Tape, count: int, version: int = VERSION, **words: Any
) -> Made:
    """Return these chunks with a manifest that the node signed, and auth's row."""
    named = tuple(ChunkDigest(n, len(c), digest(c).hex()) for n, c in enumerate(chunks))
    sequence = 8 if version >= VERSION else 0
    line = words.pop("host_certificate", host())
    manifest = Manifest(
        tape.id, version, tape.start, END, named, count, False, False, line, sequence=sequence
    )
    row = evolve(
        tape.row, size=sum(map(len, chunks)), chunks=len(chunks), recorder=tape.start.recorder,
        recorder_id=tape.start.recorder_id, mode=tape.start.mode,
    )  # fmt: skip
    return Made(row, tape.signed(evolve(manifest, **words)), tuple(chunks))


def made(version: int = VERSION, **words: Any) -> Made:
    tape = Tape(**words)
    parts = frames(tape.start, version)
    return closed(stored(parts, version), tape, 10, version)


ONE, OTHER = made(), made(user="mallory", login="admin")


def at_auth(
    chunks: dict[int, bytes] | Sequence[bytes],
    manifest: Manifest | None = ONE.manifest,
    row: Recording = ONE.row,
    state: RecordingState = RecordingState.COMPLETE,
) -> Diagnosis:
    """Diagnose what auth has."""
    by_number = chunks if isinstance(chunks, dict) else dict(enumerate(chunks))
    evidence = evidence_at_authority(perform_of(row, manifest, by_number, state), ONE.row.id)
    found = diagnose(evidence, TRUSTED, "c")
    agrees(found, row, manifest, by_number, state)
    return found


def agrees(
    found: Diagnosis,
    row: Recording,
    manifest: Manifest | None,
    chunks: dict[int, bytes],
    state: RecordingState,
) -> None:
    """What verification refuses has a fault, and the reverse."""
    try:
        source = from_authority(perform_of(row, manifest, chunks, state), ONE.row.id)
        source.verify(TRUSTED, "c")
    except Exception:
        assert found.faults
    else:
        assert not found.faults, found.faults


def in_file(tmp_path: Path, *parts: tuple[str, bytes], cut: int = 0) -> Diagnosis:
    path = tmp_path / "a.tape"
    data = b"".join(write_file(parts))
    path.write_bytes(data[: len(data) - cut])
    return diagnose(evidence_in_file(path), TRUSTED, "c")


def said(found: Diagnosis) -> list[tuple[str, int | None]]:
    """The faults, by kind and chunk."""
    return [(fault.kind.value, fault.chunk) for fault in found.faults]


def replaced(number: int, data: bytes) -> list[bytes]:
    return [*ONE.chunks[:number], data, *ONE.chunks[number + 1 :]]


def whole(recording: Made) -> list[tuple[str, bytes]]:
    """The parts of a file."""
    chunks = [(f"{n:08d}.chunk", data) for n, data in enumerate(recording.chunks)]
    start = encode(recording.manifest.start)
    return [("start", start), ("manifest", encode(recording.manifest)), *chunks]


# -- good ones ------------------------------------------------------------------------
@pytest.mark.parametrize("version", [1, WITHOUT_NUMBERS, VERSION])
def test_a_good_recording_has_no_fault(version: int, tmp_path: Path) -> None:
    """Of each version, at auth and in a file, by a node and by a proxy."""
    proxy = {"recorder": HostRole.PROXY, "recorder_id": OTHER_ID, "mode": "proxy"}
    for recorded in (made(version), made(version, **proxy)):
        if recorded.manifest.start.recorder is HostRole.PROXY:
            line = host(role=HostRole.PROXY, host_id=OTHER_ID, name="gate")
            unsigned = evolve(recorded.manifest, host_certificate=line)
            recorded = evolve(recorded, manifest=Tape().signed(unsigned))
        state = RecordingState.COMPLETE
        chunks = dict(enumerate(recorded.chunks))
        perform = perform_of(recorded.row, recorded.manifest, chunks, state)
        found = diagnose(evidence_at_authority(perform, recorded.row.id), TRUSTED, "c")
        assert said(found) == []
        assert (found.complete, found.chunks, found.frames) == (True, 6, 10)
        assert found.signer in ("web1", "gate")
        assert said(in_file(tmp_path, *whole(recorded))) == []


# -- chunks ---------------------------------------------------------------------------
def test_another_recordings_files_are_named_with_their_session() -> None:
    """All of them, chunks only, and one of them; the session that they are of is told."""
    found = at_auth(OTHER.chunks)
    assert said(found) == [("changed", n) for n in range(6)]
    assert "'mallory' as 'admin'" in found.faults[0].text
    assert all("mallory" in fault.text for fault in found.faults)
    found = at_auth(OTHER.chunks, OTHER.manifest)
    assert {kind for kind, _ in said(found)} == {"session", "record"}
    assert said(at_auth(replaced(3, OTHER.chunks[3]))) == [("changed", 3)]


def test_missing_chunks_are_named() -> None:
    """A tail, one in the middle, and several holes at once."""
    assert said(at_auth(ONE.chunks[:4])) == [("missing", 4)]
    assert "chunks 4 to 5 are missing at the end" in at_auth(ONE.chunks[:4]).faults[0].text
    holes = {n: c for n, c in enumerate(ONE.chunks) if n not in (0, 2, 3)}
    assert said(at_auth(holes)) == [("missing", 0), ("missing", 2)]


def test_swapped_and_repeated_chunks_are_named() -> None:
    """Which one stands in whose place."""
    swapped = [*ONE.chunks[:2], ONE.chunks[3], ONE.chunks[2], *ONE.chunks[4:]]
    found = at_auth(swapped)
    assert said(found) == [("moved", 2), ("moved", 3)]
    assert found.faults[0].text == "chunk 3 stands in the place of chunk 2"
    assert said(at_auth(replaced(4, ONE.chunks[3]))) == [("moved", 4)]


def test_all_faults_are_found_at_once() -> None:
    """A changed chunk, a missing one, one too many and a row that says something else."""
    chunks = dict(enumerate([*replaced(1, ONE.chunks[1] + b"x"), OTHER.chunks[3]]))
    del chunks[3]
    found = at_auth(chunks, row=evolve(ONE.row, user="bob", login="eve"))
    assert said(found) == [
        ("record", None), ("record", None), ("extra", None), ("changed", 1), ("missing", 3),
        ("extra", 6),
    ]  # fmt: skip
    assert {"user", "login"} <= set(" ".join(fault.text for fault in found.faults).split())


def test_without_a_manifest_the_chain_tells() -> None:
    """Chunks of a session that runs: one changed, one swapped, one after the last."""
    row = evolve(ONE.row, complete=False, ended=None)
    running = RecordingState.RUNNING
    assert said(at_auth(ONE.chunks[:4], None, row, running)) == []
    changed = [*ONE.chunks[:2], stored([[], [], frames(ONE.manifest.start, 3)[2]])[2]]
    assert said(at_auth([*changed, ONE.chunks[3]], None, row, running)) == [("chain", 2)]
    found = at_auth([ONE.chunks[0], ONE.chunks[2], ONE.chunks[1]], None, row, running)
    assert said(found) == [("moved", 1), ("moved", 2)]
    assert said(at_auth([*ONE.chunks, OTHER.chunks[3]], None, row, running))[0][1] == 6


def test_only_a_session_that_runs_is_said_to_run() -> None:
    """Auth says running, and the last chunk is there: it has ended."""
    row = evolve(ONE.row, complete=False, ended=None)
    running = RecordingState.RUNNING
    assert at_auth(ONE.chunks[:5], None, row, running).state is RecordingState.RUNNING
    assert at_auth(ONE.chunks, None, row, running).state is RecordingState.ENDED
    found = at_auth(ONE.chunks, ONE.manifest, row, running)
    assert found.state is RecordingState.ENDED
    assert ("record", None) in said(found)


def test_lost_chunks_that_auth_did_not_close_it_with() -> None:
    """A chunk removed later from an incomplete recording is not taken for one of the lost."""
    row = evolve(
        ONE.row, complete=False, incomplete="chunks are lost: 3",
        size=sum(len(c) for n, c in enumerate(ONE.chunks) if n != 3),
    )  # fmt: skip
    there = {n: c for n, c in enumerate(ONE.chunks) if n != 3}
    state = RecordingState.INCOMPLETE
    found = at_auth(there, row=row, state=state)
    assert (said(found), found.missing) == ([], (3,))
    del there[1]
    assert ("missing", None) in said(at_auth(there, row=row, state=state))


def test_a_manifest_in_the_archive_that_cannot_be_read() -> None:
    """It is told from one that is not there."""

    def perform(operation: Any, request: Any) -> Any:
        known = perform_of(ONE.row, None, dict(enumerate(ONE.chunks)), RecordingState.COMPLETE)
        found = known(operation, request)
        if operation.name == "get_recording":
            return evolve(found, manifest_error="not JSON")
        return found

    found = diagnose(evidence_at_authority(perform, ONE.row.id), TRUSTED, "c")
    assert said(found) == [("manifest", None)]
    assert "not JSON" in found.faults[0].text


@given(
    number=st.integers(0, 5),
    at=st.integers(0, 400),
    new=st.binary(max_size=120),
    signed=st.booleans(),
)
def test_any_change_of_a_chunk_is_a_fault_of_it(
    number: int, at: int, new: bytes, signed: bool
) -> None:
    """Whatever bytes are changed, added or cut off: it is found, and never an error."""
    data = ONE.chunks[number]
    at %= len(data)
    changed = data[:at] + new + data[at + len(new) :]
    chunks = dict(enumerate(replaced(number, changed)))
    row, state = (ONE.row, RecordingState.COMPLETE)
    if not signed:
        row, state = evolve(ONE.row, complete=False, ended=None), RecordingState.RUNNING
    perform = perform_of(row, ONE.manifest if signed else None, chunks, state)
    try:
        evidence = evidence_at_authority(perform, ONE.row.id)
    except NotFound:
        return
    found = diagnose(evidence, TRUSTED, "c")
    if signed:
        assert [fault.chunk for fault in found.faults] == ([] if changed == data else [number])
    elif changed != data and number < 5:  # the last one could be another end
        assert found.faults


# -- frames ---------------------------------------------------------------------------
def with_frames(change: Callable[[list[list[Frame]]], object], count: int) -> Diagnosis:
    """Diagnose a recording that its node signed with these frames."""
    tape = Tape()
    parts = frames(tape.start, VERSION)
    change(parts)
    wrong = closed(stored(parts), tape, count)
    perform = perform_of(
        wrong.row, wrong.manifest, dict(enumerate(wrong.chunks)), RecordingState.COMPLETE
    )
    return diagnose(evidence_at_authority(perform, wrong.row.id), TRUSTED, "c")


def test_a_frame_that_is_missing_is_named_with_its_chunk() -> None:
    """Each range of numbers that is nowhere, not only the first."""

    def change(parts: list[list[Frame]]) -> None:
        del parts[2][0], parts[4][1]

    found = with_frames(change, 8)
    assert said(found) == [("frames", 1), ("frames", 4)]
    assert [fault.text for fault in found.faults] == ["frame 3 is missing", "frame 8 is missing"]


def test_a_frame_stated_as_lost_is_no_fault() -> None:
    """A gap states it."""

    def change(parts: list[list[Frame]]) -> None:
        stated = json.dumps({"lost": {}, "frames": [[3, 3]], "reason": "full"}).encode()
        parts[2][0] = Frame(parts[2][1].time, 0, FrameKind.GAP, stated, 3)

    assert said(with_frames(change, 10)) == []


def test_frames_twice_and_times_that_run_backwards() -> None:
    """In the chunks in which they are."""

    def change(parts: list[list[Frame]]) -> None:
        parts[3].append(parts[3][1])
        parts[4][1] = evolve(parts[4][1], time=SECOND)

    assert said(with_frames(change, 11)) == [("frames", 3), ("time", 4)]


def test_two_sessions_in_one_recording_and_no_end() -> None:
    """A second start, frames after the end, a last frame that is no end."""

    def second(parts: list[list[Frame]]) -> None:
        parts[3].insert(0, evolve(parts[0][0], time=parts[3][0].time, sequence=4))

    assert ("session", 3) in said(with_frames(second, 11))

    def after(parts: list[list[Frame]]) -> None:
        parts[5].append(Frame(21 * SECOND, 1, FrameKind.OUTPUT, b"x", 9))

    assert ("end", 5) in said(with_frames(after, 11))


def test_frames_that_cannot_be_read() -> None:
    """A chunk whose node signed what is none."""
    tape = Tape()
    chunks = list(stored(frames(tape.start, VERSION)))
    chunks[5] = chunks[5][:60]
    wrong = closed(chunks, tape, 10)
    perform = perform_of(
        wrong.row, wrong.manifest, dict(enumerate(wrong.chunks)), RecordingState.COMPLETE
    )
    found = diagnose(evidence_at_authority(perform, wrong.row.id), TRUSTED, "c")
    assert said(found) == [("unreadable", 5)]


# -- who and what ---------------------------------------------------------------------
def test_a_key_that_is_not_the_nodes() -> None:
    """Another key, another host's certificate, another authority."""
    unsigned = evolve(ONE.manifest, host_certificate=host(host_id=OTHER_ID, name="db1"))
    tape = Tape()
    for manifest in (
        tape.signed(unsigned),
        tape.signed(ONE.manifest, PrivateKey.generate()),
        tape.signed(evolve(ONE.manifest, host_certificate=host(ca=PrivateKey.generate()))),
    ):
        assert ("signature", None) in said(at_auth(ONE.chunks, manifest))
    assert OTHER_ID in at_auth(ONE.chunks, tape.signed(unsigned)).faults[0].text


def test_another_cluster() -> None:
    """It is named, and the signature is checked all the same."""
    perform = perform_of(
        ONE.row, ONE.manifest, dict(enumerate(ONE.chunks)), RecordingState.COMPLETE
    )
    found = diagnose(evidence_at_authority(perform, ONE.row.id), TRUSTED, "d")
    assert said(found) == [("session", None)]


def test_a_proxy_in_the_place_of_the_node() -> None:
    """A session that auth noted as recorded by a proxy, and a manifest of the node."""
    row = evolve(ONE.row, recorder=HostRole.PROXY, recorder_id=OTHER_ID, mode="proxy")
    found = at_auth(ONE.chunks, row=row)
    assert said(found) == [("record", None), ("record", None)]


# -- sealed ---------------------------------------------------------------------------
def sealed(chunk: bytes) -> bytes:
    """Return a chunk whose frames are sealed with a key that no reader has."""
    head = bytearray(chunk[:95])
    head[81:83] = (1).to_bytes(2, "big")
    head[83:95] = bytes(range(12))
    return bytes(head) + bytes(64)


def test_sealed_chunks_are_checked_without_a_key() -> None:
    """What is stored is checked; what is in it is said to be not opened."""
    tape = Tape()
    chunks: list[bytes] = []
    previous = NO_CHUNK
    for chunk in stored(frames(tape.start, VERSION)):
        chunks.append(sealed(chunk[:9] + previous + chunk[41:]))
        previous = digest(chunks[-1])
    one = closed(chunks, tape, 10, keys=1)

    def found(stored_chunks: Sequence[bytes]) -> Diagnosis:
        by_number = dict(enumerate(stored_chunks))
        perform = perform_of(one.row, one.manifest, by_number, RecordingState.COMPLETE)
        return diagnose(evidence_at_authority(perform, one.row.id), TRUSTED, "c")

    good = found(chunks)
    assert (said(good), good.sealed, good.frames, good.complete) == ([], 6, 10, True)
    swapped = [chunks[0], chunks[2], chunks[1], *chunks[3:]]
    assert said(found(swapped)) == [("moved", 1), ("moved", 2)]
    assert said(found([*chunks[:3], chunks[3][:-1] + b"x", *chunks[4:]])) == [("changed", 3)]


# -- files ----------------------------------------------------------------------------
GOOD = whole(ONE)
FILES: dict[str, tuple[list[tuple[str, bytes]], set[str]]] = {
    "no start": (GOOD[1:], {"place"}),
    "no manifest, and its end": (GOOD[:1] + GOOD[2:], set()),
    "a start of another session": ([("start", encode(OTHER.manifest.start)), *GOOD[1:]],
                                   {"session"}),
    "a manifest of another session": ([GOOD[0], ("manifest", encode(OTHER.manifest)), *GOOD[2:]],
                                      {"session", "changed"}),
    "a manifest that is none": ([GOOD[0], ("manifest", b"{}"), *GOOD[2:]], {"manifest"}),
    "a chunk twice": ([*GOOD[:5], GOOD[4], *GOOD[5:]], {"repeated"}),
    "chunks in another order": ([*GOOD[:4], GOOD[5], GOOD[4], *GOOD[6:]], {"missing", "moved"}),
    "chunks under each other's name": ([*GOOD[:4], (GOOD[4][0], GOOD[5][1]),
                                        (GOOD[5][0], GOOD[4][1]), *GOOD[6:]], {"moved"}),
    "a tail cut off": (GOOD[:-1], {"missing"}),
    "a part that is none": ([*GOOD, ("notes", b"x")], {"place"}),
    "a list of what is missing that is none": ([*GOOD[:2], ("missing", b"[1,1]"), *GOOD[2:]],
                                               {"place"}),
    "a chunk stated as missing that is there": ([*GOOD[:2], ("missing", b"[3]"), *GOOD[2:]],
                                                {"place"}),
    "nothing": ([], {"place"}),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_what_is_wrong_with_a_file(what: str, tmp_path: Path) -> None:
    """Parts left out, doubled, added, moved or of another recording."""
    parts, kinds = FILES[what]
    assert {kind for kind, _ in said(in_file(tmp_path, *parts))} == kinds


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    """At any byte: a fault that names the part after which it ends, never an error."""
    size = len(b"".join(write_file(GOOD)))
    for cut in range(1, size - 10, 37):
        found = in_file(tmp_path, *GOOD, cut=cut)
        assert found.faults
    assert "after '00000004.chunk'" in in_file(tmp_path, *GOOD, cut=3).faults[0].text


def test_the_list_of_faults_is_bounded() -> None:
    """Of a flood of faults a bounded number is kept; the others are counted."""

    def change(parts: list[list[Frame]]) -> None:
        parts[3] += [parts[3][1]] * 3000

    found = with_frames(change, 3010)
    assert len(found.faults) == 1000
    assert found.more == 2000
