"""In which control group do a session's processes live (cgroup v2)?

Each session has one of its own, below the spawner's: whatever it starts is in it, also what
has left its process group and its terminal, and the group's id is how the kernel names all
of them at once. Where there is no such file system, or it is not ours to divide (an ordinary
user without a delegated group), sessions go without.

Invariants:

* Standard library only: the spawner loads it.
* Nothing of it keeps a session from starting, or from ending.
* A group is removed when nothing lives in it any more, and only then; nothing is killed
  unless it is configured, or access of its user has ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from typing import Final

FOLDER: Final = "tele-sessions"
#: Seconds between checks of groups in which processes are left.
SHORTEST: Final = 0.05
LONGEST: Final = 30.0
#: Seconds that a session has to end by itself after its client has gone.
GRACE: Final = 10.0
#: The same, when access of its user has ended.
EXPELLED_GRACE: Final = 2.0
#: A group may be swept away by another node's spawner before it is entered.
TRIES: Final = 5
#: Rounds of killing what is in a group, where the kernel cannot by itself (before 5.14).
ROUNDS: Final = 20


class Groups:
    """The control groups of one spawner's sessions.

    ``own`` is the folder of the spawner's own group, or None if there is none.
    """

    def __init__(self, own: str | None, *, kill_leftovers: bool = False) -> None:
        self._own = own
        self._folder: str | None = None
        if own is not None and os.access(own, os.W_OK):  # else it is not ours to divide
            self._folder = os.path.join(own, FOLDER)
        self._kill_leftovers = kill_leftovers
        self._unique = f"{os.getpid()}.{time.time_ns():x}"
        self._left: set[str] = set()
        self._kill_at: dict[str, float] = {}
        self._expelled: set[str] = set()
        self._pause = SHORTEST
        self._sweep_at = math.inf
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._left = {entry.name for entry in os.scandir(self._folder) if entry.is_dir()}
        if self._left:
            self._sweep_within(SHORTEST)

    @property
    def pause(self) -> float | None:
        """Seconds until :meth:`sweep` should be called; None if there is nothing to sweep."""
        at = self._sweep_at
        return None if at == math.inf else max(0.0, at - time.monotonic())

    def name(self, number: int) -> str:
        """Return the group's name of the session with this number."""
        return f"{self._unique}.{number}"

    def enter(self, name: str) -> int:
        """Move this process into the group ``name``, and return its id; 0 if there is none."""
        if self._folder is None:
            return 0
        path = os.path.join(self._folder, name)
        for _ in range(TRIES):
            try:
                with contextlib.suppress(FileExistsError):
                    os.makedirs(path)
                _write(path, "cgroup.procs", b"0")
            except FileNotFoundError:
                continue
            except OSError:
                break
            return _id_of(path)
        with contextlib.suppress(OSError):
            os.rmdir(path)
        return 0

    def make(self, name: str) -> list[int] | None:
        """Make the group ``name``; return the descriptor by which any process enters it.

        Empty where there are no groups, None if it cannot be made.
        """
        if self._folder is None:
            return []
        path = os.path.join(self._folder, name)
        for _ in range(TRIES):
            try:
                with contextlib.suppress(FileExistsError):
                    os.makedirs(path)
                return [os.open(os.path.join(path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)]
            except FileNotFoundError:
                continue
            except OSError:
                break
        return None

    def id_of(self, name: str) -> int:
        """Return the id of the group ``name``; 0 if there is none."""
        return 0 if self._folder is None else _id_of(os.path.join(self._folder, name))

    def enter_unless_moved(self, name: str) -> int:
        """Do :meth:`enter`, but stay where PAM has put this process (logind)."""
        if self._folder is None:
            return 0
        found = own_group()
        return self.enter(name) if found == self._own else _id_of(found)

    def user_left(self, name: str, *, expelled: bool = False) -> None:
        """Its client is gone: the session ends, or is ended if configured or if its user was
        ``expelled``.
        """
        if self._folder is None:
            return
        if expelled:
            self._expelled.add(name)
        if expelled or self._kill_leftovers:
            grace = EXPELLED_GRACE if expelled else GRACE
            due = time.monotonic() + grace
            self._kill_at[name] = min(self._kill_at.get(name, due), due)
            self._sweep_within(grace)

    def session_ended(self, name: str) -> None:
        """Its first process has ended: let others live on, or end them; remove the group."""
        if self._folder is None:
            return
        self._kill_at.pop(name, None)
        if self._kill_leftovers or name in self._expelled:
            self._expelled.discard(name)
            kill_group(os.path.join(self._folder, name))
        if _is_left(self._folder, name):
            self._left.add(name)
            self._pause = SHORTEST
            self._sweep_within(SHORTEST)

    def sweep(self) -> None:
        """Kill what was to have ended by now, and remove groups in which nothing lives any more."""
        if self._folder is not None:
            now = time.monotonic()
            for name in [name for name, due in self._kill_at.items() if due <= now]:
                del self._kill_at[name]
                kill_group(os.path.join(self._folder, name))
            self._left = {name for name in self._left if _is_left(self._folder, name)}
            self._pause = min(self._pause * 2, LONGEST)
            self._sweep_at = min(self._kill_at.values(), default=math.inf)
            if self._left:
                self._sweep_within(self._pause)

    def _sweep_within(self, seconds: float) -> None:
        # Nothing puts it off: what happens to other sessions does not keep this one alive.
        self._sweep_at = min(self._sweep_at, time.monotonic() + seconds)

    def close(self) -> None:
        """The spawner ends, and with it every session: remove what can be."""
        self._kill_at = dict.fromkeys(self._kill_at, 0.0)
        self.sweep()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self._folder)


