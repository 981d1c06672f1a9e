"""How is the index of a stored recording made? By a confined process, chunk by chunk.

Invariants:

* Auth itself parses no output of a session: chunks are unpacked here, frames are read there
  (:mod:`tele.snapshots.program`). What it makes is checked, and shown as text only.
* One thread writes to the process and reads from it; nothing else waits for it. A process that
  takes too long is killed, and so is one that is not needed any more
  (:mod:`tele.recording.index_program`).
* Each chunk is the one that the manifest names; without a manifest each names the one before.
* The process never has a key: chunks of a sealed recording are opened here, and what it made of
  them is sealed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from attrs import evolve
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import BadRecording, Unavailable
from tele.interfaces import IArchive
from tele.log import make_logger
from tele.model.session import ChunkDigest
from tele.recording.index_program import IndexProcess, IndexProgram, MadeIndex, cpu_seconds
from tele.tape.examine import OpenChunk
from tele.tape.layout import read_chunk
from tele.workers import SerialWorker

log: Final = make_logger(__name__)

#: A process that takes so many times its CPU seconds is killed.
TIMES: Final = 10
#: The program ends after so many seconds without a recording.
IDLE_SECONDS: Final = 60.0


class _Sender:
    """In the thread: unpacks chunks, which is the expensive part, and sends them."""

    def __init__(self, process: IndexProcess, open_chunk: OpenChunk) -> None:
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
        self._program: IndexProgram | None = None
        self._process: IndexProcess | None = None
        #: The same, as the thread knows it.
        self._open: IndexProcess | None = None
        self._idle: IDelayedCall | None = None
        self._closed = False

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
        self._stay()
        cpu = cpu_seconds(terminal, len(chunks))
        try:
            process = await self._worker.call(self._start, terminal, cpu)
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
            await self._worker.call(self._finish)
            if not self._closed:
                self._idle = self._reactor.callLater(IDLE_SECONDS, self._leave)

    def _start(self, terminal: str, cpu: int) -> IndexProcess:
        """In the thread: start a process, and the program if need be. May raise OSError."""
        self._finish()
        program = self._program
        if program is None or program.terminal != terminal or not program.is_running:
            self._end()
            program = self._program = IndexProgram(terminal)
        self._open = program.start(cpu)
        return self._open

    def _finish(self) -> None:
        """In the thread: end the process, also one that is not waited for any more."""
        process, self._open = self._open, None
        if process is not None:
            process.close()

    def _end(self) -> None:
        """In the thread: end the program and its process."""
        self._finish()
        program, self._program = self._program, None
        if program is not None:
            program.close()

    def _stay(self) -> None:
        """The program is needed."""
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        self._idle = None

    def _leave(self) -> None:
        """Nothing was made for a while."""
        self._worker.call(self._end).addErrback(
            lambda failure: log.failure("program of indexes not ended", failure=failure)
        )

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
        """End the program and the thread; no index may be in the making."""
        self._stay()
        closed, self._closed = self._closed, True
        if not closed:
            await self._worker.call(self._end)
        await self._worker.close()


def describe(made: MadeIndex) -> dict[str, Any]:
    """Return the fields of the log line about an index."""
    return {
        "keyframes": len(made.index.keyframes),
        "marks": len(made.index.marks),
        "lines": len(made.lines),
        "output": made.index.output,
    }
