"""A spawner that sees a machine of its own: another /etc, utmp, wtmp and lastlog, in its mounts.

The machine itself is not touched: everything is bound over it in a mount namespace that ends
with the spawner.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tele.spawner import program as spawner
from tele.spawner.spawn_messages import MAX_MESSAGE, pack, unpack

PROGRAM = Path(spawner.__file__)
LAST_NUMBER = Path("/proc/sys/kernel/ns_last_pid")
numbers_can_be_chosen = pytest.mark.skipif(
    not os.access(LAST_NUMBER, os.W_OK), reason="numbers of processes cannot be chosen"
)

_MOUNT = """
set -e
root=$1; shift
mount --bind "$root/etc" /etc
mount --bind "$root/run" /run
mount --bind "$root/log" /var/log
if [ -d "$root/spool" ]; then mount --bind "$root/spool" /var/spool; fi
if [ -d "$root/home" ]; then mount --bind "$root/home" /home; fi
if [ -d "$root/small" ]; then mount -t tmpfs -o size=128k,mode=755 small /home; fi
exec "$@"
"""


@contextmanager
def account(
    shell: str = "/bin/sh", before: str = "", after: str = ""
) -> Iterator[pwd.struct_passwd]:
    """Make an account with a home, and remove both; its name is ``before``, a word, ``after``."""
    word = f"tele{uuid.uuid4().hex[:10]}"
    name = f"{before}{word}{after}"
    made = ["useradd", "--badname", "-m", "-d", f"/home/{word}", "-s", shell, name]
    subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
    try:
        yield pwd.getpwnam(name)
    finally:
        remove_account(name)


def remove_account(name: str) -> None:
    """Remove an account with its home, as soon as its last process has ended."""
    words = ["userdel", "-r", name]
    wait_until(lambda: subprocess.run(words, capture_output=True, check=False).returncode != 8)
    with pytest.raises(KeyError):
        pwd.getpwnam(name)


def make_machine(root: Path) -> None:
    """Lay out /etc, /run and /var/log below ``root``, after the accounts were made."""
    (root / "run").mkdir()
    (root / "log").mkdir()
    # What useradd writes for a moment may be gone when it is its turn.
    passing = shutil.ignore_patterns("*.lock", "*+", "*.[0-9]*")
    shutil.copytree("/etc", root / "etc", symlinks=True, ignore=passing)
    for name in ("run/utmp", "log/wtmp", "log/lastlog"):
        (root / name).touch(0o664)


class Machine:
    """A spawner of that machine, and the node's end of its socket."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.number = 0
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        words = [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())]
        isolated = ["unshare", "-m", "--propagation", "private", "sh", "-c", _MOUNT, "sh"]
        with theirs:
            self.process = subprocess.Popen(
                [*isolated, root, *words, json.dumps(options)],
                pass_fds=(theirs.fileno(),),
                env={"PATH": os.environ["PATH"]},
                cwd="/",
            )

    def ask(self, header: dict[str, Any], words: list[bytes], fds: list[int]) -> None:
        """Send one request."""
        socket.send_fds(self.socket, [pack({"id": self.number, **header}, words)], fds)

    def report(self) -> dict[str, Any]:
        """Wait for one report."""
        return unpack(self.socket.recv(MAX_MESSAGE))[0]

    def start(
        self,
        login: str,
        *strings: bytes,
        pty: bool = False,
        kind: str = "exec",
        stdin: int | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Start a session; return what reads its output (and writes a terminal), and the report."""
        self.number += 1
        words = 1 if kind in ("exec", "forced") else 0
        header = {"op": "start", "kind": kind, "login": login, "pty": pty, "words": words}
        given = [*strings, b"SSH_CLIENT=192.0.2.7 50000 22"]
        if pty:
            output, slave = os.openpty()
            self.ask(header, given, [slave])
            os.close(slave)
        else:
            output, writing = os.pipe()
            with open(os.devnull, "rb") as null:
                first = null.fileno() if stdin is None else stdin
                self.ask(header, given, [first, writing, writing])
            os.close(writing)
        return output, self.report()

    def run(self, login: str, *strings: bytes, **how: Any) -> tuple[str, dict[str, Any]]:
        """Run a session to its end; return its output and the last report."""
        output, report = self.start(login, *strings, **how)
        text = read_all(output)
        return text, self.report() if report["event"] == "started" else report

    def inside(self, *command: str) -> str:
        """Run a program as root among the machine's mounts; return its output."""
        words = ["nsenter", "-m", "-t", str(self.process.pid), *command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """End the spawner."""
        self.socket.close()
        self.process.wait(30)


@contextmanager
def machine(root: Path, **options: Any) -> Iterator[Machine]:
    made = Machine(root, **options)
    try:
        yield made
    finally:
        made.close()


def wait_until(true: Callable[[], object]) -> None:
    """Wait for a condition, with a generous limit."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process stopped meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text())
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def become(pid: int) -> int | None:
    """Fork a process group leader of root with the number ``pid``; None if it is another's."""
    for _ in range(100):  # others fork, too
        LAST_NUMBER.write_text(str(pid - 1))
        made = os.fork()
        if made == 0:
            os.closerange(3, 1024)
            os.setpgid(0, 0)
            signal.pause()
            os._exit(0)
        if made == pid:
            return made
        os.kill(made, signal.SIGKILL)
        os.waitpid(made, 0)
    return None


def read_all(output: int) -> str:
    """Read to the end, which a terminal reports as EIO."""
    text = b""
    with open(output, "rb", buffering=0) as file:
        try:
            while data := file.read(4096):
                text += data
        except OSError:
            return text.decode(errors="replace")
    return text.decode(errors="replace")