def own_group() -> str | None:
    """Return the folder of this process's group, or None where there is no cgroup v2."""
    return group_of("self")


def find_group(process: int, number: int) -> str | None:
    """Return the folder of the group with the id ``number``, which ``process`` was in, if it can be
    found: the process may have ended, and what it has started lives on.
    """
    path = group_of(process)
    if path is not None and _id_of(path) == number:
        return path
    own = own_group()
    try:
        groups = [] if own is None else list(os.scandir(os.path.join(own, FOLDER)))
    except OSError:
        return None
    return next((each.path for each in groups if each.inode() == number), None)


def is_populated(path: str) -> bool:
    """Whether anything lives in the group ``path``, or below it."""
    try:
        with open(os.path.join(path, "cgroup.events"), "rb") as file:
            return b"populated 1" in file.read()
    except OSError:
        return False


def is_own(path: str) -> bool:
    """Whether a group is one that a spawner has made for a session, and holds nothing else."""
    return os.path.basename(os.path.dirname(path)) == FOLDER


def kill_group(path: str) -> None:
    """Kill all that lives in the group ``path``, and below it."""
    with contextlib.suppress(OSError):
        try:
            _write(path, "cgroup.kill", b"1")
        except FileNotFoundError:
            for _ in range(ROUNDS):
                with open(os.path.join(path, "cgroup.procs"), "rb") as file:
                    processes = file.read().split()
                if not processes:
                    return
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)


def group_of(process: int | str) -> str | None:
    """Return the folder of a process's group, or None."""
    try:
        with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            paths = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file if " - cgroup2 " in line]
    except OSError:
        return None
    for fields in mounts:
        root, point = map(_unescaped, fields[3:5])
        for path in paths:
            below = os.path.relpath(path, root)
            if not below.startswith(".."):
                return os.path.normpath(os.path.join(point, below))
    return None


def _unescaped(field: str) -> str:
    """Undo the octal escapes of mountinfo (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _write(path: str, name: str, data: bytes) -> None:
    fd = os.open(os.path.join(path, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _id_of(path: str | None) -> int:
    """What the kernel calls a group (bpf_get_current_cgroup_id): its inode."""
    try:
        return 0 if path is None else os.stat(path).st_ino
    except OSError:
        return 0


def _is_left(folder: str, name: str) -> bool:
    try:
        os.rmdir(os.path.join(folder, name))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
