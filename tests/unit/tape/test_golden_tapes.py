"""Recordings that earlier versions stored are read and verified by this one.

``golden`` has one session, written with TLT1 chunks: with manifests of version 1 and 2, without a
chunk that is lost, and without a manifest. The files are never made again.
"""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest

from tele.certs.keys import parse_line
from tele.errors import BadRecording
from tele.model.codec import decode, encode
from tele.model.frame import FrameKind
from tele.model.session import Manifest, Recording, RecordingStart
from tele.recording.playback import Source, from_file
from tele.tape.file import read_file
from tele.text import printable_json

GOLDEN = Path(__file__).parent / "golden"
AUTHORITY = {parse_line((GOLDEN / "host_ca.pub").read_text())}
FRAMES = (GOLDEN / "frames.jsonl").read_text("utf-8").splitlines()


def golden(name: str) -> Source:
    return from_file(GOLDEN / f"{name}.tape")


def lines(source: Source) -> list[str]:
    """The frames, each as a line of JSON as they were written when the files were made."""
    return [_as_before(line) for line in "".join(source.rendered("json", 0)).splitlines()]


def _as_before(line: str) -> str:
    """Bytes that are no UTF-8 were surrogates, which few readers of JSON accept."""
    row = json.loads(line)
    if "base64" in row:
        row["data"] = b64decode(row.pop("base64")).decode("utf-8", "surrogateescape")
    return printable_json(row)


@pytest.mark.parametrize(("name", "version"), [("manifest1", 1), ("manifest2", 2)])
def test_complete_recordings_verify(name: str, version: int) -> None:
    """Signature, chain and every frame, with manifests of both versions."""
    source = golden(name)
    assert source.manifest is not None
    assert source.manifest.version == version
    verdict = source.verify(AUTHORITY, "example")
    assert (verdict.complete, verdict.chunks, verdict.frames) == (True, 3, len(FRAMES))
    assert verdict.recovered is (version == 2)
    assert lines(source) == FRAMES


def test_another_host_authority_is_not_accepted() -> None:
    """They verify because of their signatures."""
    source = golden("manifest2")
    with pytest.raises(BadRecording, match="not signed"):
        source.verify({parse_line("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA" + "A" * 42)}, "example")


def test_a_recording_with_a_lost_chunk_shows_the_hole() -> None:
    """A gap is in the place of the chunk that the file lists as missing."""
    source = golden("manifest2-missing")
    verdict = source.verify(AUTHORITY, "example")
    assert (verdict.complete, verdict.chunks) == (False, 2)
    kinds = [frame.kind for frame in source.frames()]
    assert kinds.count(FrameKind.GAP) == 1
    assert lines(source)[:4] == FRAMES[:4]
    assert lines(source)[-3:] == FRAMES[-3:]


def test_a_recording_without_a_manifest_is_read() -> None:
    """It is correct so far, and not complete."""
    source = golden("no-manifest")
    assert source.verify(AUTHORITY, "example").complete is False
    assert lines(source) == FRAMES[:-3]


@pytest.mark.parametrize("name", ["manifest1", "manifest2"])
@pytest.mark.parametrize(("part", "cls"), [("start", RecordingStart), ("manifest", Manifest)])
def test_parts_are_encoded_as_they_were(name: str, part: str, cls: type) -> None:
    """A key that is added to them would change what is signed."""
    with (GOLDEN / f"{name}.tape").open("rb") as file:
        data = dict(read_file(file))[part]
    assert encode(decode(cls, data)) == data


def test_rows_are_encoded_as_they_were() -> None:
    """A host or command of an earlier version reads a row that uses nothing new."""
    data = (GOLDEN / "recording.json").read_bytes().rstrip()
    assert encode(decode(Recording, data)) == data
