"""How is the index of a stored recording made? By a confined process, chunk by chunk.

Invariants:

* Auth itself parses no output of a session: chunks are unpacked here, frames are read there
  (:mod:`tele.snapshots.program`). What it makes is checked, and shown as text only.
* One thread writes to the process and reads from it; nothing else waits for it. A process that
  takes too long is killed, by its number, and so is one that is not needed any more.
* Each chunk is the one that the manifest names; without a manifest each names the one before.
* The process never has a key: chunks of a sealed recording are opened here, and what it made of
  them is sealed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import IO, Any, Final

import zstandard
from attrs import evolve, frozen
from twisted.internet.interfaces import IReactorTime

from tele.errors import BadRecording, Unavailable
from tele.interfaces import IArchive
from tele.model.session import ChunkDigest
from tele.snapshots.program import BAD_RECORDING, CHUNK_HEAD, OUTPUT_LIMIT, RESULT_HEAD, TEXT_LIMIT
from tele.tape.examine import OpenChunk
from tele.tape.index import Index, read_index
from tele.tape.layout import Chunk, read_chunk
from tele.text import printable
from tele.workers import SerialWorker

#: CPU seconds of the process: for each recording, and by terminal for each chunk of it, which has
#: about 2 MiB of frames however small it is packed.
CPU_SECONDS: Final = 60
CPU_PER_CHUNK: Final = {"ghostty": 4, "own": 40}
#: And at most: a few kilobytes may unpack to hours of work, and other recordings wait meanwhile.
CPU_LIMIT: Final = {"ghostty": 900, "own": 7200}
#: A process that takes so many times its CPU seconds is killed.
TIMES: Final = 10
_LINE_LIMIT: Final = 1000
#: Runs the program with the paths of this one: isolated, Python ignores ``PYTHONPATH``.
_BEGIN: Final = (
    "import runpy, sys; sys.path[:] = sys.argv.pop().split(chr(10));"
    " runpy.run_module('tele.snapshots.program', run_name='__main__', alter_sys=True)"
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


class _Process:
    """The process; every method is called in one thread, but :meth:`kill`."""

    def __init__(self, terminal: str, cpu_seconds: int) -> None:
        self._result: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (see close)
        try:
            self._process = subprocess.Popen(  # noqa: S603  (this program)
                [sys.executable, "-I", "-c", _BEGIN, terminal, str(cpu_seconds), _paths()],
                stdin=subprocess.PIPE,
                stdout=self._result,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LANG": "C.UTF-8"},
                start_new_session=True,
                bufsize=0,
            )
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

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101  (it was asked for)
        return self._process.stdin

    def result(self) -> MadeIndex:
        """Wait for the end, and return what it made. Raises :class:`BadRecording`, or OSError."""
        self._input.close()
        status = self._process.wait()
        if status == BAD_RECORDING:
            raise BadRecording("its frames cannot be read")
        if status != 0:
            raise OSError(f"the process that makes the index ended with status {status}")
        self._result.seek(0)
        return _read_result(self._result.read(OUTPUT_LIMIT + 1))

    def kill(self) -> None:
        """Kill the process. May be called at any time."""
        self._process.kill()

    def close(self) -> None:
        """End the process, whatever it does, and release everything."""
        self._process.kill()
        with suppress(OSError):
            self._input.close()
        self._process.wait()
        self._result.close()


def start_process(terminal: str, chunks: int) -> _Process:
    """Start the process for a recording of so many chunks, for a program without a reactor."""
    return _Process(terminal, CPU_SECONDS + CPU_PER_CHUNK[terminal] * chunks)


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
        return [_read_line(each) for each in raw.split(b"\n") if each]
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise BadRecording(f"the text of the index cannot be read: {error}") from None


def _read_line(line: bytes) -> Line:
    at, channel, text = json.loads(line)
    if type(at) is not int or type(channel) is not int or not isinstance(text, str):
        raise ValueError("a line of another form")
    return Line(at, channel, printable(text[:_LINE_LIMIT]))


class _Sender:
    """In the thread: unpacks chunks, which is the expensive part, and sends them."""

    def __init__(self, process: _Process, open_chunk: OpenChunk) -> None:
        self._process = process
        self._open_chunk = open_chunk
        self._last: tuple[int, bytes] | None = None

    def __call__(self, data: bytes, named: ChunkDigest) -> None:
        previous = None
        if self._last is not None and self._last[0] == named.number - 1:
            previous = self._last[1]
        chunk = self._open_chunk(data, named.number, previous)
        if named.sha256 and (len(data), chunk.digest.hex()) != (named.size, named.sha256):
            raise BadRecording(f"chunk {named.number} is not the one that the manifest names")
        self._last = named.number, chunk.digest
        self._process.write(chunk)


class Indexer:
    """Makes indexes, one at a time, with ``terminal`` (:func:`library`)."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._worker = SerialWorker(reactor, "tele-index")
        self._process: _Process | None = None

    async def make(
        self,
        archive: IArchive,
        recording_id: str,
        chunks: Sequence[ChunkDigest],
        missing: Collection[int],
        name: Callable[[int], str],
        terminal: str,
        open_chunk: OpenChunk = read_chunk,
        seal: Callable[[bytes], bytes] | None = None,
    ) -> MadeIndex:
        """Return the index of a recording with these ``chunks``, called ``name(number)``.

        ``open_chunk`` reads chunks; ``seal``, called in a thread, seals the index. The digest of a
        chunk is empty if no manifest names it. Raises :class:`BadRecording` for a recording that
        cannot be read, :class:`Unavailable` where another attempt may succeed, and what the archive
        raises.
        """
        cpu = min(CPU_SECONDS + CPU_PER_CHUNK[terminal] * len(chunks), CPU_LIMIT[terminal])
        try:
            process = await self._worker.call(_Process, terminal, cpu)
        except OSError as error:
            raise Unavailable(f"no process can be started: {error}") from None
        self._process = process
        limit = self._reactor.callLater(cpu * TIMES, process.kill)
        send = _Sender(process, open_chunk)
        try:
            for chunk in chunks:
                if chunk.number in missing:
                    continue
                data = await archive.get(recording_id, name(chunk.number))
                await self._worker.call(send, data, chunk)
            made = await self._worker.call(process.result)
            if seal is None:
                return made
            return evolve(made, blob=await self._worker.call(seal, made.blob))
        except OSError as error:
            raise Unavailable(str(error)) from None
        finally:
            self._process = None
            if limit.active():
                limit.cancel()
            await self._worker.call(process.close)

    async def digest(self, data: bytes) -> str:
        """Return the SHA-256 of an index, in hex."""
        return await self._worker.call(lambda: hashlib.sha256(data).hexdigest())

    async def check(self, data: bytes, check: Callable[[bytes], None]) -> None:
        """Check an index in a thread. Raises what ``check`` raises."""
        await self._worker.call(check, data)

    def kill(self) -> None:
        """Kill the process, if one runs: what waits for it fails."""
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        """End the thread; no index may be in the making."""
        await self._worker.close()


def describe(made: MadeIndex) -> dict[str, Any]:
    """Return the fields of the log line about an index."""
    return {
        "keyframes": len(made.index.keyframes),
        "marks": len(made.index.marks),
        "lines": len(made.lines),
        "output": made.index.output,
    }
