"""How does what was written survive a power cut, at a cost that does not grow with the files?

A file system is synced as a whole: data, names and folders of all that was written to it before,
with one commit of its journal and one flush of the disk, however many files there are. What others
wrote to the same file system is written with it; data that must be quick has one of its own.

Invariants:

* It may wait for the disk, for as long as the disk likes: never call it in a reactor's thread.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
#: There is none where the C library has none; then all file systems are synced.
_SYNCFS: Final[Any] = getattr(_LIBC, "syncfs", None)


def sync_file_system(descriptor: int) -> None:
    """Make durable what was written to the file system of an open file or folder.

    Raises OSError, also if something that was written earlier could not be stored.
    """
    if _SYNCFS is None:
        os.sync()
    elif _SYNCFS(descriptor) != 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
