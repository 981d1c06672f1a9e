"""How is there disk space for the last words when the disk is full?

A :class:`DiskReserve` is a file that takes real blocks. When a write of what must not be lost
meets a full disk (or quota), the file is made smaller, and the write is tried again.

Invariants:

* What users send never uses the reserve: only what says how something ended, and the audit.
* While the reserve is not whole nothing new begins, so that it lasts for what runs.
"""

from __future__ import annotations

import errno
import os
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
    """Return in words for a recording or an error what kept something from being written."""
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

    It may not be there at first: where the disk is full already, or cannot reserve.
    """

    def __init__(self, path: Path, size: int, step: int) -> None:
        self._path = path
        self._size = size
        self._step = step
        self._file: int | None = None
        self._left = 0
        self._unsupported = False
        self.is_whole()

    def is_whole(self) -> bool:
        """Whether all of it is there; what is missing is taken back first, if there is space.

        On a file system that cannot reserve there is nothing that could be missing.
        """
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
        """After a reservation that failed: count what there is."""
        if self._file is not None:
            found = os.fstat(self._file)
            self._left = min(found.st_size, found.st_blocks * 512, self._size - 1)

    def spend(self, write: Callable[[], Result]) -> Result:
        """Return what ``write`` does, releasing as much as it needs. Raises its OSError."""
        while True:
            try:
                return write()
            except OSError as error:
                if not is_full(error) or not self._release():
                    raise

    def _release(self) -> bool:
        if self._file is None or self._left <= 0:
            return False
        self._left = max(0, self._left - self._step)
        os.ftruncate(self._file, self._left)
        return True

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
