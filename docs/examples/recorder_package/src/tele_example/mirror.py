"""An archive that stores each part of a recording in two directories.

A part is stored when it is on both disks. It is read from the first directory that has it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from tele.errors import Conflict, InvalidInput, NotFound, Unavailable
from tele.interfaces import IArchive

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@implementer(IArchive)
class MirrorArchive:
    """Stores recordings below each of ``roots``."""

    def __init__(self, roots: Sequence[Path], reactor: Any) -> None:
        self._roots = roots
        self._reactor = reactor

    def put(self, recording_id: str, name: str, data: bytes) -> Deferred[None]:
        """Store durably. The same bytes again succeed."""
        paths = [self._path(root, recording_id, name) for root in self._roots]
        return self._run(lambda: [_write(path, data) for path in paths] and None)

    def get(self, recording_id: str, name: str) -> Deferred[bytes]:
        """Return the bytes."""
        paths = [self._path(root, recording_id, name) for root in self._roots]

        def read() -> bytes:
            for path in paths:
                if path.exists():
                    return path.read_bytes()
            raise NotFound("no such part of a recording")

        return self._run(read)

    def names(self, recording_id: str) -> Deferred[Sequence[tuple[str, int]]]:
        """Return (name, size in bytes) of each part, in order of names."""
        folders = [self._folder(root, recording_id) for root in self._roots]

        def names() -> Sequence[tuple[str, int]]:
            sizes: dict[str, int] = {}
            for folder in folders:
                for path in folder.glob("[!.]*"):
                    sizes[path.name] = path.stat().st_size
            return sorted(sizes.items())

        return self._run(names)

    def remove(self, recording_id: str) -> Deferred[None]:
        """Remove all parts of a recording."""
        folders = [self._folder(root, recording_id) for root in self._roots]

        def remove() -> None:
            for folder in folders:
                if folder.exists():
                    shutil.rmtree(folder)

        return self._run(remove)

    def _folder(self, root: Path, recording_id: str) -> Path:
        if not _NAME.fullmatch(recording_id):
            raise InvalidInput("not the id of a recording")
        return root / recording_id

    def _path(self, root: Path, recording_id: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidInput("not the name of a part of a recording")
        return self._folder(root, recording_id) / name

    def _run(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Call ``function`` in a thread: the disk may be slow."""

        def guarded() -> Any:
            try:
                return function()
            except OSError as error:
                raise Unavailable(f"the archive failed: {error.strerror}") from None

        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), guarded)


def _write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and have it on the disk."""
    if path.exists():
        if path.read_bytes() != data:
            raise Conflict("this part of the recording is there already, and differs")
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    for folder in (path.parent, path.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
