"""How are useradd(8) and the other programs of the machine's accounts run?

Invariants:

* Standard library only: the spawner loads it.
* A program is found in the system's folders, has words and no shell, and an environment of two
  variables. It is never killed in the middle of a change: who waits for it gives up, it goes on.
* A message of a program is shown on one line, and is short.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from tele.spawner.accounts import Refused

FOLDERS: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: Seconds for one program: glibc waits 15 for the lock of the account files.
SECONDS: Final = 20.0
MAX_OUTPUT: Final = 4096
#: The lock of the account files (lckpwdf(3)), and seconds to wait for it.
LOCK: Final = "/etc/.pwd.lock"
PATIENCE: Final = 3.0


class Done(NamedTuple):
    """How a program ended: its exit status, and what it wrote, on one line."""

    status: int
    text: str


def find_tool(name: str) -> str:
    """Return the path of a program. Raises Refused."""
    for folder in FOLDERS:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    raise Refused(f"{name} is not installed on this machine", "spawner")


def check_unlocked(path: str = LOCK) -> None:
    """Raise Refused if another program keeps the account files locked: each of ours would wait for
    that on its own.
    """
    until = time.monotonic() + PATIENCE
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > until:
                    raise Refused(
                        f"another program keeps the account files of this machine locked ({path});"
                        " try again",
                        "spawner",
                    ) from None
                time.sleep(0.05)
            else:
                return
    finally:
        os.close(fd)


def run_tool(name: str, *words: str, seconds: float = SECONDS) -> Done:
    """Run a program to its end. Raises Refused if there is none, or if it takes too long."""
    path = find_tool(name)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, writing, 1),
        (os.POSIX_SPAWN_DUP2, writing, 2),
    ]
    environment = {"PATH": ":".join(FOLDERS), "LC_ALL": "C"}
    try:
        pid = os.posix_spawn(path, [name, *words], environment, file_actions=actions, setpgroup=0)
    except OSError as error:
        os.close(reading)
        raise Refused(f"{name} cannot be run: {error.strerror}", "spawner") from None
    finally:
        os.close(writing)
    try:
        text = _read_all(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
    if text is None:
        raise Refused(f"{name} takes too long; try again", "spawner")
    _, status = os.waitpid(pid, 0)
    return Done(os.waitstatus_to_exitcode(status), _line(text))


def must(done: Done, what: str) -> None:
    """Raise Refused unless a program succeeded; ``what`` it was to do."""
    if done.status != 0:
        raise Refused(f"{what}: {done.text or f'exit status {done.status}'}", "spawner")


def _read_all(fd: int, until: float) -> bytes | None:
    """Read to the end, which is that of the program; None if it is too late."""
    found = b""
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        data = os.read(fd, 65536)
        if not data:
            return found
        found = (found + data)[:MAX_OUTPUT]


def _line(text: bytes) -> str:
    lines: Sequence[str] = text.decode("utf-8", "replace").splitlines()
    joined = "; ".join(line.strip() for line in lines if line.strip())
    return "".join(c if c.isprintable() else "?" for c in joined)[:500]
