"""The process that makes indexes: what it gives, what it refuses, and what it cannot do."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
import zstandard

from recorded_sessions import chunks_of, frame, opened, read_all
from tele.model.frame import FrameKind
from tele.snapshots.program import BAD_RECORDING, CHUNK_HEAD, RESULT_HEAD
from tele.snapshots.system_calls import filter_for
from tele.tape.index import read_index

PROGRAM = [sys.executable, "-I", "-m", "tele.snapshots.program"]


def run(terminal: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, terminal, "60"], input=data, capture_output=True, timeout=60)


def confined(code: str) -> str:
    """What ``code`` prints in a process that has given up its rights."""
    modules = "ctypes, fcntl, os, resource, socket, sys"
    before = f"from tele.snapshots.program import confine\nimport {modules}\nconfine(20)\n"
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


def test_attack_it_reaches_no_process_of_its_account() -> None:
    """Where auth is not root, the process has its account: it can still not signal it, trace it,
    read or set its limits, nor have the kernel signal it. What it may do goes on.
    """
    code = """
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    if getattr(libc, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), name)
parent = os.getpid()
for name, attempt in (
    ("kill", lambda: os.kill(parent, 0)),
    ("ptrace", lambda: call("ptrace", 16, parent, 0, 0)),
    ("memory", lambda: call("process_vm_readv", parent, 0, 0, 0, 0, 0)),
    ("limit", lambda: resource.prlimit(parent, resource.RLIMIT_CPU)),
    ("nice", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)),
    ("owner", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent)),
    ("stat", lambda: os.stat("/etc/hostname")),
    ("exec", lambda: os.execv("/bin/true", ["true"])),
    ("pidfd", lambda: os.pidfd_open(parent)),
):
    try:
        attempt()
    except OSError as error:
        print(name, error.errno)
    else:
        print(name, "done")
"""
    lines = dict(line.split() for line in confined(code).splitlines())
    assert set(lines.values()) == {"1"}, lines
    assert len(lines) == 9


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_calls(machine: str) -> None:
    """It allows the listed calls of one architecture, refuses others, and ends the process for any
    of another architecture; a machine without a list has no filter.
    """
    code = [struct.unpack_from("=HBBI", filter_for(machine), at) for at in range(0, 8 * 43, 8)]
    assert len(filter_for(machine)) == 8 * 43
    own = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]

    def decided(number: int, architecture: int = own) -> int:
        at, value = 0, 0
        while True:
            kind, yes, no, operand = code[at]
            if kind == 0x06:
                return int(operand)
            if kind == 0x20:
                value = {0: number, 4: architecture}[operand]
            taken = value == operand if kind == 0x15 else value >= operand
            at += 1 + (0 if kind == 0x20 else yes if taken else no)

    allowed = [number for number in range(1000) if decided(number) == 0x7FFF0000]
    assert len(allowed) == 36
    assert {"x86_64": 101, "aarch64": 117}[machine] not in allowed  # ptrace
    assert decided(0x40000000) == decided(0xFFFFFFFF) == 0x00050001
    assert decided(allowed[0], own ^ 1) == 0x80000000
    assert filter_for("s390x") == b""
