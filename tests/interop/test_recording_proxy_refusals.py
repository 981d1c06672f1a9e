"""What the recording proxy refuses at machines with sshd, and what users read then."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sshd_fleet import NEEDED, Fleet, key_of, keys, machine, running_sshd
from three_processes import free_port, wait_for

__all__ = ["machine"]

pytestmark = NEEDED


def refused(machine: Fleet, *args: str) -> str:
    """Return what a user reads who is refused."""
    done = machine.ssh(*args, "echo in", check=False)
    assert (done.stdout, done.returncode != 0) == (b"", True)
    return done.stderr.decode()


@pytest.mark.parametrize("shown", ["another name", "no certificate"])
def test_a_machine_that_does_not_prove_its_name(machine: Fleet, tmp_path: Path, shown: str) -> None:
    """No user logs in to a machine that another one's address leads to, or that has no certificate;
    the user and ``tele ls`` say why (attack).
    """
    port = free_port()
    keys(machine.cluster, tmp_path / "sshd", principal="other", sign=shown == "another name")
    address = f"127.0.0.1:{port}"
    tele, before = machine.cluster.tele, f"127.0.0.1:{machine.port}"
    with running_sshd(tmp_path / "sshd", port):
        tele("nodes", "add", "db-legacy", "--address", address, "--replace")
        try:
            wait_for(lambda: machine.shown()["addresses"] == [address], "the address")
            wait_for(lambda: "db-legacy" in refused(machine), "the proxy to know of it", 60)
            said = refused(machine)
            why = {"another name": "but for 'other'", "no certificate": "has no host certificate"}
            assert why[shown] in said, said
            wait_for(lambda: why[shown] in machine.shown().get("problem", ""), "the reason", 90)
            assert "Accepted" not in (tmp_path / "sshd" / "log").read_text()
        finally:
            tele("nodes", "add", "db-legacy", "--address", before, "--replace")
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "ssh to work again", 90)


def test_host_keys_that_are_not_checked(machine: Fleet, tmp_path: Path) -> None:
    """Switched off, a machine without a certificate is reached; the audit has the change, and the
    recording says that the key was not checked.
    """
    port = free_port()
    keys(machine.cluster, tmp_path / "sshd", sign=False)
    tele, before = machine.cluster.tele, f"127.0.0.1:{machine.port}"
    with running_sshd(tmp_path / "sshd", port):
        tele("nodes", "add", "db-legacy", "--address", f"127.0.0.1:{port}", "--replace")
        machine.record(mode="proxy", proxy_checks_host_keys=False)
        try:
            wait_for(
                lambda: machine.ssh("echo in", check=False).stdout == b"in\n",
                "the machine to be reached", 60,
            )  # fmt: skip
        finally:
            tele("nodes", "add", "db-legacy", "--address", before, "--replace")
            machine.record(mode="proxy")
    row = machine.recorded(1)
    (host,) = [f for f in machine.frames(row["id"]) if f["frame"] == "host"]
    assert host["checked"] is False
    events = tele("audit", "ls", "--event", "cluster.update", "--format", "json").stdout
    assert b'"proxy_checks_host_keys": false' in events
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "ssh to work again", 90)


def test_the_users_own_agent(machine: Fleet) -> None:
    """With ``proxy_login: agent`` the user's certificate logs in, by the agent that the client
    forwards; without it the user is told what to do.
    """
    machine.record(mode="proxy", proxy_login="agent")
    config = machine.cluster.ssh_config
    line = (
        "eval $(ssh-agent) >/dev/null;"
        f" ssh-add -q '{key_of(machine)}'; ssh -A -F {config} {machine.host} 'echo by agent';"
        " kill $SSH_AGENT_PID"
    )
    try:
        wait_for(lambda: "ssh -A" in refused(machine), "the proxy to know of it")
        done = subprocess.run(
            ["sh", "-c", line], env=machine.cluster.environment, capture_output=True, timeout=60,
            check=True,
        )  # fmt: skip
        assert done.stdout == b"by agent\n", done.stderr
    finally:
        machine.record(mode="proxy")
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "certificates again")


def test_only_recorded_sessions(machine: Fleet) -> None:
    """With the principals that the documentation names, sshd accepts sessions of the proxy and
    refuses the user's own certificate (attack).
    """
    principals = machine.folder / "principals"
    principals.mkdir()
    (principals / "root").write_text("session:root@db-legacy\n")
    port = free_port()
    before = f"127.0.0.1:{machine.port}"
    again = machine.folder.parent / "again"
    shutil.copytree(machine.folder, again)
    tele = machine.cluster.tele
    with running_sshd(again, port, f"AuthorizedPrincipalsFile {principals}/%u"):
        tele("nodes", "add", "db-legacy", "--address", f"127.0.0.1:{port}", "--replace")
        try:
            wait_for(lambda: machine.shown()["addresses"] != [before], "the address")
            log = again / "log"

            def through() -> bool:
                done = machine.ssh("echo in", check=False)
                return done.stdout == b"in\n" and "Accepted" in log.read_text()

            wait_for(through, "a session of the proxy", 60)
            direct = subprocess.run(
                ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
                 "-o", "UserKnownHostsFile=/dev/null", "-o", f"IdentityFile={key_of(machine)}",
                 "-o", "IdentitiesOnly=yes", "-p", str(port), "root@127.0.0.1", "echo in"],
                capture_output=True, check=False, timeout=30,
            )  # fmt: skip
            assert direct.stdout == b""
            assert b"Permission denied" in direct.stderr
        finally:
            tele("nodes", "add", "db-legacy", "--address", before, "--replace")
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "ssh to work again", 90)


def test_without_auth(machine: Fleet) -> None:
    """No session begins that auth does not know of, and the user reads so."""
    machine.cluster.kill("auth")
    try:
        assert "begins when auth has registered it" in refused(machine)
    finally:
        machine.cluster.start("auth")
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "ssh to work again", 90)
