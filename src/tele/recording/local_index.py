"""How is a file sought in, which has no index? One is made beside the replay.

The same program makes it as at auth (:mod:`tele.recording.index_program`). It is in memory: of a
sealed recording it shows what the key protects.

Invariants:

* The replay does not wait for it, and ends it.
* What cannot be indexed is played without.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import frozen

from tele.errors import NotFound, TeleError
from tele.model.api.operation import Octets
from tele.model.api.recordings import GET_INDEX
from tele.recording.playback import Source
from tele.recording.seek import IndexedRecording, is_of
from tele.tape.file import find_blobs
from tele.tape.index import Index

if TYPE_CHECKING:
    from tele.recording.index_program import IndexProcess

#: Files that are smaller are read again faster than an index is made.
LEAST_SIZE: Final = 256 * 1024


@frozen
class _Made:
    blob: bytes
    index: Index
    places: dict[int, tuple[int, int]]


class LocalIndex:
    """The index of ``source``, which was read from the file at ``path``; :meth:`start` begins."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._source = source
        self._made: _Made | None = None
        self._kill: Any = None
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tele-index", daemon=True)

    def start(self) -> None:
        """Begin to make it, if the file is not small."""
        try:
            if self._path.stat().st_size >= LEAST_SIZE:
                self._thread.start()
        except OSError:
            return  # the replay states it

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; returns whether it is ready."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return self._made is not None

    def close(self) -> None:
        """End the process, and wait for that."""
        with self._lock:
            self._closed = True
            if self._kill is not None:
                self._kill()
        if self._thread.ident is not None:
            self._thread.join()

    def seekable(self, channel: int) -> IndexedRecording | None:
        """Return the recording for seeking in ``channel``, once its index is ready."""
        made, source = self._made, self._source
        if made is None or not is_of(made.index, source.manifest, source.missing):
            return None
        recording = IndexedRecording(
            source.id, made.index, source.manifest, frozenset(source.missing), self._perform,
            source.open_chunk,
        )  # fmt: skip
        return recording if recording.has_terminal(channel) else None

    def _perform(self, operation: Any, request: Any) -> Octets:
        """Answer as auth does."""
        made = self._made
        if made is None:
            raise NotFound("there is no index yet")
        if operation is GET_INDEX:
            return Octets(made.blob[request.start : request.end])
        place = made.places.get(request.number)
        if place is None:
            raise NotFound("no such chunk")
        with self._path.open("rb") as file:
            file.seek(place[0])
            return Octets(file.read(place[1]))

    # -- in the thread ----------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._make()
        except (TeleError, OSError):
            return  # it is played without; the replay states what is wrong with the file

    def _make(self) -> None:
        with self._path.open("rb") as file:
            places = _places(file)
        # A replay begins sooner without these imports.
        from tele.recording.index_program import IndexProgram, cpu_seconds, library

        program = IndexProgram(library())
        try:
            self._read(program.start(cpu_seconds(program.terminal, len(places))), places)
        finally:
            program.close()

    def _read(self, process: IndexProcess, places: dict[int, tuple[int, int]]) -> None:
        try:
            with self._lock:
                if self._closed:
                    return
                self._kill = process.kill
            previous: tuple[int, bytes] | None = None
            for number, data in zip(sorted(places), self._source.chunks(), strict=False):
                follows = previous is not None and previous[0] == number - 1
                before = previous[1] if previous is not None and follows else None
                chunk = self._source.open_chunk(data, number, before)
                process.write(chunk)
                previous = number, chunk.digest
            made = process.result()
            self._made = _Made(made.blob, made.index, places)
        finally:
            with self._lock:
                self._kill = None
            process.close()


def _places(file: BinaryIO) -> dict[int, tuple[int, int]]:
    """Return where the chunks of a file are: offset and size, by number."""
    found: dict[int, tuple[int, int]] = {}
    for name, offset, size in find_blobs(file):
        number, dot, kind = name.partition(".")
        if dot and kind == "chunk" and number.isdecimal():
            found[int(number)] = offset, size
    return found
