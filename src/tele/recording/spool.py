"""Where is a recording stored until it is uploaded? In a folder of the node's data directory.

``<spool>/<id>/``: ``start.json``, ``<number>.chunk`` for each chunk that auth does not have,
``acknowledged`` with a line for each that it has, ``manifest.json`` when it is closed,
``interactive`` when it had a terminal, ``keys.json`` with its data keys when it is sealed.
``<spool>/.reserve`` is space for ends of sessions.

All functions here may block on the disk: call them in a thread.

Invariants:

* A chunk gets its name when it is complete: after a kill all named chunks can be read.
* A chunk is removed when auth has it, and no sooner. Its entry for the manifest stays, in
  ``acknowledged``.
* Files survive a power cut after :meth:`Spool.sync`. Before that, any file may be empty, torn or
  missing; reading detects that.
* There is a descriptor for each file that is written or read (:func:`spare_descriptor`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import field, frozen

from tele.capacity.descriptors import spare_descriptor
from tele.capacity.disk import DiskReserve
from tele.capacity.durable import sync_file_system
from tele.errors import BadRecording, InvalidInput
from tele.model.codec import decode, encode
from tele.model.frame import Frame
from tele.model.session import ChunkDigest, Manifest, RecordingStart, WrappedKey
from tele.tape.layout import Chunk, ChunkHead, Facts, digest, read_chunk, read_head
from tele.tape.sealing import DataKey, opener

#: Space for the ends of sessions that run when the disk is full, and how much is released at once.
RESERVE: Final = 8 << 20
RESERVE_STEP: Final = 1 << 20
#: Files in reserve: an end takes two.
RESERVE_FILES: Final = 64

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = re.compile(r"(\d{8})\.chunk")
_LINE = re.compile(rb"(\d+) (\d+) ([0-9a-f]{64}) (\d+) (\d+) ([01])(?: (\d+))?\n")
_ACKNOWLEDGED: Final = "acknowledged"
_KEYS: Final = "keys.json"


@frozen
class Stored:
    """The summary of a chunk.

    ``frames`` is their number, ``time`` that of the last one; ``last``: it ends the recording.
    ``sequence`` is the last number of a frame so far, lost ones included; None if frames have none.
    """

    digest: ChunkDigest
    frames: int
    time: int
    last: bool
    sequence: int | None = None


def stored(chunk: Chunk, size: int) -> Stored:
    """Return the summary of a chunk. Raises :class:`BadRecording`."""
    frames, time, sequence = 0, 0, 0
    for frame in chunk.all_frames():
        if isinstance(frame, Frame):
            frames += 1
            time = max(time, frame.time)
            sequence = max(sequence, frame.sequence)
        else:
            sequence = max(sequence, frame)
    named = ChunkDigest(chunk.number, size, chunk.digest.hex())
    return Stored(named, frames, time, chunk.last, None if chunk.facts is None else sequence)


def summary(head: ChunkHead, data: bytes) -> Stored:
    """Return the summary of a sealed chunk by what its head states; its key is not here."""
    facts = head.facts or Facts()
    named = ChunkDigest(head.number, len(data), digest(data).hex())
    return Stored(named, facts.frames, facts.last_time, head.last, facts.last)


@frozen
class SpoolKey:
    """A data key, and what auth gets of it: the same, wrapped."""

    number: int
    secret: bytes = field(repr=False)
    wrapped: tuple[WrappedKey, ...]


@frozen
class SpoolKeys:
    """The data keys of one recording, in order of their numbers."""

    keys: tuple[SpoolKey, ...] = ()

    @property
    def wrapped(self) -> tuple[WrappedKey, ...]:
        """What auth gets."""
        return tuple(each for key in self.keys for each in key.wrapped)

    @property
    def seal(self) -> DataKey | None:
        """The key that further chunks are sealed with, if any are."""
        if not self.keys:
            return None
        return DataKey(self.keys[-1].number, self.keys[-1].secret, os.urandom)


class SpoolFolder:
    """One recording in the spool."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The recording's id."""
        return self.path.name

    def create(self, start: RecordingStart, keys: SpoolKeys = SpoolKeys()) -> None:
        """Make the folder. After OSError there is none."""
        self.path.mkdir(mode=0o700)
        try:
            if keys.keys:
                self._write(_KEYS, encode(keys))
            self._write("start.json", encode(start))
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove a recording with at most its first chunk. Opens no file."""
        for name in ("start.json", _KEYS, f"{0:08d}.chunk"):
            (self.path / name).unlink(missing_ok=True)
            (self.path / f".{name}").unlink(missing_ok=True)
        self.path.rmdir()

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with spare_descriptor(), open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
        os.rename(temporary, self.path / name)

    def _read(self, name: str) -> bytes:
        with spare_descriptor():
            return (self.path / name).read_bytes()

    def write_start(self, start: RecordingStart) -> None:
        """Write ``start.json`` again. May raise OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._write("start.json", encode(start))

    def write_chunk(self, number: int, data: bytes) -> None:
        """Write a chunk. May raise OSError; then nothing has changed."""
        try:
            self._write(_name(number), data)
        except OSError:
            (self.path / f".{_name(number)}").unlink(missing_ok=True)
            raise

    def write_manifest(self, manifest: Manifest) -> None:
        """Close the recording. May raise OSError."""
        self._write("manifest.json", encode(manifest))

    def mark_interactive(self) -> None:
        """Mark that the session had a terminal."""
        with spare_descriptor():
            (self.path / "interactive").touch(mode=0o600)

    @property
    def interactive(self) -> bool:
        """Whether the session had a terminal."""
        return (self.path / "interactive").exists()

    @property
    def start(self) -> RecordingStart:
        """The start of the session. Raises :class:`InvalidInput` or OSError."""
        return decode(RecordingStart, self._read("start.json"))

    @property
    def keys(self) -> SpoolKeys:
        """The data keys; none if it is not sealed, or they are lost. May raise OSError."""
        try:
            return decode(SpoolKeys, self._read(_KEYS))
        except (FileNotFoundError, InvalidInput):
            return SpoolKeys()

    def open_chunk(self, data: bytes, number: int, previous: bytes | None = None) -> Chunk:
        """Read a chunk of this recording. Raises :class:`BadRecording` or OSError."""
        if not read_head(data, number).key:
            return read_chunk(data, number, previous)
        keys = {key.number: key.secret for key in self.keys.keys}
        return opener(keys)(data, number, previous)

    @property
    def is_closed(self) -> bool:
        """Whether the recording has its manifest."""
        return self.manifest is not None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None while it is open, or if it cannot be read after a power cut."""
        try:
            return decode(Manifest, self._read("manifest.json"))
        except (FileNotFoundError, InvalidInput):
            return None

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks in the spool, in order."""
        with spare_descriptor():
            found = [_CHUNK.fullmatch(name) for name in os.listdir(self.path)]
        return sorted(int(match[1]) for match in found if match)

    @property
    def size(self) -> int:
        """Bytes of all its files. May raise OSError."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path))

    def chunk(self, number: int) -> bytes:
        """Return one chunk. May raise OSError."""
        return self._read(_name(number))

    def discard_chunk(self, number: int) -> None:
        """Remove a chunk. May raise OSError."""
        (self.path / _name(number)).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder: auth has all of it."""
        shutil.rmtree(self.path)

    # -- what auth has ----------------------------------------------------------------
    def release(
        self, number: int, data: bytes, reserve: DiskReserve, known: Stored | None = None
    ) -> Stored:
        """Remove a chunk that auth has, and keep and return its summary.

        Without ``known`` the chunk ``data`` is unpacked for it. After OSError the chunk is still
        here.
        """
        if known is None:
            head = read_head(data, number)
            known = summary(head, data) if head.key else stored(read_chunk(data, number), len(data))
        self.acknowledge(known, reserve)
        self.discard_chunk(number)
        return known

    def acknowledge(self, known: Stored, reserve: DiskReserve) -> None:
        """Write the summary of a chunk that auth has. May raise OSError."""
        named = known.digest
        columns = (named.number, named.size, named.sha256, known.frames, known.time)
        sequence = () if known.sequence is None else (known.sequence,)
        line = " ".join(str(word) for word in (*columns, int(known.last), *sequence)) + "\n"
        reserve.spend(lambda: self._append(line.encode("ascii")))

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with spare_descriptor():
            file = os.open(self.path / _ACKNOWLEDGED, flags, 0o600)
            try:
                size = os.fstat(file).st_size
                if os.write(file, line) != len(line):  # the disk has filled meanwhile
                    os.ftruncate(file, size)
                    os.write(file, line)  # raises the error
            finally:
                os.close(file)

    def acknowledged(self) -> dict[int, Stored]:
        """Return the summaries of the chunks that auth has acknowledged.

        Lines after a torn one are ignored.
        """
        try:
            data = self._read(_ACKNOWLEDGED)
        except FileNotFoundError:
            return {}
        known: dict[int, Stored] = {}
        for line in data.splitlines(keepends=True):
            match = _LINE.fullmatch(line)
            if match is None:
                break
            number, size, frames, time = (int(match[group]) for group in (1, 2, 4, 5))
            named = ChunkDigest(number, size, match[3].decode("ascii"))
            sequence = None if match[7] is None else int(match[7])
            known[number] = Stored(named, frames, time, match[6] == b"1", sequence)
        return known

    def repair(self) -> None:
        """After a power cut: remove a torn line, so that lines can be appended."""
        path = self.path / _ACKNOWLEDGED
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            size = 0
            for line in data.splitlines(keepends=True):
                if _LINE.fullmatch(line) is None:
                    break
                size += len(line)
            if size != len(data):
                os.truncate(path, size)

    # -- closing ----------------------------------------------------------------------
    def digests(self) -> list[ChunkDigest]:
        """Return the manifest's entries of all chunks, including those that auth has.

        May raise OSError.
        """
        found: dict[int, ChunkDigest] = {}
        for number in self.numbers():
            with contextlib.suppress(FileNotFoundError):  # auth has it since: read below
                data = self.chunk(number)
                found[number] = ChunkDigest(number, len(data), digest(data).hex())
        found.update((number, known.digest) for number, known in self.acknowledged().items())
        return [found[number] for number in sorted(found)]

    def read(self, number: int) -> tuple[Chunk, Stored] | None:
        """Return a chunk, or None if it is missing or cannot be read."""
        try:
            data = self.chunk(number)
            chunk = self.open_chunk(data, number)
            return chunk, stored(chunk, len(data))
        except (FileNotFoundError, BadRecording):
            return None

    def first_frame(self) -> Frame | None:
        """Return the first frame, or None if it is missing."""
        found = self.read(0)
        return None if found is None else next(found[0].frames(), None)


