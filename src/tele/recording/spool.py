"""Where is a recording until auth has it? In a folder of the node's data directory.

``<spool>/<id>/``: ``start.json``, ``<number>.chunk`` for each chunk, ``manifest.json`` when
it is closed, ``interactive`` when it had a terminal. ``<spool>/.reserve`` is space for ends.

Laws of this file:

* A chunk has its name only when it is whole: what a killed process leaves can be read up
  to the last chunk.
* Nothing is removed before auth acknowledged all of it. A folder without ``start.json`` is
  of a session that never began: its maker was killed between two calls.
* For each file that is written there is a descriptor (:func:`room_for_one`).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from tele.capacity.descriptors import room_for_one
from tele.capacity.disk import DiskReserve
from tele.errors import BadRecording, InvalidInput
from tele.model.codec import decode, encode
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.tape.layout import NO_CHUNK, digest, read_chunk

#: Space for the ends of the sessions that run when the disk gets full, and released at a time.
RESERVE: Final = 8 << 20
RESERVE_STEP: Final = 1 << 20
#: Files that are kept in reserve: an end takes two.
RESERVE_FILES: Final = 64

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = re.compile(r"(\d{8})\.chunk")


class SpoolFolder:
    """One recording in the spool."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The recording's id."""
        return self.path.name

    def create(self, start: RecordingStart) -> None:
        """Make the folder. May raise OSError; then there is none."""
        self.path.mkdir(mode=0o700)
        try:
            self._write("start.json", encode(start))
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove a recording that never began: no more than its first chunk. Opens nothing."""
        for name in ("start.json", f"{0:08d}.chunk"):
            (self.path / name).unlink(missing_ok=True)
            (self.path / f".{name}").unlink(missing_ok=True)
        self.path.rmdir()

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with room_for_one(), open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
        os.rename(temporary, self.path / name)

    def write_chunk(self, number: int, data: bytes) -> None:
        """Keep a chunk. May raise OSError; then it is as if it had not been tried."""
        try:
            self._write(f"{number:08d}.chunk", data)
        except OSError:
            (self.path / f".{number:08d}.chunk").unlink(missing_ok=True)
            raise

    def write_manifest(self, manifest: Manifest) -> None:
        """Close the recording. May raise OSError."""
        self._write("manifest.json", encode(manifest))

    def mark_interactive(self) -> None:
        """Remember that the session had a terminal."""
        with room_for_one():
            (self.path / "interactive").touch(mode=0o600)

    @property
    def interactive(self) -> bool:
        """Whether the session had a terminal."""
        return (self.path / "interactive").exists()

    @property
    def start(self) -> RecordingStart:
        """What was known at the start. Raises :class:`InvalidInput` or OSError."""
        return decode(RecordingStart, (self.path / "start.json").read_bytes())

    @property
    def is_closed(self) -> bool:
        """Whether nobody writes to it any more."""
        return (self.path / "manifest.json").exists()

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, or None while it is open."""
        path = self.path / "manifest.json"
        return decode(Manifest, path.read_bytes()) if path.exists() else None

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks that are here, in order."""
        found = [_CHUNK.fullmatch(name) for name in os.listdir(self.path)]
        return sorted(int(match[1]) for match in found if match)

    @property
    def size(self) -> int:
        """Bytes of all its files. May raise OSError."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path))

    def chunk(self, number: int) -> bytes:
        """Return one chunk. May raise OSError."""
        return (self.path / f"{number:08d}.chunk").read_bytes()

    def remove(self) -> None:
        """Auth has all of it."""
        shutil.rmtree(self.path)

    def recover(self) -> tuple[list[ChunkDigest], bytes, int, int]:
        """Read what a killed process left: (digests, last digest, last time, frames).

        Chunks from the first one on that cannot be read are put aside.
        """
        digests: list[ChunkDigest] = []
        previous, time, frames = NO_CHUNK, 0, 0
        for number in self.numbers():
            data = self.chunk(number)
            try:
                chunk = read_chunk(data, len(digests), previous)
                for frame in chunk.frames():
                    time = max(time, frame.time)
                    frames += 1
            except BadRecording:
                os.rename(self.path / f"{number:08d}.chunk", self.path / f"{number:08d}.bad")
                continue
            previous = digest(data)
            digests.append(ChunkDigest(number, len(data), previous.hex()))
        return digests, previous, time, frames


class Spool:
    """All recordings of this machine that auth does not have yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.reserve = DiskReserve(root / ".reserve", RESERVE, RESERVE_STEP, RESERVE_FILES)

    def clean(self) -> None:
        """Remove the folders of sessions that never began. Call it before the first session."""
        for folder in self.folders():
            if not (folder.path / "start.json").exists() and not folder.numbers():
                folder.remove()

    def folder(self, recording_id: str) -> SpoolFolder:
        """Return the folder of a recording."""
        if not _ID.fullmatch(recording_id):
            raise InvalidInput("not the id of a recording")
        return SpoolFolder(self.root / recording_id)

    def folders(self) -> list[SpoolFolder]:
        """Return all that are here, oldest first."""
        found = [entry for entry in self.root.iterdir() if _ID.fullmatch(entry.name)]
        return [SpoolFolder(path) for path in sorted(found, key=lambda p: p.stat().st_mtime)]

    def put_aside(self, folder: SpoolFolder) -> Path:
        """Keep what auth will never take out of the way, for a person to look at."""
        target = self.root / f"refused-{folder.id}"
        os.rename(folder.path, target)
        return target
