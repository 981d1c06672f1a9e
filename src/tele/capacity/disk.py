"""How are ends of sessions and audit events written when the disk is full?

A :class:`DiskReserve` is a file that takes real blocks, and empty files that take inodes. When a
write that must not be lost fails because the disk (or quota) is full, the file is truncated, some
of the empty files are removed, and the write is tried again.

Invariants:

* Data of users never use the reserve: only records of how something ended, and the audit.
* While the reserve is not whole (the audit's: not half), no new session starts, so that it lasts
  for those that run.
* It may block on the disk, and may be used by several threads.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

Result = TypeVar("Result")


def is_full(error: OSError) -> bool:
    """Whether there was no space, or none left of a quota."""
    return error.errno in _FULL


def why(error: OSError) -> str:
    """Return the reason why a write failed, for a recording or an error."""
    match error.errno:
        case errno.ENOSPC:
            return "the disk was full"
        case errno.EDQUOT:
            return "the disk quota was used up"
        case errno.EMFILE:
            return "the process had no file descriptors left"
        case errno.ENFILE:
            return "the machine had no file descriptors left"
        case errno.EFBIG:
            return "the limit of the size of a file was reached"
        case errno.EACCES | errno.EPERM:
            return "permission was denied"
        case errno.EROFS:
            return "the file system was read-only"
        case errno.EIO:
            return "the disk failed"
    return f"the system said: {error.strerror or error}"


class DiskReserve:
    """``size`` bytes of real space in the file ``path``; released ``step`` by ``step``.

    With ``files`` it also has so many empty files, ``path`` with a number, of which each step
    removes its part: a file system without free inodes creates no file, whatever its space.
    It may be empty at first: if the disk is full already, or cannot reserve.
    """

    def __init__(self, path: Path, size: int, step: int, files: int = 0) -> None:
        self._empty = [path.with_name(f"{path.name}.{number}") for number in range(files)]
        self._empty_left = 0
        self._empty_step = -(-files * step // size)
        self._path = path
        self._size = size
        self._step = step
        self._file: int | None = None
        self._left = 0
        self._unsupported = False
        self._lock = threading.Lock()
        self.is_whole()

    def is_whole(self) -> bool:
        """Whether the reserve is complete, after taking back what is missing if there is space.

        Always true on a file system that cannot reserve.
        """
        with self._lock:
            return self._fill_files() and self._fill_space()

    def is_half(self) -> bool:
        """Whether at least half of the reserve is there; what is missing is taken back first."""
        with self._lock:
            files = self._fill_files() or 2 * self._empty_left >= len(self._empty)
            return (self._fill_space() or 2 * self._left >= self._size) and files

    @property
    def left(self) -> int:
        """Bytes in reserve; all of ``size`` if the file system cannot reserve."""
        return self._size if self._unsupported else self._left

    def _fill_files(self) -> bool:
        try:
            for path in self._empty[self._empty_left :]:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._empty_left += 1
        except OSError:
            return False
        return True

    def _fill_space(self) -> bool:
        if self._unsupported or self._left == self._size:
            return True
        try:
            if self._file is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o600)
            os.posix_fallocate(self._file, 0, self._size)
        except OSError as error:
            self._unsupported = error.errno in _UNSUPPORTED
            self._measure()
            return self._unsupported
        self._left = self._size
        return True

    def _measure(self) -> None:
        """After a reservation that failed: count the blocks that the file has."""
        if self._file is not None:
            found = os.fstat(self._file)
            self._left = min(found.st_size, found.st_blocks * 512, self._size - 1)

    def spend(self, write: Callable[[], Result]) -> Result:
        """Return what ``write`` returns, releasing as much as it needs. Raises its OSError."""
        while True:
            try:
                return write()
            except OSError as error:
                if not is_full(error) or not self._release():
                    raise

    def _release(self) -> bool:
        with self._lock:
            return self._release_step()

    def _release_step(self) -> bool:
        released = False
        if self._file is not None and self._left > 0:
            self._left = max(0, self._left - self._step)
            os.ftruncate(self._file, self._left)
            released = True
        left = max(0, self._empty_left - self._empty_step)
        for path in self._empty[left : self._empty_left]:
            path.unlink(missing_ok=True)
            released = True
        self._empty_left = left
        return released

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
