"""Users of a cluster of three processes, each with certificates of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field

from three_processes import Cluster, wait_for

PASSWORD = "another battery staple"


@define
class ClusterUser:
    """A user who is logged in."""

    cluster: Cluster
    name: str
    home: Path
    config: Path

    def tele(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run ``tele`` as this user."""
        return self.cluster.tele("--home", str(self.home), *words, check=check)

    def ssh_words(self, *words: str, program: str = "ssh") -> list[str]:
        """Return the command line that runs OpenSSH as this user."""
        return [program, "-F", str(self.config), *words]

    def ssh(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh and wait for it."""
        return subprocess.run(
            self.ssh_words(*words),
            env=self.cluster.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )

    @property
    def login_session(self) -> str:
        """The id of the log-in, as the audit has it."""
        return str(issued(self.cluster, self.name)["login_session"])

    @property
    def serial(self) -> str:
        """The serial of the SSH certificate, as ``ssh-keygen -L`` prints it."""
        (path,) = self.home.rglob("*-cert.pub")
        done = subprocess.run(
            ["ssh-keygen", "-L", "-f", str(path)], capture_output=True, text=True, check=True
        )
        (line,) = (each for each in done.stdout.splitlines() if "Serial:" in each)
        return line.split()[1]


def local(cluster: Cluster) -> tuple[str, str]:
    """The options that make a command call auth as its owner."""
    return "--config", str(cluster.folder / "auth.yaml")


def add_user(cluster: Cluster, name: str, *more: str, roles: str = "access") -> ClusterUser:
    """Create a user, and log them in."""
    account = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
    secret = cluster.folder / f"password-{name}"
    secret.touch(0o600)
    secret.write_text(PASSWORD)
    cluster.tele(
        "users", "add", name, "--role", roles, "--login", account.strip(),
        "--password-file", str(secret), *more, *local(cluster),
    )  # fmt: skip
    return log_in(cluster, name)


def log_in(cluster: Cluster, name: str) -> ClusterUser:
    """Log a user in."""
    home = cluster.folder / f"home-{name}"
    pin = json.loads(cluster.tele("status", "--format", "json").stdout)["ca_pins"][0]
    user = ClusterUser(cluster, name, home, cluster.folder / f"ssh_config-{name}")
    user.tele(
        "login", "--proxy", f"127.0.0.1:{cluster.ports['proxy']}", "--user", name, "--ca-pin", pin,
        "--password-file", str(cluster.folder / f"password-{name}"),
    )  # fmt: skip
    user.config.write_bytes(user.tele("config").stdout)
    return user


def events(cluster: Cluster, name: str, user: str = "") -> list[dict[str, Any]]:
    """Return the audit's events of a name."""
    said = ("--of", user) if user else ()
    done = cluster.tele("audit", "ls", "--event", name, *said, "--format", "json", *local(cluster))
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def issued(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return the event of the last certificate that a user got."""
    return events(cluster, "cert.issue", name)[-1]


@define
class Running:
    """An ssh that runs. What it prints is kept."""

    process: subprocess.Popen[bytes]
    out: bytearray = field(factory=bytearray)
    err: bytearray = field(factory=bytearray)
    _threads: list[threading.Thread] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        for stream, kept in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            thread = threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _read(self, stream: Any, kept: bytearray) -> None:
        while data := os.read(stream.fileno(), 65536):
            kept += data

    def wait_for(self, text: bytes) -> None:
        """Wait until it printed ``text``."""
        wait_for(lambda: text in self.out + self.err, f"{text!r} in {self.out!r} {self.err!r}")

    def ended(self) -> bytes:
        """Wait for its end; returns all that the user read."""
        wait_for(lambda: self.process.poll() is not None, f"its end; {self.out!r} {self.err!r}")
        self.join()
        return bytes(self.out + self.err)

    def join(self) -> None:
        """Wait until all that it printed is kept."""
        for thread in self._threads:
            thread.join()

    @property
    def runs(self) -> bool:
        """Whether it still does."""
        return self.process.poll() is None


@contextmanager
def running(user: ClusterUser, *words: str, program: str = "ssh") -> Iterator[Running]:
    """Run OpenSSH as a user until the end of the block."""
    with subprocess.Popen(
        user.ssh_words(*words, program=program),
        env=user.cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        client = Running(process)
        try:
            yield client
        finally:
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGKILL)
            client.join()