class Spool:
    """All recordings of this machine that are not uploaded yet.

    ``sync`` syncs the file system of an open folder.
    """

    def __init__(self, root: Path, sync: Callable[[int], None] = sync_file_system) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.reserve = DiskReserve(root / ".reserve", RESERVE, RESERVE_STEP, RESERVE_FILES)
        self._sync = sync
        self._folder: int | None = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Make durable all that was written so far. May raise OSError.

        May be called in one thread while another one writes.
        """
        if self._folder is not None:
            self._sync(self._folder)

    def close(self) -> None:
        """Close the reserve and the folder. May be called twice."""
        self.reserve.close()
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def folder(self, recording_id: str) -> SpoolFolder:
        """Return the folder of a recording."""
        if not _ID.fullmatch(recording_id):
            raise InvalidInput("not the id of a recording")
        return SpoolFolder(self.root / recording_id)

    def folders(self) -> list[SpoolFolder]:
        """Return the folders of all recordings, oldest first."""
        named = (entry for entry in os.scandir(self.root) if _ID.fullmatch(entry.name))
        found = [entry for entry in named if entry.is_dir(follow_symlinks=False)]
        return [SpoolFolder(Path(e.path)) for e in sorted(found, key=lambda e: e.stat().st_mtime)]


def _name(number: int) -> str:
    return f"{number:08d}.chunk"
