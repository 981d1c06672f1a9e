"""How is a secret read that somebody keeps in a file, and which folder is one's own for secrets?

A file is read only if nobody else can read it, and a folder used only if nobody else can write to
it.

Invariants:

* What is checked is the file that is read, not the path that leads to it.
* The owner is who runs this, or root. A file of one's own is closed to all others (``0600``);
  one of root's may be open to the group by which it is read (``0640``), as files of systemd's
  credentials are.
* A folder that is not ours is refused before anything in it, or of it, is changed: one that others
  can write to, that belongs to somebody else, or that holds other things than tele's.
* A service refuses a secret that others can read or change. A person's password is taken, and they
  are told: a command that they typed is not the place where the file became readable.
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
#: What is in a folder that is as good as empty: the root of a file system, or what we left behind.
_NOTHING: Final = frozenset(("lost+found", ".writable"))


def read_secret(
    path: Path,
    what: str,
    *,
    pipes: bool = False,
    owners: Collection[int] = (),
    warn: Callable[[str], None] | None = None,
) -> bytes:
    """Return what is in ``path``; ``what`` is what an error calls it.

    With ``pipes`` it may be one, or a terminal: reading it may wait. ``owners`` are accounts
    (uids) that may own it, too. Raises OSError, or :class:`InvalidInput` if others can read or
    change it; with ``warn`` that is called instead.
    """
    # Opening a pipe would wait for somebody who writes, and a terminal could become ours.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if pipes else os.O_NONBLOCK)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode) or not (pipes or stat.S_ISREG(found.st_mode)):
            raise InvalidInput(f"{what} {path}: this is not a file")
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
    """Make the folder ``path``, with its parents, or take one that is there; with mode 0700.

    ``ours`` are names of which one is in each folder that tele has used; None for one in a folder
    of ours. One with something else in it is refused if its mode would have to be changed, and
    with ``strict`` in any case. Raises OSError, or :class:`InvalidInput` with what to do.
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
                raise InvalidInput(shared)  # closing /tmp would stop everybody else's programs
            raise InvalidInput(
                f"{shared}; if nobody else needs it, and you know what is in it, type: chmod 700"
                f" {shlex.quote(str(path))}"
            )
        closed = not mode & 0o077
        if ours is not None and (strict or not closed):
            held = sorted(set(os.listdir(descriptor)) - _NOTHING)
            if held and not set(held) & set(ours):
                typed = f"chmod 700 {shlex.quote(str(path))}"
                closing = "" if strict else f"; if all of it may be closed, type: {typed}"
                raise InvalidInput(
                    f"{path} holds what is not tele's, such as {held[0]!r}: tele keeps its secrets"
                    f" in a folder of its own{closing}"
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
        return  # whoever reads it tells
    if problem := exposure(found):
        raise InvalidInput(f"{what} {path}: {problem}: {_remedy(path, problem)}")


def exposure(found: os.stat_result, owners: Collection[int] = ()) -> str:
    """Return who else can read or change a file, or nothing."""
    if stat.S_ISCHR(found.st_mode):
        return ""  # a terminal keeps nothing
    mode, own = stat.S_IMODE(found.st_mode), os.geteuid()
    if found.st_uid not in (0, own, *owners):
        return f"it belongs to another user (uid {found.st_uid})"
    allowed = 0o700
    if found.st_uid == 0 and (own != 0 or found.st_gid == 0):
        allowed |= 0o050  # we read it by its group; or nobody but root is in the group
    if mode & ~allowed & 0o022:
        return f"others can change it (mode {mode:04o})"
    if mode & ~allowed & 0o055:
        return f"others can read it (mode {mode:04o})"
    return ""


def _remedy(path: Path, problem: str) -> str:
    typed = f"chmod 600 {shlex.quote(str(path))}"
    if problem.startswith("it belongs"):
        return f"make it yours, then type: {typed}"
    return f"replace it unless you know that nobody did, then type: {typed}"
