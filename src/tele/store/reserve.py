"""What does the store write with when the disk is full? With space that it keeps for that.

The file ``<store>.reserve`` takes real blocks. When SQLite finds the disk full a part of it is
released and the commit is tried again: what has begun gets to its end, with its event in the audit.
Whoever serves looks at :meth:`StoreReserve.space` and lets little begin while it is not whole.

Synchronous; all but :meth:`StoreReserve.space` in the one thread that writes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Final, TypeVar

from tele.capacity.disk import DiskReserve
from tele.errors import StorageFull
from tele.model.disk import DiskSpace

#: The reserve is one part in so many of the disk, within bounds: some hundred log-ins.
PART: Final = 64
LEAST: Final = 1 << 20
MOST: Final = 16 << 20
STEP: Final = 256 << 10

T = TypeVar("T")


def is_full(error: sqlite3.Error) -> bool:
    """Whether SQLite had no space."""
    code = getattr(error, "sqlite_errorcode", None)
    # A quota that is used up, and shared memory that cannot grow, are errors of input and output.
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


class StoreReserve:
    """Space beside the store ``path``."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        total = self._measure()[0]
        self._size = max(LEAST, min(MOST, total // PART))
        self._reserve = DiskReserve(path.with_name(f"{path.name}.reserve"), self._size, STEP)
        self._space = DiskSpace(0, 0, 0, 0)
        self.look()

    def _measure(self) -> tuple[int, int, int, int]:
        """Return bytes, free ones, inodes, free ones."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0, 0, 0, 0  # what cannot be asked cannot be written to either, which says more
        size = found.f_frsize
        return found.f_blocks * size, found.f_bavail * size, found.f_files, found.f_favail

    def space(self) -> DiskSpace:
        """Return what there was when somebody looked last. Never waits."""
        return self._space

    def look(self) -> None:
        """Take back what was released, if there is space, and look how much there is."""
        self._reserve.is_whole()
        self._note()

    def _note(self) -> None:
        total, free, files, files_free = self._measure()
        self._space = DiskSpace(total, free, self._size, self._reserve.left, files, files_free)

    def spend(self, write: Callable[[], T]) -> T:
        """Return what ``write`` does, with the reserve if need be. Raises :class:`StorageFull`."""

        def attempt() -> T:
            try:
                return write()
            except sqlite3.Error as error:
                if is_full(error):
                    raise OSError(ENOSPC, str(error)) from error
                raise

        before = self._reserve.left
        try:
            return self._reserve.spend(attempt)
        except OSError:
            raise StorageFull(
                "auth's disk is full, and so is what was reserved: make room on auth's machine"
            ) from None
        finally:
            if self._reserve.left != before:
                self._note()

    def close(self) -> None:
        """Let go of the file, which stays."""
        self._reserve.close()
