"""Notes what may block the reactor of this process: put this folder into ``PYTHONPATH``.

Python loads a module of this name when it starts. With ``LOOP_GUARD`` in the environment each call
that can wait for a disk, a name service, a child or a lock is written to the file of that name,
with where it comes from, if it is made in the main thread while Twisted's reactor runs.
"""

from __future__ import annotations

import fcntl
import functools
import grp
import json
import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

#: Events of Python's own (PEP 578) about what can wait. ``open`` is any file.
AUDITED = frozenset(
    {
        "fcntl.flock", "fcntl.lockf", "open", "os.chmod", "os.chown", "os.link", "os.listdir",
        "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.symlink",
        "os.truncate", "os.utime", "shutil.copyfile", "shutil.rmtree", "socket.getaddrinfo",
        "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo", "subprocess.Popen",
        "time.sleep", "urllib.Request", "sqlite3.connect",
    }
)  # fmt: skip
#: Functions about which Python says nothing.
PATCHED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("fdatasync", "fsync", "sync", "posix_fallocate", "statvfs", "fstatvfs", "stat", "lstat")),
    (os, ("getgrouplist", "waitpid", "access", "readlink")),
    (pwd, ("getpwall", "getpwnam", "getpwuid")),
    (grp, ("getgrall", "getgrgid", "getgrnam")),
    (fcntl, ("flock", "lockf")),
    (subprocess.Popen, ("wait", "communicate")),
    (threading.Thread, ("join",)),
)
#: These wait only for files of a disk; what they do with sockets, pipes and terminals is theirs.
ON_FILES = ("pread", "preadv", "pwrite", "read", "readv", "write", "writev", "ftruncate")
#: Devices are no disks.
DEVICES = ("/dev/null", "/dev/ptmx", "/dev/pts/", "/dev/urandom")

_REPORT = os.environ.pop("LOOP_GUARD", "")
_fstat, _write, _open = os.fstat, os.write, os.open
_noting = threading.local()


def _is_reactor() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    return bool(getattr(reactor, "running", False))


def _where() -> list[str]:
    found: list[str] = []
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and len(found) < 6:
        path = frame.f_code.co_filename
        if "/tele/" in path:
            found.append(f"{path.rpartition('/tele/')[2]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found


def note(what: str, *details: object) -> None:
    """Write a line about the call ``what``, if it is the reactor's."""
    if getattr(_noting, "active", False) or not _is_reactor():
        return
    _noting.active = True
    try:
        said = {"call": what, "of": [str(each) for each in details[:2]], "in": _where()}
        _write(_file, json.dumps(said).encode() + b"\n")
    finally:
        _noting.active = False


def _audited(event: str, words: tuple[object, ...]) -> None:
    if event in AUDITED:
        path = words[0] if words else ""
        if event == "open" and (isinstance(path, int) or str(path).startswith(DEVICES)):
            return
        note(event, *words)


def _patch(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    @functools.wraps(real)
    def noted(*words: Any, **named: Any) -> Any:
        if not (name == "waitpid" and words[1] & os.WNOHANG):
            note(name, *words)
        return real(*words, **named)

    setattr(owner, name, noted)


def _patch_on_files(name: str) -> None:
    real = getattr(os, name)

    @functools.wraps(real)
    def noted(descriptor: int, *words: Any, **named: Any) -> Any:
        if _is_reactor() and stat.S_ISREG(_fstat(descriptor).st_mode):
            note(name, descriptor)
        return real(descriptor, *words, **named)

    setattr(os, name, noted)


class _Connection(sqlite3.Connection):
    """A connection to SQLite that is noted when the reactor uses it."""

    def execute(self, *words: Any, **named: Any) -> sqlite3.Cursor:
        note("sqlite3.execute", *words)
        return super().execute(*words, **named)

    def commit(self) -> None:
        note("sqlite3.commit")
        super().commit()


if _REPORT:
    _file = _open(_REPORT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    time.tzset()  # reads its file now, and not with the first date
    for _owner, _names in PATCHED:
        for _name in _names:
            _patch(_owner, _name)
    for _name in ON_FILES:
        _patch_on_files(_name)
    sqlite3.connect = functools.partial(sqlite3.connect, factory=_Connection)  # type: ignore[assignment]
    sys.addaudithook(_audited)
