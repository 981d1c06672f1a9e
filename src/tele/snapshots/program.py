"""The process that makes an index: ``python -I -m tele.snapshots.program TERMINAL CPU``.

It reads chunks from its standard input, each as a head and its frames, and writes the index and the
lines to search in to its standard output. Recordings are hostile, and so may be the library that
reads them: after its imports the process gives up its rights.

Invariants:

* From the first byte that it reads on it can open no file and no socket (``RLIMIT_NOFILE``), start
  no process, write no more than :data:`OUTPUT_LIMIT` bytes, use no more memory and CPU than it was
  given, and is no more root. It reaches no other process of its account, either
  (:mod:`tele.snapshots.system_calls`).
* It ends when its input ends, so it does not outlive the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys
from typing import BinaryIO, Final

import zstandard

from tele.errors import BadRecording
from tele.snapshots.builder import IndexBuilder
from tele.snapshots.system_calls import restrict
from tele.snapshots.terminals import MakeTerminal, OwnTerminal
from tele.tape.layout import DATA_LIMIT, RAW_LIMIT, Chunk, Facts

#: Number, version, whether it is the last, digest, length of the frames.
CHUNK_HEAD: Final = struct.Struct(">IBB32sI")
#: Length of the index, of the packed lines, and 1 if lines were left out.
RESULT_HEAD: Final = struct.Struct(">QQB")
#: Bytes of lines, with 32 more for each, and of what the process may write in all.
TEXT_LIMIT: Final = 16 * 1024 * 1024
OUTPUT_LIMIT: Final = 192 * 1024 * 1024
MEMORY_LIMIT: Final = 1536 * 1024 * 1024
NOBODY: Final = 65534
#: Exit status for a recording that cannot be read.
BAD_RECORDING: Final = 3
_PR_SET_NO_NEW_PRIVS: Final = 38
_NO_FACTS: Final = Facts()


def terminals(name: str) -> MakeTerminal:
    """Return what makes terminals: ``own``, or ``ghostty``. Raises ImportError."""
    if name == "own":
        return OwnTerminal
    from tele.snapshots.ghostty import GhosttyTerminal

    return GhosttyTerminal


def confine(cpu_seconds: int) -> None:
    """Give up what the process does not need. May raise OSError: then nothing may be read."""
    os.nice(10)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY_LIMIT),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, OUTPUT_LIMIT),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 3),
    ):
        resource.setrlimit(limit, (value, value))
    restrict()


class Lines:
    """Collects lines to search in, up to :data:`TEXT_LIMIT`."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0
        self.cut = False

    def add(self, time: int, channel: int, line: str) -> None:
        """Add a line of ``channel``; ``time`` is in nanoseconds."""
        if self.cut:
            return
        self._size += len(line) + 32
        if self._size > TEXT_LIMIT:
            self.cut = True
            return
        self._lines.append(json.dumps([time // 1_000_000, channel, line]).encode("ascii"))

    def packed(self) -> bytes:
        """Return a JSON list for each line: milliseconds, channel, text; compressed."""
        return zstandard.ZstdCompressor(level=3).compress(b"\n".join(self._lines))


def read_chunks(source: BinaryIO, builder: IndexBuilder) -> None:
    """Read chunks until the end. Raises :class:`BadRecording`."""
    while head := source.read(CHUNK_HEAD.size):
        if len(head) < CHUNK_HEAD.size:
            raise BadRecording("the input is cut off")
        number, version, last, digest, size = CHUNK_HEAD.unpack(head)
        if size > RAW_LIMIT + DATA_LIMIT:
            raise BadRecording("a chunk is larger than any chunk")
        raw = source.read(size)
        if len(raw) != size:
            raise BadRecording("the input is cut off")
        facts = None if version == 1 else _NO_FACTS
        builder.add(Chunk(number, bool(last), b"", digest, raw, facts))


def load_terminals(name: str) -> MakeTerminal:
    """Return what makes terminals; what it loads late, it has loaded."""
    make = terminals(name)
    terminal = make(80, 24, False)
    terminal.feed("\x1b[1;31me\u0301\x1b[m\r\n\x1b[48;5;200m\x1b[K\x1b[48;2;1;2;3m\x1b[K".encode())
    terminal.resize(100, 30)
    terminal.text_from((0, 0))
    terminal.state()
    terminal.take_lines()
    terminal.close()
    "warm".encode("utf-8", "replace").decode("utf-8", "replace")
    return make


def make_index(make: MakeTerminal, cpu_seconds: int) -> int:
    """Give up all rights, read a recording, and write its index; returns an exit status."""
    confine(cpu_seconds)
    lines = Lines()
    builder = IndexBuilder(make, lines.add)
    try:
        read_chunks(sys.stdin.buffer, builder)
        index = builder.pack()
    except BadRecording:
        return BAD_RECORDING
    text = lines.packed()
    out = sys.stdout.buffer
    out.write(RESULT_HEAD.pack(len(index), len(text), lines.cut))
    out.write(index)
    out.write(text)
    out.flush()
    return 0


def main(arguments: list[str]) -> int:
    """Run, with the name of a terminal and the seconds of CPU."""
    return make_index(load_terminals(arguments[0]), int(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
