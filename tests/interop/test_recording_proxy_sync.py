"""Stock OpenSSH clients where output waits for auth: through the proxy to a plain sshd, and to a
node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sshd_fleet import NAME, SSHD, Fleet, fleet
from three_processes import Cluster, wait_for

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
    pytest.mark.root,
]


@pytest.fixture(scope="module")
def machine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A machine with sshd, in the mode proxy-sync."""
    folder = tmp_path_factory.mktemp("machine") / "sshd"
    with fleet(cluster, folder) as made:
        made.record(mode="proxy-sync")
        wait_for(lambda: newest_mode(made) == "proxy-sync", "the proxy to know the mode", 60)
        yield made


def newest_mode(machine: Fleet) -> str:
    """The mode in which a session is recorded that begins now."""
    before = len(machine.recordings())
    machine.ssh("true")
    return str(machine.recorded(before + 1)["mode"])


@pytest.fixture(params=[NAME, "web1"])
def host(request: pytest.FixtureRequest, machine: Fleet) -> str:
    """The machine with sshd, and the node of tele."""
    return f"{request.param}.{machine.cluster.name}"


def test_a_command(machine: Fleet, host: str) -> None:
    """Streams and exit status are those of the machine."""
    done = machine.cluster.ssh(host, "cat; echo err >&2; exit 3", stdin=b"in\n", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in\n", b"err\n")


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["sftp", "legacy"])
def test_scp(machine: Fleet, host: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A file is copied there and back unchanged, by both protocols."""
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    client = machine.cluster.client
    client("scp", *flags, "-q", str(tmp_path / "up"), f"{host}:{tmp_path}/there")
    assert (tmp_path / "there").read_bytes() == data
    client("scp", *flags, "-q", f"{host}:{tmp_path}/there", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == data


def test_sftp(machine: Fleet, host: str, tmp_path: Path) -> None:
    """Making a directory, upload, renaming, listing, download and removal."""
    (tmp_path / "up").write_bytes(b"content")
    (tmp_path / "batch").write_text(
        f"mkdir {tmp_path}/d\nput {tmp_path}/up {tmp_path}/d/x\n"
        f"rename {tmp_path}/d/x {tmp_path}/d/y\nls {tmp_path}/d\n"
        f"get {tmp_path}/d/y {tmp_path}/got\nrm {tmp_path}/d/y\n"
    )
    machine.cluster.client("sftp", "-b", str(tmp_path / "batch"), host)
    assert (tmp_path / "got").read_bytes() == b"content"
    assert not (tmp_path / "d" / "y").exists()


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(machine: Fleet, host: str, tmp_path: Path) -> None:
    """A folder is copied."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_text("a" * 100_000)
    shell = f"ssh -F {machine.cluster.ssh_config}"
    subprocess.run(
        ["rsync", "-a", "-e", shell, f"{tmp_path}/from/", f"{host}:{tmp_path}/to/"],
        env=machine.cluster.environment, check=True, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "to" / "a").read_text() == "a" * 100_000


def test_what_is_shown_is_at_auth_when_the_proxy_is_killed(machine: Fleet) -> None:
    """Whatever a client of sshd has read is on the recording, after kill -9 at that moment."""
    cluster, before = machine.cluster, len(machine.recordings())
    mark = f"killed-{time.time_ns()}"
    client = subprocess.Popen(
        ["ssh", "-tt", "-F", str(cluster.ssh_config), machine.host, f"echo {mark}; sleep 60"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        assert mark.encode() in client.stdout.readline()
        cluster.kill("proxy")
        client.wait(30)
    finally:
        client.kill()
        client.communicate()
        cluster.start("proxy")
    row = machine.recorded(before + 1)
    machine.verified(row["id"])
    assert mark in machine.text(row["id"])
