"""Where are blobs until they are in the bucket? On auth's disk, synced.

``landing`` has what waits, ``quarantine`` recordings that cannot be uploaded as they are. Both are
directories like those of ``recordings: dir``.

Invariants:

* A blob leaves the disk after it is in the bucket and written down as that.
* What is in quarantine can be read like everything else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.durable_files import make_folder, sync_folder
from tele.errors import Conflict, NotFound, Unavailable
from tele.model.disk import DiskSpace
from tele.recording.archives.directory import DirectoryArchive
from tele.workers import in_thread_pool

LANDING: Final = "landing"
QUARANTINE: Final = "quarantine"
ATTEMPTS: Final = 10


class Landing:
    """The blobs below ``root``."""

    def __init__(self, root: Path, reactor: IReactorTime) -> None:
        self._root = root
        self._reactor = reactor
        self._waiting = DirectoryArchive(root / LANDING, reactor)
        self._set_aside = DirectoryArchive(root / QUARANTINE, reactor)
        #: Recordings that are in quarantine.
        self.aside: set[str] = set()

    def space(self) -> DiskSpace:
        """Return the space of the disk, as of the last blob."""
        return self._waiting.space()

    def folder(self, recording_id: str) -> Path:
        """Return where the blobs of a recording wait."""
        return self._root / LANDING / recording_id[:2] / recording_id

    def _aside(self, recording_id: str) -> Path:
        return self._root / QUARANTINE / recording_id[:2] / recording_id

    async def put(self, recording_id: str, name: str, data: bytes) -> None:
        """Store a blob; synced."""
        if recording_id in self.aside and await self._is_aside(recording_id, name, data):
            return
        for _ in range(ATTEMPTS):
            try:
                await self._waiting.put(recording_id, name, data)
            except NotFound:
                continue  # the folder was removed meanwhile, since it was empty
            return
        raise Unavailable("the folder of a recording is removed all the time")

    async def _is_aside(self, recording_id: str, name: str, data: bytes) -> bool:
        try:
            present = await self._set_aside.get(recording_id, name)
        except NotFound:
            return False
        if present != data:
            raise Conflict("this part of the recording is there already, and differs")
        return True

    async def get(self, recording_id: str, name: str) -> bytes | None:
        """Return a blob, if it is here."""
        for archive in (self._waiting, self._set_aside):
            try:
                return await archive.get(recording_id, name)
            except NotFound:
                continue
        return None

    async def names(self, recording_id: str) -> Sequence[tuple[str, int]]:
        """Return (name, size) of each blob that is here."""
        return [
            *await self._waiting.names(recording_id),
            *await self._set_aside.names(recording_id),
        ]

    async def waiting(self, recording_id: str) -> Sequence[tuple[str, int]]:
        """Return (name, size) of each blob that waits."""
        return await self._waiting.names(recording_id)

    def remove(self, recording_id: str) -> Deferred[None]:
        """Remove all blobs of a recording."""

        async def both() -> None:
            await self._waiting.remove(recording_id)
            await self._set_aside.remove(recording_id)
            self.aside.discard(recording_id)

        return Deferred.fromCoroutine(both())

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Call a function that reads blobs."""
        return in_thread_pool(self._reactor, function, *arguments)

    async def discard(self, recording_id: str, names: Iterable[str]) -> None:
        """Remove blobs that are in the bucket, and the folder with the last one."""
        folder = self.folder(recording_id)

        def discard() -> None:
            for name in names:
                (folder / name).unlink(missing_ok=True)
            if folder.is_dir():
                sync_folder(folder)
                _remove_if_empty(folder)

        await self._disk(discard)

    async def set_aside(self, recording_id: str) -> None:
        """Move what waits of a recording to the quarantine."""
        self.aside.add(recording_id)
        await self._disk(_move, self.folder(recording_id), self._aside(recording_id))

    async def bring_back(self, recording_id: str) -> bool:
        """Move it back; returns whether there was anything."""
        moved: bool = await self._disk(_move, self._aside(recording_id), self.folder(recording_id))
        self.aside.discard(recording_id)
        return moved

    async def recordings(self) -> Sequence[str]:
        """Return the ids of recordings that wait, after a start; note which are set aside."""

        def scan() -> tuple[list[str], set[str]]:
            waiting, aside = (
                sorted(folder.name for folder in (self._root / name).glob("*/*"))
                for name in (LANDING, QUARANTINE)
            )
            return waiting, set(aside)

        waiting, self.aside = await self._disk(scan)
        found: Sequence[str] = waiting
        return found

    async def _disk(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await in_thread_pool(self._reactor, function, *arguments)
        except OSError as error:
            raise Unavailable(f"the disk of recordings failed: {error.strerror}") from None


def _move(source: Path, target: Path) -> bool:
    """Move the files of a folder, some of which may be there already."""
    if not source.is_dir():
        return False
    make_folder(target)
    for blob in sorted(source.iterdir()):
        blob.rename(target / blob.name)
    sync_folder(target)
    sync_folder(source)
    _remove_if_empty(source)
    return True


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
