"""How is a file written so that it survives a crash or a power cut?

Invariants:

* A file is written whole or not at all: under a temporary name, synced, renamed, the folder
  synced. When a function here returns, all of that is on disk.
* A new folder is on disk, too: its parents are synced, up to one that existed.
* Two writers of one file never write to the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

#: Errors of a file system that has no hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make ``path`` and its parents if they are missing. May raise OSError."""
    if path.is_dir():
        return
    make_folder(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync what was created, renamed and removed in ``path``. May raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> bool:
    """Write a file into an existing folder. May raise OSError; then nothing has changed.

    Returns False if it exists and ``replace`` is false.
    """
    beside = write_beside(path, data, mode=mode)
    try:
        if replace:
            beside.replace(path)
        else:
            name_new(beside, path)
    except FileExistsError:
        sync_folder(path.parent)  # the caller relies on the file that exists
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
    sync_folder(path.parent)
    return True


def write_beside(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = True) -> Path:
    """Write data under another name in the folder of ``path``, and return that.

    May raise OSError; then there is no such file.
    """
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def name_new(beside: Path, path: Path) -> None:
    """Give a file its name, and remove the other one; raises FileExistsError if it is taken."""
    if _link(beside, path):
        beside.unlink()
    else:
        beside.replace(path)


def _link(beside: Path, path: Path) -> bool:
    """Give the file its name, or raise FileExistsError; False if there are no hard links."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        return False
    return True
