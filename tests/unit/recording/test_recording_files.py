"""``tele recordings files``: what a recording says of files, as a table and as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recorded_sessions import chunks_of, frame, opened
from tele.cli.recordings_files import files
from tele.cli.recordings_search import clock
from tele.model.codec import encode
from tele.model.frame import FrameKind
from tele.tape.file import write_file
from test_recording_seek import START

UPLOAD = {
    "protocol": "sftp", "op": "write", "direction": "upload", "path": "/tmp/a\x1b[2J", "bytes": 70,
    "mode": "0644", "sha256": "ab" * 32, "result": "ok",
}  # fmt: skip
RENAME = {"protocol": "sftp", "op": "rename", "path": "/tmp/a", "to": "/tmp/b", "result": "denied"}


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A file of a session that copied one file and renamed another."""
    frames = [
        opened(kind="subsystem", command="sftp", pty=None),
        frame(75, FrameKind.TRANSFER, UPLOAD),
        frame(3700, FrameKind.TRANSFER, RENAME),
    ]
    chunks = chunks_of(frames, each=2, start=START)
    named = ((f"{number:08d}.chunk", data) for number, data in enumerate(chunks))
    path = tmp_path / "session.tape"
    path.write_bytes(b"".join(write_file([("start", encode(START)), *named])))
    return path


def run(tape: Path, *words: str) -> Result:
    done = CliRunner().invoke(files, [str(tape), *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done


def test_files_are_listed(tape: Path) -> None:
    """Time, protocol, what was done, size, digest; a name cannot control the terminal.

    That the recording has no end is said beside the list, not in it.
    """
    done = run(tape)
    assert done.stderr == "this recording is not complete yet\n"
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["AT", "PROTOCOL", "WHAT", "BYTES", "RESULT", "SHA-256", "PATH"]
    assert lines[1].split() == ["1:15", "sftp", "upload", "70", "ok", "ab" * 32, "/tmp/a\\x1b[2J"]
    assert lines[2].split() == ["1:01:40", "sftp", "rename", "denied", "/tmp/a", "->", "/tmp/b"]


def test_files_as_data(tape: Path) -> None:
    """The keys are those of the frame, with the time in seconds and the channel.

    Bytes are a number, or null where none passed.
    """
    rows = json.loads(run(tape, "--format", "json").stdout)
    assert rows[0] == {"at": 75.0, "channel": 1, **UPLOAD, "to": ""}
    assert (rows[1]["path"], rows[1]["to"], rows[1]["bytes"]) == ("/tmp/a", "/tmp/b", None)


def test_times_are_written_as_play_reads_them() -> None:
    """What a list shows can be typed after --at."""
    assert [clock(at) for at in (0, 9.7, 61, 3599, 3661)] == [
        "0:00", "0:09", "1:01", "59:59", "1:01:01",
    ]  # fmt: skip
