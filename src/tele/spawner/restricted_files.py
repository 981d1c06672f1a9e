"""Which files may a client of the file server touch, where a role restricts them to some paths?

Invariants:

* Standard library only: the spawner's children load it. It runs as the account: what the kernel
  forbids stays forbidden.
* A rule is asked about the real path, and what is then used is what it was asked about
  (:mod:`tele.spawner.pinned_paths`). A file that was opened is asked about again before a byte of
  it is read, written or cut off.
* A name that would make readable what is not, by a move or a link, is refused.
* What is out of sight is refused in the same way whether it exists or not.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable

from tele.spawner.path_patterns import PathRules, read_rules
from tele.spawner.pinned_paths import Pinned, Unpinned, home_path, pin, pin_entry, real_path

Held = Pinned | Unpinned


class AnyFiles:
    """Every file: the kernel decides.

    Its methods return paths to use in a ``with`` statement; ``entry`` is one whose last name is
    not followed. All raise OSError.
    """

    def open(self, path: bytes, flags: int, mode: int) -> int:
        """Open a file."""
        return os.open(path, flags, mode)

    def seen(self, path: bytes) -> Held:
        """Return what is looked at."""
        return Unpinned(path)

    def seen_entry(self, path: bytes) -> Held:
        """Return an entry that is looked at."""
        return Unpinned(path)

    def changed(self, path: bytes) -> Held:
        """Return what is changed."""
        return Unpinned(path)

    def changed_entry(self, path: bytes) -> Held:
        """Return an entry that is made, changed or removed."""
        return Unpinned(path)

    def check_changed(self, file: int) -> None:
        """An open file is changed otherwise than by writing to it."""

    def moved(self, old: bytes, new: bytes) -> tuple[Held, Held]:
        """Return two entries, of which one becomes the other."""
        return Unpinned(old), Unpinned(new)

    def linked(self, old: bytes, new: bytes) -> tuple[Held, Held]:
        """Return two entries, of which one becomes another name of the other."""
        return Unpinned(old), Unpinned(new)

    def link_made(self, target: bytes, path: bytes) -> Held:
        """Return the entry of a symbolic link that is made."""
        return Unpinned(path)

    def shows(self, held: Held, name: bytes) -> bool:
        """Whether a listing of a folder has ``name``."""
        return True

    def real(self, path: bytes, resolve: Callable[[bytes], bytes]) -> bytes:
        """Return what ``resolve`` says of a path."""
        return resolve(path)


class RestrictedFiles(AnyFiles):
    """The files that ``upload`` allows to write and ``download`` to read."""

    def __init__(self, upload: PathRules, download: PathRules) -> None:
        self._upload = upload
        self._download = download

    def open(self, path: bytes, flags: int, mode: int) -> int:
        """See :class:`AnyFiles`. What is cut off is so after the last question."""
        access = flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
        writes = access != os.O_RDONLY or flags & (os.O_CREAT | os.O_TRUNC | os.O_APPEND)

        def check(real: bytes) -> None:
            if writes and not self._upload.allows(real):
                raise _denied()
            if access != os.O_WRONLY and not self._download.allows(real):
                raise _denied()

        cuts = flags & os.O_TRUNC
        flags &= ~os.O_TRUNC
        if flags & os.O_CREAT and (flags & os.O_EXCL or not os.path.exists(path)):
            held, flags = self._hold(pin_entry, path), flags | os.O_NOFOLLOW
        else:
            held, flags = self._hold(pin, path), flags & ~(os.O_CREAT | os.O_EXCL)
        with held:
            check(held.real)
            file = os.open(held.path, flags, mode)
        try:
            check(real_path(file))
            if cuts:
                os.ftruncate(file, 0)
        except OSError:
            os.close(file)
            raise
        return file

    def _hold(self, hold: Callable[[bytes], Pinned], path: bytes) -> Pinned:
        try:
            return hold(path)
        except OSError:
            if self._visible(_lexical(path)):
                raise
            raise _denied() from None

    def _visible(self, real: bytes) -> bool:
        return any(
            rules.allows(real) or rules.leads_to(real) for rules in (self._upload, self._download)
        )

    def _held(
        self, hold: Callable[[bytes], Pinned], path: bytes, allowed: Callable[[bytes], bool]
    ) -> Pinned:
        held = self._hold(hold, path)
        if not allowed(held.real):
            held.close()
            raise _denied()
        return held

    def seen(self, path: bytes) -> Held:
        """See :class:`AnyFiles`: what may be read or written, and folders that lead there."""
        return self._held(pin, path, self._visible)

    def seen_entry(self, path: bytes) -> Held:
        """See :class:`AnyFiles`."""
        return self._held(pin_entry, path, self._visible)

    def changed(self, path: bytes) -> Held:
        """See :class:`AnyFiles`: what may be written."""
        return self._held(pin, path, self._upload.allows)

    def changed_entry(self, path: bytes) -> Held:
        """See :class:`AnyFiles`."""
        return self._held(pin_entry, path, self._upload.allows)

    def check_changed(self, file: int) -> None:
        """See :class:`AnyFiles`."""
        if not self._upload.allows(real_path(file)):
            raise _denied()

    def moved(self, old: bytes, new: bytes) -> tuple[Held, Held]:
        """See :class:`AnyFiles`. With a folder goes all that is below it."""
        return self._both(old, new, self._may_move)

    def linked(self, old: bytes, new: bytes) -> tuple[Held, Held]:
        """See :class:`AnyFiles`."""
        return self._both(old, new, lambda held, to: self._may_appear(held.real, to.real))

    def _both(
        self, old: bytes, new: bytes, allowed: Callable[[Pinned, Pinned], bool]
    ) -> tuple[Held, Held]:
        held = self._held(pin_entry, old, self._upload.allows)
        try:
            to = self._held(pin_entry, new, self._upload.allows)
        except OSError:
            held.close()
            raise
        if not allowed(held, to):
            held.close()
            to.close()
            raise _denied()
        return held, to

    def _may_move(self, held: Pinned, to: Pinned) -> bool:
        # That it is no folder may change: then nothing below may become readable either.
        if self._download.leads_to(to.real) and not self._download.allows_all_below(held.real):
            return False
        if stat.S_ISDIR(os.lstat(held.path).st_mode):
            whole = self._upload.allows_all_below
            return whole(held.real) and whole(to.real)
        return self._may_appear(held.real, to.real)

    def _may_appear(self, real: bytes, new: bytes) -> bool:
        return self._download.allows(real) or not self._download.allows(new)

    def link_made(self, target: bytes, path: bytes) -> Held:
        """See :class:`AnyFiles`. Programs with other rights may follow it, so it leads only to what
        could be put there as well.
        """
        held = self._held(pin_entry, path, self._upload.allows)
        real = os.path.normpath(os.path.join(os.path.dirname(held.real), target))
        if not self._upload.allows(real) or not self._may_appear(real, held.real):
            held.close()
            raise _denied()
        return held

    def shows(self, held: Held, name: bytes) -> bool:
        """See :class:`AnyFiles`."""
        if name in (b".", b"..") or not isinstance(held, Pinned):
            return name == b"."
        real = held.real.rstrip(b"/") + b"/" + name
        if self._upload.allows(real) or self._download.allows(real):
            return True
        return self._visible(real) and os.path.isdir(held.path + b"/" + name)

    def real(self, path: bytes, resolve: Callable[[bytes], bytes]) -> bytes:
        """See :class:`AnyFiles`: out of sight, it is only what is written."""
        written = _lexical(path)
        try:
            found = resolve(path)
        except OSError:
            if self._visible(written):
                raise
            return written
        return found if self._visible(found) else written


def read_files(data: bytes, home: bytes) -> RestrictedFiles:
    """Read the rules of ``upload`` and ``download``. Raises ValueError."""
    given = json.loads(data)
    if not isinstance(given, dict):
        raise ValueError("rules of files are an object")
    home = home_path(home)
    upload, download = (
        read_rules(json.dumps(given.get(each)).encode(), home) for each in ("upload", "download")
    )
    return RestrictedFiles(upload, download)


def _lexical(path: bytes) -> bytes:
    return os.path.normpath(os.path.join(os.getcwdb(), path))


def _denied() -> PermissionError:
    return PermissionError(errno.EACCES, "no role allows this path")
