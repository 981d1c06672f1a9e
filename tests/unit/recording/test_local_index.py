"""A file that is long is sought in: its index is made beside the replay, in memory."""

from __future__ import annotations

import hashlib
import os
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recorded_sessions import chunks_of, frame, opened
from tele.cli.positions import KeptPositions, LocalPositions
from tele.model.frame import FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart, WrappedKey
from tele.recording.local_index import LocalIndex
from tele.recording.playback import Source, from_file, schedule
from tele.tape.file import find_blobs, read_file, write_file
from tele.tape.sealing import DataKey, public_key, wrap

BEGUN = datetime(2026, 11, 24, 12, tzinfo=UTC)
ID = "9d6d2e0e-0000-4000-8000-000000000001"
START = RecordingStart(ID, "ssh", "c", "alice", "root", (), "s", "web1", "n", "192.0.2.7:1", BEGUN)
IDENTITY, SECRET = bytes([7]) * 32, bytes(range(32))


def written(path: Path, *, sealed: bool, pty: bool = True, lines: int = 600) -> Path:
    """A file of a session of ten minutes, with a line each second."""
    noise = random.Random(1)
    output = [
        frame(at, FrameKind.OUTPUT, b"at %d %x\r\n" % (at, noise.getrandbits(8000)))
        for at in range(1, lines)
    ]
    begin = opened() if pty else opened(pty=None)
    seal = DataKey(1, SECRET, os.urandom) if sealed else None
    chunks = chunks_of([begin, *output], each=50, start=START, seal=seal)
    keys: tuple[WrappedKey, ...] = (wrap(1, SECRET, public_key(IDENTITY), ID),) if sealed else ()
    named = tuple(
        ChunkDigest(number, len(data), hashlib.sha256(data).hexdigest())
        for number, data in enumerate(chunks)
    )
    manifest = Manifest(
        ID, 3, START, BEGUN, named, lines + 2, True, False, "", b"", keys=len(keys),
        sequence=lines,
    )  # fmt: skip
    source = Source(ID, START, manifest, lambda: iter(chunks), keys=keys)
    path.write_bytes(b"".join(write_file(source.blobs())))
    return path


@pytest.mark.parametrize("sealed", [False, True])
def test_a_file_is_sought_in_once_its_index_is_ready(tmp_path: Path, sealed: bool) -> None:
    """Before that it is read from its beginning; what is shown is the same."""
    path = written(tmp_path / "one.tape", sealed=sealed)
    source = from_file(path, IDENTITY if sealed else None)
    index = LocalIndex(path, source)
    steps = lambda: schedule(source.frames(), 0, None)  # noqa: E731
    positions = LocalPositions(KeptPositions(steps, (80, 24)), index, 0, None)
    assert positions.begin(400).at == 0
    index.start()
    assert index.wait(120)
    begun = positions.begin(400)
    assert 380 < begun.at <= 400
    _, step = next(begun.steps)
    assert begun.at < step.at <= begun.at + 2
    assert step.frame.data.startswith(b"at %d " % step.at)
    assert positions.is_far(0, 400)
    index.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["one.tape"]


def test_without_its_key_it_is_played_without(tmp_path: Path) -> None:
    """The replay says what is missing: no index is made, and nothing hangs."""
    path = written(tmp_path / "one.tape", sealed=True)
    index = LocalIndex(path, from_file(path))
    index.start()
    assert not index.wait(120)
    assert index.seekable(0) is None
    index.close()


def test_a_replay_that_ends_ends_it(tmp_path: Path) -> None:
    """Its process is killed in the middle; a small file has none."""
    path = written(tmp_path / "one.tape", sealed=False)
    index = LocalIndex(path, from_file(path))
    index.start()
    index.close()
    assert not index._thread.is_alive()
    small = written(tmp_path / "two.tape", sealed=False, lines=5)
    other = LocalIndex(small, from_file(small))
    other.start()
    assert not other.wait(0)
    other.close()


def test_programs_without_a_terminal_are_listed(tmp_path: Path) -> None:
    """They have no screen to begin with."""
    path = written(tmp_path / "one.tape", sealed=False, pty=False)
    index = LocalIndex(path, from_file(path))
    index.start()
    assert index.wait(120)
    assert index.seekable(0) is None
    index.close()


def test_parts_are_found_without_reading_them(tmp_path: Path) -> None:
    """Names, offsets and sizes are those of the bytes in the file."""
    path = written(tmp_path / "one.tape", sealed=False, lines=60)
    data = path.read_bytes()
    with path.open("rb") as file:
        found = [(name, data[at : at + size]) for name, at, size in find_blobs(file)]
    with path.open("rb") as file:
        assert found == list(read_file(file))
