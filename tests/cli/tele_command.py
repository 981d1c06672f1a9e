"""The real ``tele``, run as a user would, with a home directory of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from attrs import frozen

BIN = Path(sys.executable).parent


def free_port() -> int:
    """Ask the kernel for a port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def read_line(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """Return the next line that a program prints; one that prints none is killed."""
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


@frozen
class Tele:
    """Runs ``tele`` with TELE_HOME and HOME in ``folder``."""

    folder: Path

    @property
    def home(self) -> Path:
        """Where certificates are kept."""
        return self.folder / "tele home"  # a space: every path has to be quoted right

    @property
    def environment(self) -> dict[str, str]:
        """What commands run with: nothing of the machine's own accounts and agents."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TELE_", "SSH_", "XDG_"))},
            "TELE_HOME": str(self.home),
            "HOME": str(self.folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def run(
        self,
        *words: object,
        status: int | None = 0,
        stdin: str | None = None,
        seconds: float = 120,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; it has to end with ``status`` (None: any)."""
        done = subprocess.run(
            [str(BIN / "tele"), *map(str, words)],
            cwd=self.folder,
            env={**self.environment, **environment},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert status in (None, done.returncode), (
            f"tele {' '.join(map(str, words))} ended with {done.returncode}\n{done.stderr}"
        )
        return done

    def json(self, *words: object) -> Any:
        """Run one command with ``--format json`` and return what it printed."""
        return json.loads(self.run(*words, "--format", "json").stdout)

    def fails(self, status: int, *words: object, stdin: str | None = None, **env: str) -> str:
        """Run a command that has to fail with ``status``; return its one or two lines."""
        done = self.run(*words, status=status, stdin=stdin, seconds=120, **env)
        assert done.stdout == ""
        assert 1 <= len(done.stderr.splitlines()) <= 4, done.stderr
        return done.stderr


@frozen
class Cluster:
    """A cluster of ``tele up`` and its administrator."""

    tele: Tele
    folder: Path
    name: str
    listen: str

    def up(self, *words: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Start it in the background."""
        return self.tele.run("up", "--detach", "--dir", self.folder, *words, status=status)

    def down(self) -> None:
        """Stop it, whether it runs or not."""
        self.tele.run("down", "--dir", self.folder, status=None)

    @property
    def log(self) -> str:
        """What it wrote down."""
        return (self.folder / "tele.log").read_text()


def new_cluster(folder: Path, name: str = "clitest") -> Cluster:
    """Start a cluster in ``folder``."""
    listen = f"127.0.0.1:{free_port()}"
    cluster = Cluster(Tele(folder), folder / "state", name, listen)
    try:
        cluster.up("--cluster", name, "--listen", listen)
    except BaseException:
        cluster.down()
        raise
    return cluster
