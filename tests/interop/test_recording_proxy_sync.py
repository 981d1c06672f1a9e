"""Stock OpenSSH clients where output waits for auth: through the proxy to a plain sshd, and to a
node.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sshd_fleet import NAME, NEEDED, Clients, Fleet, answers_while_auth_is_killed, machine
from three_processes import wait_for

__all__ = ["machine"]

pytestmark = NEEDED


@pytest.fixture(scope="module")
def synced(machine: Fleet) -> Fleet:
    """A machine with sshd, in the mode proxy-sync."""
    machine.record(mode="proxy-sync")
    wait_for(lambda: newest_mode(machine) == "proxy-sync", "the proxy to know the mode", 60)
    return machine


def newest_mode(machine: Fleet) -> str:
    """The mode in which a session is recorded that begins now."""
    before = len(machine.recordings())
    machine.ssh("true")
    return str(machine.recorded(before + 1)["mode"])


@pytest.fixture(params=[NAME, "web1"])
def clients(request: pytest.FixtureRequest, synced: Fleet, tmp_path: Path) -> Clients:
    """At the machine with sshd, and at the node of tele."""
    return Clients(synced.cluster, f"{request.param}.{synced.cluster.name}", tmp_path)


def test_a_command(clients: Clients) -> None:
    """Streams and exit status are those of the machine."""
    words = "cat; echo err >&2; exit 3"
    done = clients.cluster.ssh(clients.host, words, stdin=b"in\n", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in\n", b"err\n")


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["sftp", "legacy"])
def test_scp(clients: Clients, flags: tuple[str, ...]) -> None:
    """A file is copied there and back unchanged, by both protocols."""
    clients.download(clients.upload(*flags), *flags)


def test_sftp(clients: Clients) -> None:
    """Making a directory, upload, renaming, listing, download and removal."""
    clients.sftp()


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(clients: Clients) -> None:
    """A folder is copied."""
    clients.rsync()


def test_what_is_shown_is_at_auth_when_the_proxy_is_killed(synced: Fleet) -> None:
    """Whatever a client of sshd has read is on the recording, after kill -9 at that moment."""
    cluster, before = synced.cluster, len(synced.recordings())
    mark = f"killed-{time.time_ns()}"
    client = subprocess.Popen(
        ["ssh", "-tt", "-F", str(cluster.ssh_config), synced.host, f"echo {mark}; sleep 60"],
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
    row = synced.recorded(before + 1)
    synced.verified(row["id"])
    assert mark in synced.text(row["id"])


def test_auth_is_killed_in_the_middle(synced: Fleet) -> None:
    """What the machine shows meanwhile waits, and comes: the session goes on."""
    answers_while_auth_is_killed(synced, waits=True)
