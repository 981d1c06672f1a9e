"""A real PostgreSQL server for tests, on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Debian keeps each version's programs in a folder of its own.
PROGRAMS = Path("/usr/lib/postgresql")
#: The server refuses root; Debian's package makes this account.
ACCOUNT = "postgres"


def programs() -> Path | None:
    """Return the folder of the newest server's programs, None without one."""
    found = [each.parent for each in PROGRAMS.glob("*/bin/postgres")]
    newest = max(found, key=lambda path: int(path.parent.name), default=None)
    if newest is None and (path := shutil.which("postgres")):
        return Path(path).parent
    return newest


class PostgresServer:
    """A server in ``folder``; it can be stopped, killed and started again."""

    def __init__(self, folder: Path, bin: Path) -> None:  # noqa: A002 - the folder's name
        self.folder = folder
        self._bin = bin
        self._process: subprocess.Popen[bytes] | None = None
        self._user = ACCOUNT if os.geteuid() == 0 else None

    def url(self, database: str = "postgres", **words: str) -> str:
        """Return the URL of a database; ``words`` are parameters of libpq."""
        more = "".join(f"&{name}={value}" for name, value in words.items())
        return f"postgresql:///{database}?host={self.folder}&user=postgres{more}"

    def create(self) -> None:
        """Make the files of the server."""
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "data")

    def start(self) -> None:
        """Start the server, and wait until it serves."""
        command = [
            str(self._bin / "postgres"), "-D", "data", "-c", "listen_addresses=",
            "-c", f"unix_socket_directories={self.folder}", "-c", "shared_buffers=16MB",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, user=self._user, stdout=log, stderr=log
            )
        for _ in range(300):
            if self._run("pg_isready", "-q", "-t", "1", "-h", str(self.folder), check=False) == 0:
                return
            if self._process.poll() is not None:
                break
        raise AssertionError((self.folder / "log").read_text())

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT an immediate one, a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to each process of the server."""
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in (self._process.pid, *map(int, listed.read_text().split())):
            os.kill(pid, which)

    def _run(self, name: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [str(self._bin / name), *arguments],
            cwd=self.folder, user=self._user, capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.returncode


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A running server with an empty database; nothing is left of it."""
    found = programs()
    assert found is not None
    folder = Path(tempfile.mkdtemp(prefix="tele-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)
        server = PostgresServer(folder, found)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder)
