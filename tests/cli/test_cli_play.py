"""A replay in a real terminal: what it leaves there."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.recording.playback import Source
from tele.tape.file import write_file
from tele.tape.writer import TapeWriter
from tele_command import Tele

START = RecordingStart(
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11", "ssh", "c", "alice", "root", ("access",), "s", "web1",
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22", "192.0.2.1:1",
    datetime(2026, 11, 24, 12, tzinfo=UTC),
)  # fmt: skip
PTY = {"kind": "shell", "command": "", "pty": {"term": "vt", "columns": 80, "rows": 24}}
#: A full-screen program, with a scroll region and mouse reports, that ends; then a shell that does.
SESSION = (
    b"$ vim\r\n\x1b[?1049h\x1b[2J\x1b[1;5r\x1b[?1002h\x1b[1;1Htext of the file"
    b"\x1b[?1049l\r$ second\r\n$ third\r\n$ exit\r\nlogout\r\n"
)


def recording(path: Path, data: bytes) -> str:
    """Write a recording of a terminal's output, not closed; return the file's name."""
    writer = TapeWriter()
    writer.add(Frame(0, 0, FrameKind.START, encode(START)))
    writer.add(Frame(0, 1, FrameKind.OPEN, json.dumps(PTY).encode()))
    writer.add(Frame(1000, 1, FrameKind.OUTPUT, data))
    cut = writer.cut(last=True)
    assert cut is not None
    source = Source(START.id, START, None, lambda: iter((cut[1],)))
    path.write_bytes(b"".join(write_file(source.blobs())))
    return str(path)


def until(found: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("data", [SESSION, SESSION[: SESSION.index(b"\x1b[?1049l")]])
def test_a_replay_leaves_what_it_showed(tele: Tele, tmp_path: Path, data: bytes) -> None:
    """What comes next is below what was shown, on the main screen, without mouse reports."""
    file = recording(tmp_path / "r.tape", data)
    tmux = ["tmux", "-S", str(tmp_path / "t"), "-f", "/dev/null"]

    def ask(*words: str) -> str:
        return subprocess.run(
            [*tmux, *words], env=tele.environment, capture_output=True, text=True, check=True
        ).stdout

    ask("new", "-d", "-x", "80", "-y", "24", f"tele play {file}; echo 'after'; exec sleep 1000")
    try:
        until(lambda: "after" in ask("capture-pane", "-p"))
        lines = ask("capture-pane", "-p").split("\n")
        said = "#{alternate_on} #{mouse_any_flag} #{scroll_region_lower}"
        assert ask("display", "-p", said) == "0 0 23\n"
        if data == SESSION:
            assert lines[lines.index("logout") + 1] == "after"
            assert {"$ second", "$ third", "$ exit"} <= set(lines)
    finally:
        ask("kill-server")
