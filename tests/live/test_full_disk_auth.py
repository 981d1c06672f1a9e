"""Auth on a disk that is really full: administrators log in, and nothing acknowledged is lost.

The disk is a small tmpfs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_users import events, local
from three_processes import Cluster, make_cluster, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH"),
]

SIZE = "size=48m"


@pytest.fixture
def alice(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster whose auth has a small disk, as its administrator has it."""
    size = getattr(request, "param", SIZE)
    folder = tmp_path / "auth"
    folder.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{size},mode=700", "tmpfs", str(folder)], check=True
    )
    try:
        running = make_cluster(tmp_path)
        try:
            yield running
        finally:
            running.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def health(cluster: Cluster) -> str:
    """How full auth says that its disk is."""
    words = ["curl", "-sk", f"https://127.0.0.1:{cluster.ports['auth']}/v1/health"]
    return str(json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["disk"])


def login(cluster: Cluster) -> None:
    cluster.tele(
        "login", "--proxy", f"127.0.0.1:{cluster.ports['proxy']}", "--user", "alice",
        "--password-file", str(cluster.folder / "alice.password"), "--ca-pin", cluster.pin,
    )  # fmt: skip


def recordings(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        cluster.tele("recordings", "ls", "--format", "json").stdout
    )
    return found


def verified(cluster: Cluster) -> bytes:
    return cluster.tele("audit", "verify", *local(cluster)).stdout


def test_a_disk_that_something_else_filled(alice: Cluster) -> None:
    """Log-ins work and are on record, also after a restart; sessions go on, and their events and
    recordings come when there is space.
    """
    fill = alice.folder / "auth" / "fill"
    with pytest.raises(OSError, match="No space left"), fill.open("ab", 0) as file:
        while True:
            file.write(bytes(4096))
    for _ in range(3):
        login(alice)
    wait_for(lambda: health(alice) == "full", "auth to say so")
    wait_for(
        lambda: "full" in {e["level"] for e in events(alice, "disk.low")},
        "the audit to have it",
        60,
    )
    refused = alice.tele(
        "users", "add", "bob", "--role", "access", "--login", "x", check=False, stdin=b""
    )
    assert refused.returncode == 1
    assert b"disk is full" in refused.stderr
    alice.kill("auth")
    alice.start("auth")
    login(alice)
    assert alice.ssh(alice.host, "echo served").stdout == b"served\n"
    assert len(events(alice, "user.login")) == 5
    fill.unlink()
    wait_for(lambda: len(events(alice, "session.end")) == 1, "the events of the session", 60)
    wait_for(lambda: any(r["complete"] for r in recordings(alice)), "its recording", 60)
    wait_for(lambda: health(alice) == "ok", "auth to say that, too", 60)
    assert b"are whole" in verified(alice)


def test_a_disk_that_recordings_filled(alice: Cluster) -> None:
    """They are refused first: the rest works as ever. When some are removed the others come, and
    none has lost anything.
    """
    assert alice.ssh(alice.host, "echo old").returncode == 0
    wait_for(lambda: any(r["complete"] for r in recordings(alice)), "the first recording")
    (old,) = recordings(alice)
    ballast = alice.folder / "auth" / "recordings" / "ballast"
    ballast.write_bytes(bytes(30 << 20))
    command = "head -c 12000000 /dev/urandom | base64; head -c 8000000 /dev/urandom | base64"
    assert alice.ssh("-tt", alice.host, command).returncode == 0
    wait_for(lambda: health(alice) == "tight", "auth to take no more recordings", 60)
    login(alice)
    bob = alice.person("bob", "access")
    assert bob.ssh(bob.host, "echo in").stdout == b"in\n"
    waiting = [r for r in recordings(alice) if r["id"] != old["id"]]
    assert waiting
    assert not all(r["complete"] for r in waiting)
    alice.tele("recordings", "rm", str(old["id"]), "--reason", "space")
    ballast.unlink()
    wait_for(lambda: all(r["complete"] for r in recordings(alice)), "all of them", 120)
    for row in recordings(alice):
        alice.tele("recordings", "verify", str(row["id"]))
    assert b"are whole" in verified(alice)


@pytest.mark.parametrize("alice", [f"{SIZE},nr_inodes=400"], indirect=True)
def test_inodes_that_are_used_up(alice: Cluster) -> None:
    """Recordings, which have a file for each chunk, are refused first, with a warning; what is left
    is enough for auth to start again, and they are uploaded when there are inodes again.
    """
    fill = alice.folder / "auth" / "fill"
    fill.mkdir()
    number = 0
    while os.statvfs(fill).f_favail > 20:
        (fill / str(number)).touch()
        number += 1
    assert alice.ssh(alice.host, "echo served").stdout == b"served\n"
    wait_for(lambda: len(events(alice, "session.end")) == 1, "the events of the session", 60)
    assert not any(r["complete"] for r in recordings(alice))
    alice.kill("auth")
    alice.start("auth")
    login(alice)
    wait_for(lambda: health(alice) == "tight", "auth to say so")
    wait_for(lambda: "tight" in {e["level"] for e in events(alice, "disk.low")}, "the event")
    assert os.statvfs(fill).f_favail >= 10, "recordings that are refused take none"
    shutil.rmtree(fill)
    wait_for(lambda: all(r["complete"] for r in recordings(alice)), "its recording", 60)
    assert b"are whole" in verified(alice)
