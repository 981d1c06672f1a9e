"""The program that makes indexes, and its processes, as those who need an index see them.

The program is started once and forks a confined process for each recording
(:mod:`tele.recording.index_forks`): its imports take longer than most indexes.

Invariants:

* A process of one recording knows nothing of another's.
* What it makes is checked, and shown as text only.
* A process that takes too long is killed, and so is one that is not needed any more.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import IO, Final

import zstandard
from attrs import frozen

from tele.errors import BadRecording
from tele.recording.index_forks import KILL, STATUS_LIMIT
from tele.snapshots.program import BAD_RECORDING, CHUNK_HEAD, OUTPUT_LIMIT, RESULT_HEAD, TEXT_LIMIT
from tele.tape.index import Index, read_index
from tele.tape.layout import Chunk
from tele.text import printable

#: CPU seconds of the process: for each recording, and by terminal for each chunk of it, which has
#: about 2 MiB of frames however small it is packed.
CPU_SECONDS: Final = 60
CPU_PER_CHUNK: Final = {"ghostty": 4, "own": 40}
#: And at most: a few kilobytes may unpack to hours of work, and other recordings wait meanwhile.
CPU_LIMIT: Final = {"ghostty": 900, "own": 7200}
_LINE_LIMIT: Final = 1000
#: A line counts with so many bytes more, as in :class:`tele.snapshots.program.Lines`.
_LINE_COST: Final = 32
#: Times and channels are numbers of SQLite.
_NUMBER_LIMIT: Final = 1 << 53
#: Seconds within which the program ends, once it is told to.
_END_SECONDS: Final = 5.0
#: Runs the program with the paths of this one: isolated, Python ignores ``PYTHONPATH``.
_BEGIN: Final = (
    "import runpy, sys; sys.path[:] = sys.argv.pop().split(chr(10));"
    " runpy.run_module('tele.recording.index_forks', run_name='__main__', alter_sys=True)"
)


@frozen
class Line:
    """A line to search in: milliseconds into the session, channel, text."""

    at: int
    channel: int
    text: str


@frozen
class MadeIndex:
    """``blob`` is the index, ``index`` its tables. ``cut``: there were more lines."""

    blob: bytes
    index: Index
    lines: tuple[Line, ...]
    cut: bool


@cache
def library() -> str:
    """Return which terminal is used: ``ghostty`` if it is installed, else tele's ``own``."""
    return "ghostty" if find_spec("pyghostty") is not None else "own"


def _paths() -> str:
    """Return where modules are found, without the current folder."""
    return "\n".join(path for path in sys.path if os.path.isabs(path))


class IndexProgram:
    """The program, with ``terminal`` (:func:`library`). One process runs at a time.

    Every method is called in one thread. :meth:`close` ends it; so does the end of this process.
    """

    def __init__(self, terminal: str) -> None:
        self.terminal = terminal
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._program = subprocess.Popen(  # noqa: S603  (this program)
                    [sys.executable, "-I", "-c", _BEGIN, terminal, _paths()],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"LANG": "C.UTF-8"},
                    start_new_session=True,
                )
        except BaseException:
            self._control.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._program.poll() is None

    def start(self, cpu_seconds: int) -> IndexProcess:
        """Start the process for one recording. May raise OSError."""
        return IndexProcess(self._control, cpu_seconds)

    def close(self) -> None:
        """End the program and its process."""
        self._control.close()
        try:
            self._program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()


class IndexProcess:
    """The process of one recording; every method is called in one thread, but :meth:`kill`."""

    def __init__(self, control: socket.socket, cpu_seconds: int) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._status: int | None = None
        self._result: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (see close)
        try:
            theirs, ours = os.pipe()
            self._input = open(ours, "wb", buffering=0)  # noqa: SIM115  (see close)
            try:
                given = [theirs, self._result.fileno()]
                socket.send_fds(control, [str(cpu_seconds).encode()], given)
            except BaseException:
                self._input.close()
                raise
            finally:
                os.close(theirs)
        except BaseException:
            self._result.close()
            raise

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; waits until the process reads it. May raise OSError."""
        head = CHUNK_HEAD.pack(
            chunk.number, 1 if chunk.facts is None else 2, chunk.last, chunk.digest, len(chunk.raw)
        )
        for data in (head, chunk.raw):
            view = memoryview(data)
            while view:
                written = self._input.write(view)
                view = view[written or 0 :]

    def result(self) -> MadeIndex:
        """Wait for the end, and return what it made. Raises :class:`BadRecording`, or OSError."""
        self._input.close()
        status = self._ended()
        if status == BAD_RECORDING:
            raise BadRecording("its frames cannot be read")
        if status != 0:
            raise OSError(f"the process that makes the index ended with status {status}")
        self._result.seek(0)
        return _read_result(self._result.read(OUTPUT_LIMIT + 1))

    def _ended(self) -> int:
        """Wait for the end; returns the exit status, or a signal as a negative number."""
        if self._status is None:
            told = self._control.recv(STATUS_LIMIT)
            with self._lock:
                self._status = int(told) if told else -1
        return self._status

    def kill(self) -> None:
        """Kill the process. May be called at any time."""
        with self._lock, suppress(OSError):
            if self._status is None:
                self._control.send(KILL)

    def close(self) -> None:
        """End the process, whatever it does, and release everything."""
        self.kill()
        with suppress(OSError):
            self._input.close()
        with suppress(OSError):
            self._ended()
        self._result.close()


def cpu_seconds(terminal: str, chunks: int) -> int:
    """Return the CPU seconds for a recording of so many chunks."""
    return min(CPU_SECONDS + CPU_PER_CHUNK[terminal] * chunks, CPU_LIMIT[terminal])


def _read_result(data: bytes) -> MadeIndex:
    """Check what the process made: it may have been taken over by the recording."""
    if len(data) < RESULT_HEAD.size:
        raise BadRecording("the process that makes the index gave none")
    size, packed, cut = RESULT_HEAD.unpack_from(data)
    blob = data[RESULT_HEAD.size : RESULT_HEAD.size + size]
    text = data[RESULT_HEAD.size + size :]
    if len(blob) != size or len(text) != packed:
        raise BadRecording("the process that makes the index gave a part of one")
    return MadeIndex(blob, read_index(blob), tuple(_read_lines(text)), bool(cut))


def _read_lines(packed: bytes) -> list[Line]:
    try:
        limit = 8 * TEXT_LIMIT  # escaped as JSON a character may take more
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= limit:
            raise BadRecording("the text of the index is too long")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=max(size, 1))
        if raw.count(b"\n") > TEXT_LIMIT // _LINE_COST:
            raise BadRecording("the index has more lines than any index")
        lines, left = [], TEXT_LIMIT
        for each in raw.split(b"\n"):
            if each:
                at, channel, text = _read_line(each)
                left -= len(text) + _LINE_COST
                if left < 0:
                    raise BadRecording("the text of the index is too long")
                lines.append(Line(at, channel, printable(text[:_LINE_LIMIT])))
        return lines
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise BadRecording(f"the text of the index cannot be read: {error}") from None


def _read_line(line: bytes) -> tuple[int, int, str]:
    at, channel, text = json.loads(line)
    if type(at) is not int or type(channel) is not int or not isinstance(text, str):
        raise ValueError("a line of another form")
    if not (min(at, channel) >= 0 and max(at, channel) < _NUMBER_LIMIT):
        raise ValueError("a line with a number that is out of range")
    return at, channel, text
