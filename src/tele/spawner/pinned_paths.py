"""Where does a path lead, and how is what was looked at the same as what is used?

What is at a path is opened without being read (``O_PATH``), the kernel is asked where that is, and
what is done next is done with what is open: no user can put a link in its place in between.

Invariants:

* Standard library only: the spawner's children load it.
* The real path has no link, ``.`` or ``..``, and leads there; what has none, such as a pipe, a file
  that was removed, or one of another mount namespace, is refused.
* With the last name not followed, that name is used in the folder that is open, and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os


class Pinned:
    """What a path leads to. Close it, or use it in a ``with`` statement.

    ``real`` is where it is; ``path`` is a path for system calls that leads there whatever happens
    to the folders. In ``path`` a last name that was not followed stays one.
    """

    def __init__(self, fd: int, name: bytes = b"", *, folder: bool = False) -> None:
        self._fd = fd
        try:
            held = real_path(fd)
        except OSError:
            os.close(fd)
            raise
        self.real = held if not name else held.rstrip(b"/") + b"/" + name
        # A call that follows no link would take the descriptor's own for one.
        last = name or (b"." if folder else b"")
        self.path = b"/proc/self/fd/%d" % fd + (b"/" + last if last else b"")

    def close(self) -> None:
        """Hold it no more."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Unpinned:
    """A path that is used as it is, where no rule asks where it leads."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def __enter__(self) -> Unpinned:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""


def pin(path: bytes) -> Pinned:
    """Hold what is at ``path``, at the end of all links. Raises OSError."""
    return Pinned(os.open(path, os.O_PATH | os.O_CLOEXEC))


def pin_entry(path: bytes) -> Pinned:
    """Hold the folder of ``path``, whose last name is not followed and need not exist. Raises
    OSError.
    """
    stripped = path.rstrip(b"/")
    folder, name = os.path.split(stripped)
    flags = os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY
    if name in (b"", b".", b".."):  # folders, which are no links
        return Pinned(os.open(path, flags), folder=True)
    return Pinned(os.open(folder or (b"/" if path.startswith(b"/") else b"."), flags), name)


def real_path(fd: int) -> bytes:
    """Return where the open file ``fd`` is. Raises OSError."""
    real = os.readlink(b"/proc/self/fd/%d" % fd)
    if not real.startswith(b"/"):
        raise PermissionError(errno.EACCES, "it is at no path")
    # It may have been removed, which the kernel notes behind the name, or be in the mount namespace
    # of another process, by /proc/PID/root: then the path is one there.
    found, held = os.lstat(real), os.fstat(fd)
    if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
        raise FileNotFoundError(errno.ENOENT, "it is not there any more")
    return real


def home_path(home: bytes) -> bytes:
    """Return a home directory as :func:`real_path` would; as it is if it cannot be found."""
    try:
        with pin(home) as held:
            return held.real
    except OSError:
        return home
