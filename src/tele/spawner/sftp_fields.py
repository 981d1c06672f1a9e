"""What is in the packets of SFTP: paths, attributes, and the lines of a listing?

SFTP version 3, draft-ietf-secsh-filexfer-02, sections 5 and 7.

Invariants:

* Standard library only: it is loaded by a child of the spawner (:mod:`tele.spawner.sftp_server`).
* A field that is longer than its packet is :class:`BadPacket`; nothing else is read.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import struct
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from tele.spawner.pinned_paths import Pinned, Unpinned

Held = Pinned | Unpinned
#: Section 5: which parts of attributes are there.
_SIZE, _OWNER, _MODE, _TIMES, _EXTENDED = 1, 2, 4, 8, 1 << 31
#: What chown(2) leaves as it is.
_UNCHANGED: Final = 0xFFFFFFFF


class BadPacket(Exception):
    """The client broke the protocol; there is no sense in going on."""


def string(data: bytes) -> bytes:
    """Write a length and so many bytes."""
    return struct.pack(">I", len(data)) + data


class Fields:
    """Reads one packet's fields, strictly."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise BadPacket("a field is longer than its packet")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u32(self) -> int:
        """Read four bytes."""
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        """Read eight bytes."""
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        """Read a length and so many bytes."""
        return self._take(self.u32())

    def numbers(self) -> Iterator[int]:
        """Read a string of four bytes each; what is left over breaks the protocol."""
        data = self.string()
        if len(data) % 4:
            raise BadPacket("a list of numbers ends within one")
        return (number for (number,) in struct.iter_unpack(">I", data))

    def text(self) -> bytes:
        """Read an argument of a system call."""
        text = self.string()
        if b"\0" in text:
            raise OSError(errno.EINVAL, "NUL in a path")
        return text

    def path(self) -> bytes:
        """Read a path; an empty one is where we are."""
        return self.text() or b"."

    def attributes(self) -> Attributes:
        """Read attributes (section 5)."""
        return Attributes(self)


class Attributes:
    """What a client wants to change; None is "leave it"."""

    def __init__(self, fields: Fields) -> None:
        flags = fields.u32()
        self.size = fields.u64() if flags & _SIZE else None
        self.owner = (fields.u32(), fields.u32()) if flags & _OWNER else None
        self.mode = fields.u32() & 0o7777 if flags & _MODE else None
        self.times = (fields.u32(), fields.u32()) if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(fields.u32()):
                fields.string()
                fields.string()

    def apply(self, target: int | bytes, *, follow: bool = True) -> None:
        """Change an open file (number), or what a path names; without ``follow`` a link itself.

        All that can be changed is, as OpenSSH does; raises the last OSError.
        """
        if self.size is not None and not follow:
            raise OSError(errno.EINVAL, "a link has no size to change")
        failed: OSError | None = None
        for change in self._changes(target, follow or isinstance(target, int)):
            try:
                change()
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def _changes(self, target: int | bytes, follow: bool) -> Iterator[Callable[[], None]]:
        size, mode, times, owner = self.size, self.mode, self.times, self.owner
        if size is not None:
            yield lambda: os.truncate(target, size)
        if mode is not None:
            if isinstance(target, int) or follow:
                yield lambda: os.chmod(target, mode)
            else:
                path = target
                yield lambda: _chmod_itself(path, mode)
        if times is not None:
            yield lambda: os.utime(target, times, follow_symlinks=follow)
        if owner is not None:
            user, group = (-1 if number == _UNCHANGED else number for number in owner)
            yield lambda: os.chown(target, user, group, follow_symlinks=follow)


def _chmod_itself(path: bytes, mode: int) -> None:
    """Change the mode of what is at ``path`` unless it is a link, which has none of its own.

    Linux has had a call for that since 6.6; this is what the C library does before.
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(file).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a link has no mode")
        os.chmod(f"/proc/self/fd/{file}", mode)
    finally:
        os.close(file)


def encode(found: os.stat_result) -> bytes:
    """Write attributes."""
    return struct.pack(
        ">IQIIIII",
        _SIZE | _OWNER | _MODE | _TIMES,
        found.st_size & (1 << 64) - 1,
        found.st_uid & 0xFFFFFFFF,
        found.st_gid & 0xFFFFFFFF,
        found.st_mode,
        int(found.st_atime) & 0xFFFFFFFF,
        int(found.st_mtime) & 0xFFFFFFFF,
    )


class Listing:
    """A folder that is being listed, as far as ``shows`` says. Raises OSError when it cannot be.

    ``held`` is closed with it.
    """

    def __init__(self, held: Held, shows: Callable[[bytes], bool]) -> None:
        self._held = held
        try:
            self._entries = os.scandir(held.path)
        except OSError:
            held.close()
            raise
        names = chain((b".", b".."), (entry.name for entry in self._entries))
        self._names = filter(shows, names)

    def page(self, most: int) -> list[tuple[bytes, os.stat_result]]:
        """Return the next names, with what they are; none at the end."""
        found: list[tuple[bytes, os.stat_result]] = []
        for name in self._names:
            with contextlib.suppress(OSError):  # it is gone since, or out of sight
                found.append((name, os.lstat(os.path.join(self._held.path, name))))
            if len(found) == most:
                break
        return found

    def close(self) -> None:
        """List no more."""
        self._entries.close()
        self._held.close()


class Names:
    """Names of users and groups, each looked up once."""

    def __init__(self) -> None:
        self._users: dict[int, str | None] = {}
        self._groups: dict[int, str | None] = {}

    def user(self, number: int) -> str | None:
        """Return the name of a user; None: there is none."""
        return _known(self._users, number, lambda: pwd.getpwuid(number).pw_name)

    def group(self, number: int) -> str | None:
        """Return the name of a group; None: there is none."""
        return _known(self._groups, number, lambda: grp.getgrgid(number).gr_name)

    def line(self, name: bytes, found: os.stat_result) -> bytes:
        """Return what ``ls -l`` would print."""
        user = self.user(found.st_uid) or str(found.st_uid)
        group = self.group(found.st_gid) or str(found.st_gid)
        when = time.localtime(found.st_mtime)
        recent = 0 <= time.time() - found.st_mtime < 365 * 86400 / 2
        shown = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", when)
        start = (
            f"{stat.filemode(found.st_mode)} {found.st_nlink:>4} {user:8} {group:8}"
            f" {found.st_size:8} {shown} "
        )
        return os.fsencode(start) + name


def _known(names: dict[int, str | None], number: int, look: Callable[[], str]) -> str | None:
    if number not in names:
        try:
            names[number] = look()
        except (KeyError, OverflowError):
            names[number] = None
    return names[number]


def home_of(user: bytes) -> bytes | None:
    """Return the home directory of a user, without a name of this one; None if there is none."""
    try:
        account = pwd.getpwnam(os.fsdecode(user)) if user else pwd.getpwuid(os.getuid())
    except KeyError:
        return None
    return os.fsencode(account.pw_dir)


def real_path(path: bytes) -> bytes:
    """Return a path without links, of which the last name need not exist. Raises OSError."""
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        folder, name = os.path.split(path.rstrip(b"/"))
        if name in (b"", b".", b".."):
            raise
        found = os.path.join(os.path.realpath(folder or b".", strict=True), name)
        if not os.path.islink(found):
            return found
        # It leads on to the last name; links in a circle would have been another error.
        return real_path(os.path.join(os.path.dirname(found), os.readlink(found)))
