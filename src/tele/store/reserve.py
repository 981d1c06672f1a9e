"""How does the store commit while the disk is full? With reserved space.

The file ``<store>.reserve`` allocates blocks. When SQLite finds the disk full, a part of it is
released and the commit is tried again: operations that have begun end, with their events. While the
reserve is not whole, auth lets few operations begin (:meth:`StoreReserve.space`).

Synchronous; all methods but :meth:`StoreReserve.space` are called in the thread that writes.
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

#: The reserve is this fraction of the disk, within bounds: some hundred logins.
PART: Final = 64
LEAST: Final = 1 << 20
MOST: Final = 16 << 20
STEP: Final = 256 << 10

T = TypeVar("T")


def is_full(error: sqlite3.Error) -> bool:
    """Whether SQLite failed for lack of space."""
    code = getattr(error, "sqlite_errorcode", None)
    # SQLite reports a disk quota, and shared memory that cannot grow, as I/O errors.
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


class StoreReserve:
    """Space beside the store ``path``."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        total = self._measure()[0]
        self._size = max(LEAST, min(MOST, total // PART))
        self._reserve = DiskReserve(path.with_name(f"{path.name}.reserve"), self._size, STEP)
        self._space = DiskSpace(0, 0, 0, 0)
        self.check()

    def _measure(self) -> tuple[int, int, int, int]:
        """Return bytes, free bytes, inodes and free inodes."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0, 0, 0, 0  # writing fails, too, with a better message
        size = found.f_frsize
        return found.f_blocks * size, found.f_bavail * size, found.f_files, found.f_favail

    def space(self) -> DiskSpace:
        """Return the space as of the last :meth:`check`. Never waits."""
        return self._space

    def check(self) -> None:
        """Reserve again what was released, if there is space, and measure the disk."""
        self._reserve.is_whole()
        self._note()

    def _note(self) -> None:
        total, free, files, files_free = self._measure()
        self._space = DiskSpace(total, free, self._size, self._reserve.left, files, files_free)

    def spend(self, write: Callable[[], T]) -> T:
        """Return what ``write`` returns, using the reserve. Raises :class:`StorageFull`."""

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
                "auth's disk is full, and its reserve is used up: free space on auth's machine"
            ) from None
        finally:
            if self._reserve.left != before:
                self._note()

    def close(self) -> None:
        """Close the file; it is not removed."""
        self._reserve.close()
