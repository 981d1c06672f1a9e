"""``tele recordings export``: what lies in the folder of the one who exports."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recorded_sessions import chunks_of, frame, opened
from tele.cli.recordings_export import export
from tele.errors import BadRecording, InvalidInput
from tele.model.codec import encode
from tele.model.frame import FrameKind
from tele.recording.playback import from_file
from tele.tape.file import read_file, write_file
from test_recording_seek import START


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A file of a session that showed something."""
    frames = [opened(), *(frame(at, FrameKind.OUTPUT, b"secret\r\n") for at in range(1, 9))]
    chunks = chunks_of(frames, each=4, start=START)
    named = ((f"{number:08d}.chunk", data) for number, data in enumerate(chunks))
    path = tmp_path / "session.tape"
    path.write_bytes(b"".join(write_file([("start", encode(START)), *named])))
    return path


def run(tape: Path, *words: str) -> Result:
    return CliRunner().invoke(export, [str(tape), *words], catch_exceptions=False)


def test_attack_an_export_is_private_from_its_first_byte_on(
    tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that opens a file before its mode is set reads all of it later: it is made so,
    whatever the umask is.
    """
    made: list[tuple[int, int]] = []
    real = os.open

    def noted(path: object, flags: int, mode: int = 0o777, **more: int) -> int:
        if str(path).endswith("out.txt"):
            made.append((flags & os.O_EXCL, mode))
        return real(path, flags, mode, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", noted)
    before = os.umask(0)
    try:
        out = tape.with_name("out.txt")
        assert run(tape, str(out)).exit_code == 0
    finally:
        os.umask(before)
    assert made == [(os.O_EXCL, 0o600)]
    assert out.stat().st_mode & 0o777 == 0o600
    assert "secret" in out.read_text()


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_attack_an_export_follows_and_replaces_nothing(tape: Path, kind: str) -> None:
    """Others may have put something there, where the folder is shared."""
    out, other = tape.with_name("out.txt"), tape.with_name("other")
    if kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(other)
    if kind == "link":
        other.write_text("mine")
    with pytest.raises(InvalidInput, match="File exists"):
        run(tape, str(out))
    assert kind != "dangling" or not other.exists()
    assert kind == "dangling" or out.read_text() == "mine"


def test_an_export_that_fails_leaves_no_part(tape: Path) -> None:
    """A part of a session could pass for all of it."""
    data = bytearray(tape.read_bytes())
    data[-1] ^= 1
    tape.write_bytes(bytes(data))
    out = tape.with_name("out.txt")
    with pytest.raises(BadRecording):
        run(tape, str(out))
    assert not out.exists()


def test_attack_a_long_list_of_lost_chunks(tape: Path) -> None:
    """A file, or a node, may state very many chunks as lost: each is looked up in no time, and the
    file is refused for what it lacks.
    """
    lost = range(1, 200_000)
    with tape.open("rb") as file:
        parts = list(read_file(file))
    parts[1:1] = [("missing", json.dumps([*lost]).encode())]
    tape.write_bytes(b"".join(write_file(parts)))
    with pytest.raises(BadRecording, match="has to be"):
        list(from_file(tape).frames())
