"""Is a file or folder with secrets private, as OpenSSH demands of its own?

A file is read only if no other user can read it; a folder is used only if no other user can write
to it.

Invariants:

* The file that is checked is the file that is read, whatever its path leads to meanwhile.
* The owner has to be the user of this process, or root. A file of that user must be closed to all
  others (``0600``); one of root's may be open to the group by which it is read (``0640``), as
  systemd's credentials are.
* A folder is refused, unchanged, if others can write to it, if it belongs to another user, or if it
  holds files that are not tele's.
* A service refuses a secret that others can read or change. A command takes such a password file,
  with a warning.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from tele.errors import InvalidInput

#: More bytes than any secret has.
SIZE_LIMIT: Final = 1 << 20
#: Entries of a folder that counts as empty: of the root of a file system, and our own test file.
_NOTHING: Final = frozenset(("lost+found", ".writable"))


def read_secret(
    path: Path,
    what: str,
    *,
    pipes: bool = False,
    owners: Collection[int] = (),
    warn: Callable[[str], None] | None = None,
) -> bytes:
    """Return the content of ``path``; ``what`` is its name in errors.

    With ``pipes`` it may be a pipe or a terminal, and reading may block. ``owners`` are further
    uids that may own it. Raises OSError, or :class:`InvalidInput` if others can read or
    change it; with ``warn`` that is called instead.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if pipes else os.O_NONBLOCK)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode) or not (pipes or stat.S_ISREG(found.st_mode)):
            raise InvalidInput(f"{what} {path}: not a regular file")
        if problem := exposure(found, owners):
            text = f"{what} {path}: {problem}: {_remedy(path, problem)}"
            if warn is None:
                raise InvalidInput(text)
            warn(text)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(SIZE_LIMIT)
    finally:
        os.close(descriptor)


def own_folder(path: Path, ours: Collection[str] | None, *, strict: bool = False) -> None:
    """Make the folder ``path`` with its parents, or use an existing one; with mode 0700.

    ``ours`` are names of files of which each folder of tele has one; None skips this check, for a
    subfolder of ours. An existing folder with other files only is refused if its mode would have
    to be changed, and with ``strict`` in any case. Raises OSError, or :class:`InvalidInput` with
    what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        return
    # What is checked is what is changed, whatever the path leads to meanwhile.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid():
            raise InvalidInput(f"{path} belongs to another user (uid {found.st_uid})")
        if mode & (stat.S_ISVTX | 0o022):
            shared = f"{path} is shared: others can write to it (mode {mode:04o})"
            if mode & stat.S_ISVTX and mode & 0o022:
                raise InvalidInput(shared)  # /tmp and the like stay open
            raise InvalidInput(
                f"{shared}; if no other user needs it, and you know what is in it, type: chmod 700"
                f" {shlex.quote(str(path))}"
            )
        closed = not mode & 0o077
        if ours is not None and (strict or not closed):
            held = sorted(set(os.listdir(descriptor)) - _NOTHING)
            if held and not set(held) & set(ours):
                typed = f"chmod 700 {shlex.quote(str(path))}"
                closing = "" if strict else f"; if all of it may be closed, type: {typed}"
                raise InvalidInput(
                    f"{path} has files that are not tele's, such as {held[0]!r}: tele needs a"
                    f" folder of its own{closing}"
                )
        if not closed:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def check_secret(path: Path, what: str) -> None:
    """Raise :class:`InvalidInput` if ``path`` is there and others can read or change it."""
    try:
        found = path.stat()
    except OSError:
        return  # reading it will raise
    if problem := exposure(found):
        raise InvalidInput(f"{what} {path}: {problem}: {_remedy(path, problem)}")


def exposure(found: os.stat_result, owners: Collection[int] = ()) -> str:
    """Return who else can read or change a file, or nothing."""
    if stat.S_ISCHR(found.st_mode):
        return ""  # a terminal stores nothing
    mode, own = stat.S_IMODE(found.st_mode), os.geteuid()
    if found.st_uid not in (0, own, *owners):
        return f"it belongs to another user (uid {found.st_uid})"
    allowed = 0o700
    if found.st_uid == 0 and (own != 0 or found.st_gid == 0):
        allowed |= 0o050  # we read it by its group; or only root is in the group
    if mode & ~allowed & 0o022:
        return f"others can change it (mode {mode:04o})"
    if mode & ~allowed & 0o055:
        return f"others can read it (mode {mode:04o})"
    return ""


def _remedy(path: Path, problem: str) -> str:
    typed = f"chmod 600 {shlex.quote(str(path))}"
    if problem.startswith("it belongs"):
        return f"change its owner, then type: {typed}"
    return f"replace it if others may have read it, then type: {typed}"
