"""Where does auth store recordings? In a directory, one folder for each recording.

Invariants:

* A blob is written once, whole or not at all, and is on disk with all its parent folders before it
  is acknowledged (:mod:`tele.recording.archives.group_writes`).
* Ids and names are checked: no path leaves the archive.
* The reactor's thread never waits for the disk.
* Recordings leave free what the store on the same disk may need.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.disk import is_full
from tele.durable_files import make_folder, sync_folder
from tele.errors import InvalidInput, NotFound, StorageFull, Unavailable
from tele.interfaces import IOnDisk, IRangeArchive
from tele.model.disk import DiskSpace, kept_for_store
from tele.recording.archives.group_writes import GroupWriter
from tele.workers import in_thread_pool

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@implementer(IRangeArchive, IOnDisk)
class DirectoryArchive:
    """Stores recordings under ``root`` (0700), files 0600, in threads of ``reactor``."""

    def __init__(self, root: Path, reactor: IReactorTime) -> None:
        self._root = root
        self._reactor = reactor
        try:
            make_folder(root)
            self._measure()
        except OSError as error:
            raise Unavailable(f"cannot use {root} for recordings: {error}") from None
        self._writer = GroupWriter(root, self._in_thread, self._check_space)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        def guarded() -> Any:
            try:
                return function(*arguments)
            except OSError as error:
                _raise(error)

        return self._in_thread(guarded)

    def _in_thread(self, function: Callable[[], Any]) -> Deferred[Any]:
        return in_thread_pool(self._reactor, function)

    def _folder(self, recording_id: str) -> Path:
        if not _NAME.fullmatch(recording_id):
            raise InvalidInput("not the id of a recording")
        # Two levels, so that no folder gets too many entries.
        return self._root / recording_id[:2] / recording_id

    def _path(self, recording_id: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidInput("not the name of a part of a recording")
        return self._folder(recording_id) / name

    def put(self, recording_id: str, name: str, data: bytes) -> Deferred[None]:
        """See :class:`IArchive`."""
        stored = self._writer.write(self._path(recording_id, name), data)
        stored.addErrback(_fail)
        return stored

    def _check_space(self, size: int) -> None:
        """Raise :class:`StorageFull` if a chunk would take the space reserved for the store."""
        self._measure()
        space = self._space
        if space.free - size < kept_for_store(space.total) or space.lacks_files:
            raise StorageFull(
                "the disk of auth's recordings is full; nodes keep their recordings until there is"
                " space: tele recordings rm"
            )

    def _measure(self) -> None:
        """Measure the free space. May raise OSError."""
        found = os.statvfs(self._root)
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        self._space = DiskSpace(total, free, 0, 0, found.f_files, found.f_favail)

    def space(self) -> DiskSpace:
        """See :class:`IOnDisk`: as of the last recording that was stored or removed."""
        return self._space

    def get(self, recording_id: str, name: str) -> Deferred[bytes]:
        """See :class:`IArchive`."""
        return self._run(self._path(recording_id, name).read_bytes)

    def get_range(self, recording_id: str, name: str, start: int, end: int) -> Deferred[bytes]:
        """See :class:`IRangeArchive`."""
        path = self._path(recording_id, name)

        def read() -> bytes:
            with path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), max(0, end - start), start)

        return self._run(read)

    def names(self, recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        """See :class:`IArchive`."""
        folder = self._folder(recording_id)

        def read_names() -> Sequence[tuple[str, int]]:
            if not folder.is_dir():
                return []
            entries = [e for e in folder.iterdir() if _NAME.fullmatch(e.name)]
            return sorted((entry.name, entry.stat().st_size) for entry in entries)

        return self._run(read_names)

    def remove(self, recording_id: str) -> Deferred[None]:
        """See :class:`IArchive`."""
        folder = self._folder(recording_id)

        def remove() -> None:
            if folder.is_dir():
                shutil.rmtree(folder)
                sync_folder(folder.parent)
            self._measure()

        return self._run(remove)


def _fail(failure: Failure) -> NoReturn:
    _raise(failure.value)


def _raise(error: BaseException | None) -> NoReturn:
    """Raise what a caller is told about an error of the disk."""
    if isinstance(error, FileNotFoundError):
        raise NotFound("the archive has no such recording or part of it") from None
    if not isinstance(error, OSError):
        raise error or Unavailable("the archive failed")
    if is_full(error):
        raise StorageFull("the disk of auth's recordings is full") from None
    raise Unavailable(f"the archive failed: {error.strerror}") from None
