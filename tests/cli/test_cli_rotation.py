"""What a user trusts follows a rotation of the CAs, without a login."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tele.certs.pins import pin
from tele.certs.x509 import TlsKey, make_authority
from tele.model.authority import AuthorityKind
from tele_command import Cluster

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

ADMIN = pwd.getpwuid(os.geteuid()).pw_name
NODE = socket.gethostname()
PHASES = ("init", "update_clients", "update_servers", "standby")


@pytest.fixture(scope="module")
def folder(cluster: Cluster) -> Path:
    """Where the files of the administrator's login are."""
    return cluster.tele.home / cluster.name


def rotate(cluster: Cluster, phase: str, *words: str) -> None:
    cluster.tele.run(
        "ca", "rotate", "--manual", "--phase", phase, "--force", "--yes", *words,
        "--config", cluster.folder / "tele.yaml",
    )  # fmt: skip


def trusted(folder: Path) -> dict[str, Any]:
    authorities = json.loads((folder / "ca.json").read_text())
    return {each["kind"]: each for each in authorities}


def have_followed(cluster: Cluster) -> None:
    """Wait until all hosts have certificates of the keys that sign."""
    end = time.monotonic() + 90
    words = ("nodes", "ls", "--rotation", "--config", cluster.folder / "tele.yaml")
    while any(host.get("behind") for host in cluster.tele.json(*words)):
        assert time.monotonic() < end
        time.sleep(0.5)


def is_old(folder: Path) -> None:
    """Let the authorities be as old as they are after some minutes."""
    before = time.time() - 3600
    os.utime(folder / "ca.json", (before, before))


def wait_for(folder: Path, pins: int, *, but: str = "") -> dict[str, Any]:
    """Wait until there are so many pins, of which none is ``but``."""
    end = time.monotonic() + 60
    while len(found := trusted(folder)["host"]["pins"]) != pins or but in found:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    found_host: dict[str, Any] = trusted(folder)["host"]
    return found_host


def test_trust_follows_by_commands_and_by_ssh(cluster: Cluster, folder: Path) -> None:
    """New keys are there after ssh, dropped ones are gone after a command, the pins of the profile
    with them; while the files are new nothing is asked.
    """
    (old,) = trusted(folder)["host"]["pins"]
    rotate(cluster, "init", "--type", "host", "--type", "tls-host")
    cluster.tele.run("ssh", NODE, "true")
    assert len(trusted(folder)["host"]["pins"]) == 1
    is_old(folder)
    cluster.tele.run("ssh", NODE, "true")
    found = wait_for(folder, 2)
    known = (folder / "known_hosts").read_text()
    assert [line.split()[-1] in known for line in found["ssh_public_keys"]] == [True, True]
    for phase in PHASES[1:]:
        rotate(cluster, phase)
    have_followed(cluster)
    is_old(folder)
    cluster.tele.run("ls")
    found = wait_for(folder, 1, but=old)
    end = time.monotonic() + 60
    while cluster.tele.json("status")["ca_pins"] != found["pins"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    (key,) = found["ssh_public_keys"]
    assert key.split()[-1] in (folder / "known_hosts").read_text()
    assert cluster.tele.run("ssh", NODE, "echo on").stdout == "on\n"


def test_who_was_away_calls_auth_all_the_same(cluster: Cluster, folder: Path) -> None:
    """By the pin of before and by the authorities of before: the old key says who is next."""
    before = (folder / "ca.json").read_text()
    (old,) = trusted(folder)["host"]["pins"]
    for phase in PHASES:
        rotate(cluster, phase, "--type", "tls-host") if phase == "init" else rotate(cluster, phase)
    (folder / "ca.json").write_text(before)
    cluster.tele.run("ls")
    is_old(folder)
    cluster.tele.run("ls")
    wait_for(folder, 1, but=old)


def test_a_user_who_rotates_is_not_locked_out(cluster: Cluster) -> None:
    """Not even if the old key says nothing, and all phases follow at once."""
    words: tuple[str, ...] = ("--type", "tls-host", "--compromised")
    for phase in PHASES:
        begun = ("ca", "rotate", "--manual", "--phase", phase, "--force", "--yes")
        done = cluster.tele.run(*begun, *words)
        assert "note:" not in done.stderr
        words = ()
    cluster.tele.run("ls")


def test_another_server_changes_nothing(cluster: Cluster, folder: Path) -> None:
    """An answer under a CA that is not trusted is none (attack)."""
    before = (folder / "ca.json").read_text()
    other = json.loads(before)
    key = TlsKey.generate()
    for each in other:
        kind = AuthorityKind(each["kind"])
        made = make_authority(cluster.name, kind, key, datetime.now(UTC), os.urandom)
        each.update(tls_certificates=[made], pins=[pin(made)])
    (folder / "ca.json").write_text(json.dumps(other))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tele.cli.trust", cluster.tele.home, cluster.name, ADMIN],
            env=cluster.tele.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "not the auth server of this cluster" in done.stderr
        assert json.loads((folder / "ca.json").read_text()) == other
    finally:
        (folder / "ca.json").write_text(before)


def test_a_certificate_of_a_dropped_key_is_said_to_be_none(cluster: Cluster, folder: Path) -> None:
    """Commands say to log in again, instead of a refusal by each node."""
    for phase in PHASES:
        rotate(cluster, phase, "--type", "user") if phase == "init" else rotate(cluster, phase)
    is_old(folder)
    cluster.tele.run("ssh", NODE, "true", status=None)
    end = time.monotonic() + 60
    while (done := cluster.tele.run("ssh", NODE, "true", status=None)).returncode != 3:
        assert time.monotonic() < end, done
        time.sleep(0.2)
    assert "tele login" in done.stderr
