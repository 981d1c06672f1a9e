"""The list of revoked certificates, from a real proxy to a real sshd."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from sshd_fleet import SSHD, keys, running_sshd
from three_processes import Cluster, free_port, wait_for

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's sshd"),
    pytest.mark.skipif(not shutil.which("curl"), reason="needs curl"),
]
UNITS = Path(__file__).resolve().parents[2] / "docs" / "examples" / "systemd"
OWN = pwd.getpwuid(os.getuid()).pw_name


@frozen
class Machine:
    """A machine with sshd that takes users' certificates and reads the list, and a user's key."""

    cluster: Cluster
    folder: Path
    port: int

    def refresh(self) -> bool:
        """Run the commands of the unit that fetches the list; return whether they succeed."""
        unit = (UNITS / "tele-krl.service").read_text()
        for line in unit.splitlines():
            if not line.startswith("ExecStart="):
                continue
            words = line.removeprefix("ExecStart=").replace("/etc/ssh/", f"{self.folder}/")
            words = words.replace("${TELE_PROXY}", f"127.0.0.1:{self.cluster.ports['proxy']}")
            words = words.replace("${TELE_CLUSTER}", self.cluster.name)
            if subprocess.run(words.split(), capture_output=True, check=False).returncode:
                return False
        return True

    def revoked(self, listed: Path | None = None) -> bool:
        """Whether the list, once it is fetched, revokes the user's certificate."""
        assert listed is not None or self.refresh()
        path = listed or self.folder / "tele-revoked"
        done = subprocess.run(
            ["ssh-keygen", "-Q", "-f", path, self.folder / "key-cert.pub"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 1

    def logs_in(self) -> bool:
        """Whether sshd lets the user in, directly."""
        options = (
            "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes", "IdentityAgent=none",
        )  # fmt: skip
        words = [each for option in options for each in ("-o", option)]
        done = subprocess.run(
            ["ssh", "-F", "none", *words, "-i", self.folder / "key", "-p", str(self.port),
             f"{OWN}@127.0.0.1", "true"],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode in (0, 255), done.stderr
        return done.returncode == 0


@pytest.fixture
def machine(cluster: Cluster, tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "sshd"
    keys(cluster, folder, sign=False)
    made = Machine(cluster, folder, free_port())
    local = ("--config", str(cluster.folder / "auth.yaml"))
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True
    )
    cluster.tele("users", "add", "vera", "--role", "access", "--login", OWN, *local)
    cluster.tele("ca", "sign-user", str(folder / "key.pub"), "--user", "vera", *local)
    pem = cluster.tele("ca", "export", "--type", "host", "--format", "pem", *local)
    (folder / "tele-hosts.pem").write_bytes(pem.stdout)
    assert made.refresh()
    with running_sshd(folder, made.port, f"RevokedKeys {folder}/tele-revoked"):
        yield made


def test_a_lock_reaches_an_sshd(machine: Machine, tmp_path: Path) -> None:
    """A certificate of a locked user is refused by an sshd that fetches the list, until the lock is
    removed; that of a removed user, for good, and while auth is away, too.
    """
    cluster, local = machine.cluster, ("--config", str(machine.cluster.folder / "auth.yaml"))
    assert not machine.revoked()
    assert machine.logs_in()
    cluster.tele("locks", "add", "--user", "vera", "--name", "no-vera", *local)
    wait_for(machine.revoked, "the lock in the list", 15)
    assert not machine.logs_in()
    exported = tmp_path / "exported"
    exported.write_bytes(cluster.tele("ca", "export", "--krl", *local).stdout)
    assert machine.revoked(exported)
    cluster.tele("locks", "rm", "no-vera", *local)
    wait_for(lambda: not machine.revoked(), "the end of the lock in the list", 15)
    assert machine.logs_in()
    cluster.tele("users", "rm", "vera", *local)
    wait_for(machine.revoked, "the removal in the list", 15)
    cluster.kill("auth")
    assert machine.revoked()
    assert not machine.logs_in()
    # A proxy that never had a list has none to give, and says so; the file stays.
    cluster.kill("proxy")
    assert not machine.refresh()
    cluster.start("proxy")
    wait_for(lambda: b"503" in _status(cluster), "the proxy to serve", 60)
    assert not machine.refresh()
    assert machine.revoked(machine.folder / "tele-revoked")
    cluster.start("auth")
    wait_for(lambda: machine.refresh() and machine.revoked(), "auth to be back", 90)


def _status(cluster: Cluster) -> bytes:
    url = f"https://127.0.0.1:{cluster.ports['proxy']}/v1/krl"
    return subprocess.run(["curl", "-skI", url], capture_output=True, check=False).stdout
