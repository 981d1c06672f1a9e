"""Which process works in a data_dir? One for each part of tele: auth, proxy, node.

The file ``.lock`` in the folder has a record for each part, with the number of the process that
runs it. The process holds a lock on the record for as long as it runs the part.

Invariants:

* A part is locked before any other file of it is opened, and until the last one is closed.
* The lock alone says whether a part runs; the number is for the error message. After a crash there
  is nothing to clean up: the kernel releases the lock.
* The lock belongs to the open file, not to the process (``F_OFD_SETLK``, fcntl(2)): closing another
  descriptor of ``.lock`` does not release it, and it survives the fork of a daemon. Programs
  that are started do not inherit it.
* One process may lock a part several times; other processes can lock it after the last release.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tele.errors import Conflict, TeleError

LOCK_FILE: Final = ".lock"
#: The parts, each with a record in the file, in this order.
PARTS: Final = ("auth", "proxy", "node")
RECORD_SIZE: Final = 32

#: ``struct flock``: type, whence, start, length, process.
_FLOCK: Final = struct.Struct("@hhqqi4x")
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})


class _LockFile:
    """The open ``.lock`` of one folder; ``holds`` counts them by part."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.holds: Counter[str] = Counter()


#: Those that this process has open, by device and inode: whatever path led there.
_open_files: dict[tuple[int, int], _LockFile] = {}


class DataDirLock:
    """The lock on ``parts`` (of :data:`PARTS`) of the data_dir ``folder``, which has to be there.

    Raises :class:`Conflict` when another process runs one of them, :class:`TeleError` when the
    folder cannot be written; nothing is locked then.
    """

    def __init__(self, folder: Path, *parts: str) -> None:
        self._key, self._file = _opened(folder)
        self._held: list[str] = []
        try:
            for part in parts:
                self._lock(folder, part)
        except BaseException:
            self.release()
            raise

    def _lock(self, folder: Path, part: str) -> None:
        if not self._file.holds[part]:
            try:
                _set(self._file.descriptor, fcntl.F_WRLCK, part)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise _conflict(folder, self._file.descriptor, part) from None
                path = folder / LOCK_FILE
                raise TeleError(f"cannot lock {path}: {error.strerror}") from None
        self._file.holds[part] += 1
        self._held.append(part)
        _write(self._file.descriptor, part, str(os.getpid()))  # again: a daemon has forked since

    def release(self) -> None:
        """Release the parts that this process has not locked again. May be called twice."""
        for part in self._held:
            self._file.holds[part] -= 1
            if not self._file.holds[part]:
                _write(self._file.descriptor, part, "")
                _set(self._file.descriptor, fcntl.F_UNLCK, part)
        self._held.clear()
        if not self._file.holds.total() and _open_files.pop(self._key, None) is not None:
            os.close(self._file.descriptor)


def _opened(folder: Path) -> tuple[tuple[int, int], _LockFile]:
    """Return the open ``.lock`` of this process, and its key."""
    path = folder / LOCK_FILE
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise TeleError(f"cannot open {path}: {error.strerror}") from None
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino)
    file = _open_files.setdefault(key, _LockFile(descriptor))
    if file.descriptor != descriptor:
        os.close(descriptor)
    return key, file


def check_unlocked(folder: Path, parts: Collection[str]) -> None:
    """Raise :class:`Conflict` when another process runs one of ``parts`` in ``folder``.

    Nothing is written, and nothing is locked meanwhile.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # there is none, or locking it will raise
    try:
        found = os.fstat(descriptor)
        own = _open_files.get((found.st_dev, found.st_ino))
        for part in parts:
            if (own is None or not own.holds[part]) and _is_locked(descriptor, part):
                raise _conflict(folder, descriptor, part)
    finally:
        os.close(descriptor)


def _conflict(folder: Path, descriptor: int, part: str) -> Conflict:
    text = os.pread(descriptor, RECORD_SIZE, _start(part)).decode("ascii", "replace")
    number = text.strip("\0\n ").removeprefix(part).strip()
    where = f"process {number}" if number.isdigit() else "a process that is just starting"
    return Conflict(
        f"the {part} of {folder} runs already: {where}; stop it first, or use another data_dir"
    )


def _start(part: str) -> int:
    return PARTS.index(part) * RECORD_SIZE


def _ask(part: str, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _start(part), RECORD_SIZE, 0)


def _set(descriptor: int, kind: int, part: str) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _ask(part, kind))


def _is_locked(descriptor: int, part: str) -> bool:
    # F_RDLCK: the descriptor may be open for reading only.
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _ask(part, fcntl.F_RDLCK))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _write(descriptor: int, part: str, number: str) -> None:
    text = f"{part} {number}".ljust(RECORD_SIZE - 1) + "\n"
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a number, too
        os.pwrite(descriptor, text.encode("ascii"), _start(part))
