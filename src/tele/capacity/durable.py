"""How are many files made durable at the cost of one sync? By syncing their file system.

``syncfs`` makes durable the data, names and folders of everything written before, with one commit
of the journal and one flush of the disk, however many files there are. Data of other programs on
the same file system are written, too.

Invariant: it blocks for an unknown time; never call it in the reactor's thread.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
#: None if the C library lacks it; then all file systems are synced.
_SYNCFS: Final[Any] = getattr(_LIBC, "syncfs", None)


def sync_file_system(descriptor: int) -> None:
    """Make durable what was written to the file system of an open file or folder.

    Raises OSError, also if an earlier write could not be stored.
    """
    if _SYNCFS is None:
        os.sync()
    elif _SYNCFS(descriptor) != 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
