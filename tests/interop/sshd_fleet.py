"""A machine with OpenSSH's sshd behind the recording proxy of a real cluster: for tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from three_processes import Cluster, free_port, wait_for

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
NAME = "db-legacy"
#: What the tests of such a machine need.
NEEDED = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
    pytest.mark.root,
]

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
HostCertificate {folder}/host-cert.pub
TrustedUserCAKeys {folder}/users
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile none
LogLevel VERBOSE
X11Forwarding yes
Subsystem sftp internal-sftp
"""

_PROXY_MODE = """\
kind: cluster
version: v1
metadata: {{name: {cluster}}}
spec:
  session_recording: {settings}
"""


@define
class Fleet:
    """The cluster, and the machine."""

    cluster: Cluster
    folder: Path
    port: int

    @property
    def host(self) -> str:
        """The machine's name for OpenSSH."""
        return f"{NAME}.{self.cluster.name}"

    def ssh(self, *args: str, **named: Any) -> subprocess.CompletedProcess[bytes]:
        """Run OpenSSH's client to the machine."""
        return self.cluster.ssh(self.host, *args, **named)

    def record(self, **settings: Any) -> None:
        """Apply settings of ``session_recording``, live."""
        path = self.folder / "cluster.yaml"
        given = json.dumps(settings)
        path.write_text(_PROXY_MODE.format(cluster=self.cluster.name, settings=given))
        self.cluster.tele("apply", "-f", str(path))

    def shown(self) -> Any:
        """The machine as ``tele ls`` shows it."""
        listed = json.loads(self.cluster.tele("ls", "--format", "json").stdout)
        return next(node for node in listed if node["name"] == NAME)

    def recordings(self) -> list[Any]:
        """Recordings of the machine's sessions, the newest first."""
        listed = json.loads(self.cluster.tele("recordings", "ls", "--format", "json").stdout)
        return [row for row in listed if row["node"] == NAME]

    def recorded(self, count: int) -> Any:
        """Wait until so many recordings are there, and the newest is whole; return it."""

        def whole() -> bool:
            rows = self.recordings()
            return len(rows) >= count and bool(rows[0]["complete"])

        wait_for(whole, f"recording {count}\n{self.cluster.logs()}", 60)
        return self.recordings()[0]

    def verified(self, recording_id: str) -> None:
        """Fail unless a recording verifies, as one of the proxy."""
        done = self.cluster.tele("recordings", "verify", recording_id, "--format", "json")
        found = json.loads(done.stdout)
        assert found["recorder"] == "proxy", found

    def frames(self, recording_id: str) -> list[Any]:
        """The frames of a recording."""
        lines = self.cluster.tele("play", recording_id, "--format", "json").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def text(self, recording_id: str) -> str:
        """What ``tele play`` prints."""
        return self.cluster.tele("play", recording_id, "--format", "text").stdout.decode()


def key_of(machine: Fleet) -> str:
    """The file of the user's key, which has its certificate beside it."""
    found = re.search(r'IdentityFile "(.*)"', machine.cluster.ssh_config.read_text())
    assert found is not None
    return found[1]


def keys(cluster: Cluster, folder: Path, *, principal: str = NAME, sign: bool = True) -> None:
    """Make the keys of an sshd, its certificate, and the file of the authority of users."""
    folder.mkdir()
    local = ("--config", str(cluster.folder / "auth.yaml"))
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True
    )
    if sign:
        words = ("--principal", principal, "--out", str(folder / "host-cert.pub"))
        cluster.tele("ca", "sign-host", str(folder / "host.pub"), *words, *local)
    users = cluster.tele("ca", "export", "--type", "user", "--format", "openssh", *local)
    (folder / "users").write_bytes(users.stdout)


