"""Machine identities: a token, short certificates that are renewed, and OpenSSH alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tele_command import Cluster, Tele

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> str:
    """The token of a machine ``ci``, which may log in as the account of this process."""
    own = cluster.tele.json("status")["logins"][0]
    done = cluster.tele.run("tokens", "add", "--bot", "ci", "--role", "access", "--login", own)
    assert "tele login --proxy" in done.stderr
    assert done.stdout.strip() not in done.stderr
    return done.stdout.strip()


def log_in(
    tele: Tele, cluster: Cluster, token: str, *words: str, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Log in with the token in a file, as a timer does."""
    file = tele.folder / "token"
    file.touch(0o600)
    file.write_text(f"{token}\n")
    pin = cluster.tele.json("status")["ca_pins"][0]
    return tele.run(
        "login", "--proxy", cluster.listen, "--ca-pin", pin, "--token-file", file, *words,
        status=status,
    )  # fmt: skip


def test_a_machine_logs_in(tele: Tele, cluster: Cluster, token: str) -> None:
    """For an hour, as its own user, with its token; OpenSSH then needs nothing else of tele, and
    nothing of the user whose account it is.
    """
    assert token.startswith("ci/")
    done = log_in(tele, cluster, token)
    assert f"logged in to {cluster.name} as ci for 1h" in done.stderr
    text = tele.run("config", "--identity", tele.home, TELE_HOME="/nonexistent").stdout
    assert "alice" not in text
    file = tele.folder / "ssh_config"
    file.write_text(text)
    name = f"{socket.gethostname()}.{cluster.name}"
    said = subprocess.run(
        ["ssh", "-F", file, name, "echo $TELE_USER"],
        capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert said.stdout == "ci\n"


def test_a_certificate_is_renewed_in_time(tele: Tele, cluster: Cluster, token: str) -> None:
    """Nothing is done while a third of the time is left; then there is a new certificate for the
    key that there was, so that no program finds a key without its certificate.
    """
    log_in(tele, cluster, token, "--renew")
    folder = tele.home / cluster.name
    key, first = (folder / "ci").read_text(), (folder / "ci-cert.pub").read_text()
    log_in(tele, cluster, token, "--renew")
    assert (folder / "ci-cert.pub").read_text() == first
    summary = json.loads((folder / "ci.json").read_text())
    summary["issued"] -= 8000  # 1 h of 3 h 13 m
    (folder / "ci.json").write_text(json.dumps(summary))
    log_in(tele, cluster, token, "--renew")
    assert (folder / "ci-cert.pub").read_text() != first
    assert (folder / "ci").read_text() == key
    tele.run("ssh", socket.gethostname(), "true")


def test_a_revoked_token_ends_the_renewals(tele: Tele, cluster: Cluster) -> None:
    """The certificate that there is stays until it ends; a lock ends that, too."""
    own = cluster.tele.json("status")["logins"][0]
    made = cluster.tele.json("tokens", "add", "--bot", "cron", "--role", "access", "--login", own)
    assert set(made) == {"token", "roles", "expires", "ca_pin", "user"}
    log_in(tele, cluster, made["token"])
    again = cluster.tele.json("tokens", "add", "--bot", "cron", "--max-uses", "1")["token"]
    listed = [t for t in cluster.tele.json("tokens", "ls") if t.get("bot") == "cron"]
    (used,) = [t["id"] for t in listed if t["uses"]]
    cluster.tele.run("tokens", "rm", used)
    said = log_in(tele, cluster, made["token"], status=4).stderr
    assert "the token is unknown, expired or used up" in said
    tele.run("ssh", socket.gethostname(), "true")
    log_in(tele, cluster, again)
    log_in(tele, cluster, again, status=4)
    cluster.tele.run("users", "rm", "cron")
    tele.run("ssh", socket.gethostname(), "true", status=255)


def test_mistakes_are_named(tele: Tele, cluster: Cluster, token: str, tmp_path: Path) -> None:
    """What makes no sense is said before auth is asked."""
    admin = cluster.tele
    for words, why in (
        (("--bot", "new"), "say what it may do with --role"),
        (("--bot", "ci", "--role", "editor"), "user ci exists"),
        (("--bot", "ci", "--label", "a=b"), "--bot excludes --label"),
        (("--bot", "no name", "--role", "access"), "cannot be the name of a user"),
        (("--login", "www"), "--login needs --bot"),
    ):
        assert why in admin.fails(2, "tokens", "add", *words)
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text("abc\n")
    for more, why in (
        (("--token-file", str(file)), "has no token of a machine identity"),
        (("--renew",), "--renew needs --token-file"),
        (("--token-file", str(file), "--if-needed"), "exclude each other"),
    ):
        assert why in tele.fails(2, "login", *more)
    assert "there was no login in" in tele.fails(2, "config", "--identity", str(tmp_path))
    file.write_text(token)
    assert "is of 'ci'" in tele.fails(2, "login", "--token-file", str(file), "--user", "dana")
