"""Who is logged in, and since when: utmp, wtmp and lastlog (utmp(5)).

The records are glibc's, written here as they are: no library is loaded for it, and a wait
for a locked file is short (any user may lock what they may read).

Invariants:

* Standard library only: the spawner loads it.
* Only what is there is written: a system without these files wants none. Nothing in them
  prevents a login.
* A host is the address of the client; its name is not looked up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Final

USER_PROCESS: Final = 7
DEAD_PROCESS: Final = 8
#: Seconds to wait for a lock.
PATIENCE: Final = 1.0

#: (type, pid, line, id, user, host, exit, session, seconds, microseconds, address) and the
#: last login (seconds, line, host): where the C library keeps times of 32 bits, and of 64.
_NARROW: Final = (struct.Struct("=hxxi32s4s32s256s4siII16s20x"), struct.Struct("=I32s256s"))
_WIDE: Final = (struct.Struct("=hxxi32s4s32s256s4sqqq16s24x"), struct.Struct("=q32s256s"))
_LAYOUTS: Final = {
    **dict.fromkeys(("x86_64", "i386", "i686", "armv7l", "ppc64le", "riscv64"), _NARROW),
    "aarch64": _WIDE,
}


class Records:
    """The files of one system. ``line`` is a terminal's name in /dev (``pts/3``)."""

    def __init__(
        self,
        utmp: str = "/var/run/utmp",
        wtmp: str = "/var/log/wtmp",
        lastlog: str = "/var/log/lastlog",
        machine: str = os.uname().machine,
    ) -> None:
        self._utmp = utmp
        self._wtmp = wtmp
        self._lastlog = lastlog
        self._layouts = _LAYOUTS.get(machine)

    @property
    def available(self) -> bool:
        """Whether this system keeps records, and this process may write them."""
        files = (self._utmp, self._wtmp)
        return self._layouts is not None and any(os.access(file, os.W_OK) for file in files)

    def log_in(self, line: str, pid: int, user: str, host: str) -> None:
        """Note that ``user`` is on ``line`` from now on."""
        self._note(USER_PROCESS, line, pid, user, host)

    def log_out(self, line: str, pid: int) -> None:
        """Note that ``line`` is free, if ``pid`` had it."""
        self._note(DEAD_PROCESS, line, pid, "", "")

    def last_login(self, uid: int) -> tuple[float, str] | None:
        """Return when and from where ``uid`` came last, if that is known."""
        if self._layouts is None:
            return None
        layout = self._layouts[1]
        with contextlib.suppress(OSError), open(self._lastlog, "rb") as file:
            file.seek(uid * layout.size)
            data = file.read(layout.size)
            if len(data) == layout.size:
                seconds, _, host = layout.unpack(data)
                if seconds:
                    return seconds, host.rstrip(b"\0").decode("ascii", "replace")
        return None

    def remember(self, uid: int, line: str, host: str) -> None:
        """Note the last login of ``uid``."""
        if self._layouts is not None:
            layout = self._layouts[1]
            data = layout.pack(int(time.time()), line.encode(), host.encode())
            _update(self._lastlog, lambda fd: os.pwrite(fd, data, uid * layout.size))

    def _note(self, kind: int, line: str, pid: int, user: str, host: str) -> None:
        if self._layouts is None:
            return
        layout, now = self._layouts[0], time.time()
        name = line.encode()
        data = layout.pack(
            kind, pid, name, _id(name), user.encode(), host.encode(), b"", 0,
            int(now), int(now % 1 * 1e6), b"",
        )  # fmt: skip

        def at_its_line(fd: int) -> None:
            place = self._place(fd, layout, name)
            if kind == USER_PROCESS or self._is_of(fd, layout, place, pid):
                os.pwrite(fd, data, place)

        def at_the_end(fd: int) -> None:
            os.pwrite(fd, data, os.fstat(fd).st_size // layout.size * layout.size)

        _update(self._utmp, at_its_line)
        _update(self._wtmp, at_the_end)

    def _place(self, fd: int, layout: struct.Struct, line: bytes) -> int:
        """Return where the record of ``line`` is, or will be."""
        place = 0
        while len(data := os.pread(fd, layout.size, place)) == layout.size:
            fields = layout.unpack(data)
            if 5 <= fields[0] <= DEAD_PROCESS and fields[3] == _id(line).ljust(4, b"\0"):
                break
            place += layout.size
        return place

    def _is_of(self, fd: int, layout: struct.Struct, place: int, pid: int) -> bool:
        data = os.pread(fd, layout.size, place)
        return len(data) == layout.size and layout.unpack(data)[:2] == (USER_PROCESS, pid)


def _id(line: bytes) -> bytes:
    """As sshd abbreviates it (loginrec.c): the last four characters."""
    return line[-4:]


def _update(path: str, change: Callable[[int], object]) -> None:
    """Call ``change`` with a descriptor of ``path``, locked; that it cannot be is no matter."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _lock(fd)
            change(fd)
        finally:
            os.close(fd)


def _lock(fd: int) -> None:
    """Lock as the C library does (fcntl). Raises OSError if it is locked for too long."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
