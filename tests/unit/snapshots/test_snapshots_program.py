"""The process that makes indexes: what it gives, what it refuses, and what it cannot do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import zstandard

from recorded_sessions import chunks_of, frame, opened, read_all
from tele.model.frame import FrameKind
from tele.snapshots.program import BAD_RECORDING, CHUNK_HEAD, RESULT_HEAD
from tele.tape.index import read_index

PROGRAM = [sys.executable, "-I", "-m", "tele.snapshots.program"]


def run(terminal: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, terminal, "60"], input=data, capture_output=True, timeout=60)


def confined(code: str) -> str:
    """What ``code`` prints in a process that has given up its rights."""
    before = "from tele.snapshots.program import confine\nimport os, socket, sys\nconfine(20)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", before + code], capture_output=True, timeout=60
    )
    return done.stdout.decode()


@pytest.mark.parametrize("terminal", ["own", "ghostty"])
def test_it_makes_an_index(terminal: str) -> None:
    """Chunks go in; the index and the lines come out."""
    data = b""
    frames = [opened(), frame(20, FrameKind.OUTPUT, b"hello there\r\n")]
    for chunk in read_all(chunks_of(frames)):
        data += CHUNK_HEAD.pack(chunk.number, 2, chunk.last, chunk.digest, len(chunk.raw))
        data += chunk.raw
    done = run(terminal, data)
    assert (done.returncode, done.stderr) == (0, b"")
    size, text, cut = RESULT_HEAD.unpack_from(done.stdout)
    rest = done.stdout[RESULT_HEAD.size :]
    assert len(rest) == size + text
    assert not cut
    assert len(read_index(rest[:size]).keyframes) == 1
    lines = zstandard.ZstdDecompressor().decompress(rest[size:], max_output_size=1000)
    assert lines == b'[20000, 1, "hello there"]'


@pytest.mark.parametrize(
    "data",
    [
        b"short",
        CHUNK_HEAD.pack(0, 2, 1, bytes(32), 100),
        CHUNK_HEAD.pack(0, 2, 1, bytes(32), 1 << 30),
    ],
)
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    """An input that ends early, or claims more than a chunk has, is an error and no index."""
    done = run("own", data)
    assert done.returncode == BAD_RECORDING
    assert done.stdout == b""


def test_attack_a_recording_cannot_make_it_open_anything() -> None:
    """A recording that takes the process over gets no file, no socket, no program."""
    code = """
for name, attempt in (
    ("file", lambda: os.open("/etc/hostname", os.O_RDONLY)),
    ("socket", lambda: socket.socket()),
    ("pipe", lambda: os.pipe()),
    ("fork", lambda: os.fork() or os._exit(0)),
    ("root", lambda: os.setuid(0)),
):
    try:
        attempt()
    except OSError as error:
        print(name, error.errno)
    else:
        print(name, "done")
print("uid", os.getuid() != 0)
"""
    shown = confined(code if sys.platform == "linux" else "")
    lines = dict(line.split() for line in shown.splitlines())
    assert lines.pop("uid") == "True"
    assert "done" not in lines.values(), lines


def test_attack_memory_and_output_are_limited() -> None:
    """A recording that makes the library use gigabytes ends the process, and not the machine."""
    code = """
try:
    bytearray(4 << 30)
except MemoryError:
    print("no memory")
"""
    assert confined(code) == "no memory\n"