@contextmanager
def running_sshd(folder: Path, port: int, *lines: str) -> Iterator[subprocess.Popen[bytes]]:
    """An sshd with the keys in ``folder``; ``lines`` are more of its configuration."""
    assert SSHD is not None
    config = _CONFIG.format(port=port, folder=folder) + "".join(f"{line}\n" for line in lines)
    if not (folder / "host-cert.pub").exists():
        config = config.replace(f"HostCertificate {folder}/host-cert.pub\n", "")
    (folder / "config").write_text(config)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        log_file = folder / "log"
        wait_for(lambda: "Server listening" in log_file.read_text(), "sshd")
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def fleet(cluster: Cluster, folder: Path) -> Iterator[Fleet]:
    """A cluster that records at the proxy, and a registered machine with sshd that is online."""
    made = Fleet(cluster, folder, free_port())
    keys(cluster, folder)
    with running_sshd(folder, made.port):
        address = f"127.0.0.1:{made.port}"
        cluster.tele("nodes", "add", NAME, "--address", address, "--labels", "env=legacy")
        made.record(mode="proxy")
        wait_for(lambda: made.shown()["status"] == "online", "the machine to be online", 90)
        yield made


@pytest.fixture(scope="module")
def machine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A machine with sshd."""
    folder = tmp_path_factory.mktemp("machine") / "sshd"
    with fleet(cluster, folder) as made:
        yield made


@define
class Clients:
    """What stock clients do at a host, whatever is between; each checks what came of it."""

    cluster: Cluster
    host: str
    folder: Path

    def upload(self, *flags: str) -> bytes:
        """Copy a file there by scp; returns its content."""
        data = os.urandom(3_000_000)
        (self.folder / "up").write_bytes(data)
        words = (str(self.folder / "up"), f"{self.host}:{self.folder}/there")
        self.cluster.client("scp", *flags, "-q", *words)
        assert (self.folder / "there").read_bytes() == data
        return data

    def download(self, data: bytes, *flags: str) -> None:
        """Copy it back."""
        words = (f"{self.host}:{self.folder}/there", str(self.folder / "down"))
        self.cluster.client("scp", *flags, "-q", *words)
        assert (self.folder / "down").read_bytes() == data

    def sftp(self) -> None:
        """Make a directory, upload, rename, list, download and remove."""
        there, batch = self.folder / "d", self.folder / "batch"
        (self.folder / "up").write_bytes(b"content")
        batch.write_text(
            f"mkdir {there}\nput {self.folder}/up {there}/x\nrename {there}/x {there}/y\n"
            f"ls {there}\nget {there}/y {self.folder}/got\nrm {there}/y\n"
        )
        self.cluster.client("sftp", "-b", str(batch), self.host)
        assert (self.folder / "got").read_bytes() == b"content"
        assert not (there / "y").exists()

    def rsync(self) -> None:
        """Copy a folder there."""
        (self.folder / "from").mkdir()
        (self.folder / "from" / "a").write_text("a" * 100_000)
        shell = f"ssh -F {self.cluster.ssh_config}"
        subprocess.run(
            ["rsync", "-a", "-e", shell, f"{self.folder}/from/", f"{self.host}:{self.folder}/to/"],
            env=self.cluster.environment, check=True, timeout=60,
        )  # fmt: skip
        assert (self.folder / "to" / "a").read_text() == "a" * 100_000


def answers_while_auth_is_killed(machine: Fleet, *, waits: bool) -> None:
    """A session goes on over kill -9 of auth in the middle of it, and nothing of it is lost.

    ``waits``: what it shows meanwhile is shown when auth is there again.
    """
    cluster, before = machine.cluster, len(machine.recordings())
    client = subprocess.Popen(
        ["ssh", "-F", str(cluster.ssh_config), machine.host,
         "while read -r word; do echo got-$word; done"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None

    def say(word: bytes) -> None:
        assert client.stdin is not None
        client.stdin.write(word + b"\n")
        client.stdin.flush()

    try:
        say(b"first")
        assert client.stdout.readline() == b"got-first\n"
        cluster.kill("auth")
        try:
            say(b"second")
            if not waits:
                assert client.stdout.readline() == b"got-second\n"
        finally:
            cluster.start("auth")
        if waits:
            assert client.stdout.readline() == b"got-second\n"
        say(b"third")
        assert client.stdout.readline() == b"got-third\n"
        client.stdin.close()
        assert client.wait(60) == 0
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    row = machine.recorded(before + 1)
    machine.verified(row["id"])
    text = machine.text(row["id"])
    assert all(f"got-{word}" in text for word in ("first", "second", "third")), text
