"""Recordings of which a part is lost: what is there is checked and plays, and the rest is named."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from spool_world import BEGIN, CA, CERTIFICATE, HOST_ID, KEY, start
from tele.errors import BadRecording, NotFound
from tele.model.api.operation import Octets
from tele.model.api.recordings import RecordingDetails
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, Recording, RecordingState
from tele.recording.playback import Source, from_authority, from_file
from tele.tape.file import write_file
from tele.tape.verify import VERSION, to_sign
from tele.tape.writer import TapeWriter

COUNT = 5
TRUSTED = {CA.public.blob}


class Holed:
    """A recording of five chunks at auth, of which some are lost."""

    def __init__(self, *missing: int, unknown: bool = False, signed: bool = True) -> None:
        self.missing = missing
        self.start = start(str(uuid.uuid4()))
        writer = TapeWriter()
        self.chunks: dict[int, bytes] = {}
        digests: list[ChunkDigest] = []
        for number in range(COUNT):
            if number == 0:
                writer.add(Frame(0, 0, FrameKind.START, encode(self.start)))
            writer.add(Frame(number, 1, FrameKind.OUTPUT, b"%d" % number))
            if number == COUNT - 1:
                writer.add(Frame(number, 0, FrameKind.END, b"{}"))
            cut = writer.cut(last=number == COUNT - 1)
            assert cut is not None
            lost = unknown and number in missing
            digests.append(ChunkDigest(number, 0, "") if lost else cut[0])
            self.chunks[number] = cut[1]
        unsigned = Manifest(
            self.start.id, VERSION, self.start, BEGIN + timedelta(seconds=9), tuple(digests),
            writer.frames - len(missing), False, True, CERTIFICATE.line, sequence=writer.sequence,
        )  # fmt: skip
        self.manifest = evolve(unsigned, signature=KEY.sign(to_sign(unsigned)))
        for number in missing:
            del self.chunks[number]
        self.signed = signed

    def row(self, **changes: Any) -> Recording:
        row = Recording(
            self.start.id, "ssh", "alice", "root", "web1", BEGIN, self.manifest.ended, False,
            sum(map(len, self.chunks.values())), HOST_ID, COUNT, complete=False, received=BEGIN,
            incomplete="chunks are lost",
        )  # fmt: skip
        return evolve(row, **changes)

    def source(self, **changes: Any) -> Source:
        def perform(operation: Any, request: Any) -> Any:
            if operation.name == "get_recording":
                return RecordingDetails(
                    self.row(**changes),
                    len(self.chunks),
                    self.manifest if self.signed else None,
                    RecordingState.INCOMPLETE,
                    self.missing,
                )
            if request.number not in self.chunks:
                raise NotFound("no such chunk")
            return Octets(self.chunks[request.number])

        return from_authority(perform, self.start.id)


def shown(source: Source) -> list[bytes]:
    return [f.data for f in source.frames() if f.kind is FrameKind.OUTPUT]


def gaps(source: Source) -> list[str]:
    return [json.loads(f.data)["reason"] for f in source.frames() if f.kind is FrameKind.GAP]


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ((2,), ["chunk 2 is lost"]),
        ((1, 3), ["chunk 1 is lost", "chunk 3 is lost"]),
        ((1, 2, 3), ["chunks 1 to 3 are lost"]),
        ((4,), ["chunk 4 is lost"]),
        ((3, 4), ["chunks 3 to 4 are lost"]),
        ((0,), ["chunk 0 is lost"]),
    ],
)
def test_what_is_there_plays(missing: tuple[int, ...], named: list[str], *, unknown: bool) -> None:
    """It is verified against what the node signed, a gap stands for the rest, and it never passes
    for complete.
    """
    made = Holed(*missing, unknown=unknown).source()
    verdict = made.verify(TRUSTED, "c")
    assert (verdict.complete, verdict.chunks) == (False, COUNT - len(missing))
    assert made.state is RecordingState.INCOMPLETE
    assert shown(made) == [b"%d" % n for n in range(COUNT) if n not in missing]
    assert gaps(made) == named
    assert str(missing[0]) in made.lost


def test_a_hole_does_not_open_the_chain() -> None:
    """A chunk after a hole is the one that was signed, not any that is put there; nor does
    one that is called lost hide that another one is gone.
    """
    holed, other = Holed(2), Holed(2)
    holed.chunks[3] = other.chunks[3]
    with pytest.raises(BadRecording, match="chunk 3"):
        holed.source().verify(TRUSTED, "c")
    holed = Holed(2)
    del holed.chunks[3]
    with pytest.raises(BadRecording):
        holed.source().verify(TRUSTED, "c")


def test_a_complete_recording_has_no_holes() -> None:
    """Auth cannot call a chunk of a recording that it has accepted as complete lost."""
    holed = Holed(2)
    with pytest.raises(BadRecording, match=r"missing from the archive|not the one that auth"):
        holed.source(complete=True, incomplete="", size=999).verify(TRUSTED, "c")


def test_an_unsigned_recording_plays_too() -> None:
    """Closed by auth, without a manifest: what is there, and what is missing before the last."""
    made = Holed(1, signed=False).source()
    assert not made.verify(TRUSTED, "c").complete
    assert shown(made) == [b"0", b"2", b"3", b"4"]
    with pytest.raises(NotFound, match="first chunk is lost"):
        Holed(0, signed=False).source()


def test_a_file_names_what_it_does_not_have(tmp_path: Path) -> None:
    """Exported and read again it is the same, and says so; without that word a chunk that is not
    there is a chunk that was taken out.
    """
    made = Holed(1, 2).source()
    parts = list(made.blobs())
    assert [name for name, _ in parts] == [
        "start", "manifest", "missing", "00000000.chunk", "00000003.chunk", "00000004.chunk",
    ]  # fmt: skip
    path = tmp_path / "a.tape"
    path.write_bytes(b"".join(write_file(parts)))
    again = from_file(path)
    assert again.state is RecordingState.INCOMPLETE
    assert not again.verify(TRUSTED, "c").complete
    assert list(again.frames()) == list(made.frames())
    path.write_bytes(b"".join(write_file([part for part in parts if part[0] != "missing"])))
    with pytest.raises(BadRecording, match="stands where"):
        from_file(path).verify(TRUSTED, "c")


@pytest.mark.parametrize(
    "said", [b"", b"{}", b"[]", b"[true]", b"[-1]", b"[2, 1]", b"[1, 1]", b'["1"]', b"[" * 99999]
)
def test_a_file_that_names_it_badly(tmp_path: Path, said: bytes) -> None:
    """Anything but numbers in order is refused."""
    parts = [(n, said if n == "missing" else d) for n, d in Holed(1).source().blobs()]
    path = tmp_path / "a.tape"
    path.write_bytes(b"".join(write_file(parts)))
    with pytest.raises(BadRecording):
        from_file(path)
