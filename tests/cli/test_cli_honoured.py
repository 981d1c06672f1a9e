"""What a command line requests is done, or refused; never ignored."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tele_command import BIN, Cluster, Tele, new_cluster

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def pin(cluster: Cluster) -> str:
    """The pin of a cluster that has a user ``alice`` with the role ``access``."""
    login = cluster.tele.json("status")["logins"][0]
    cluster.tele.run(
        "users", "add", "alice", "--login", login, "--password-file", "-", stdin=f"{PASSWORD}\n"
    )
    pins: list[str] = cluster.tele.json("status")["ca_pins"]
    return pins[0]


def log_in(tele: Tele, cluster: Cluster, pin: str, *words: object, status: int = 0) -> str:
    done = tele.run(
        "login", "--proxy", cluster.listen, "--user", "alice", "--ca-pin", pin, *words,
        stdin=f"{PASSWORD}\n", status=status,
    )  # fmt: skip
    return done.stderr


# -- lengths of time ------------------------------------------------------------------
def test_a_shorter_lifetime_than_requested_is_reported(
    tele: Tele, cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """``--ttl 5d`` that becomes 30 hours prints that, and why; a lifetime granted in full prints
    nothing.
    """
    stdin = ("--password-file", "-")
    assert "--ttl 5d: valid for 1d6h only" in log_in(tele, cluster, pin, *stdin, "--ttl", "5d")
    assert "max_session_ttl" in log_in(tele, cluster, pin, *stdin, "--ttl", "31h")
    for words in ((), ("--ttl", "30h"), ("--ttl", "1h")):
        assert "only" not in log_in(tele, cluster, pin, *stdin, *words)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    sign = ("ca", "sign-user", tmp_path / "k.pub", "--user", "alice", "--out", "-", "--ttl")
    done = cluster.tele.run(*sign, "5d")
    assert "--ttl 5d: valid for 1d6h only" in done.stderr
    assert done.stdout.startswith("ssh-ed25519-cert-v01@openssh.com ")
    assert cluster.tele.run(*sign, "2h").stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ("tokens", "add", "--ttl", "400d"),
        ("ca", "sign-host", "KEY", "--principal", "a.example", "--ttl", "9999d"),
        ("audit", "ls", "--limit", "-1"),
        ("audit", "ls", "--follow", "--since", "1h"),
        ("audit", "ls", "--follow", "--limit", "5"),
        ("tokens", "add", "--label", "env=a,env=b"),
        ("play", "x.tape", "--format", "text", "--speed", "2"),
        ("play", "x.tape", "--idle-limit", "2"),
        ("play", "x.tape", "--format", "json", "--at", "12:41"),
        ("play", "x.tape", "--format", "pty", "--speed", "nan"),
        ("play", "x.tape", "--format", "pty", "--idle-limit", "inf"),
        ("recordings", "ls", "--since", "2026-13-01"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_had_is_refused(
    cluster: Cluster, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Limits, and options that do nothing together, are usage errors."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    key = str(tmp_path / "k.pub")
    assert cluster.tele.run(*(key if w == "KEY" else w for w in words), status=2).stdout == ""


# -- files ----------------------------------------------------------------------------
def test_a_password_file_that_others_can_read_is_reported(
    tele: Tele, cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """The error says that others can read the file, and what to type; a pipe is accepted."""
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text(f"{PASSWORD}\n")
    log_in(tele, cluster, pin, "--password-file", secret)
    secret.chmod(0o644)
    tele.run("logout")
    said = log_in(tele, cluster, pin, "--password-file", secret)
    assert "warning: --password-file" in said
    assert "others can read it (mode 0644)" in said
    assert f"chmod 600 {secret}" in said
    done = cluster.tele.run("users", "reset", "alice", "--password-file", secret)
    assert "others can read it" in done.stderr
    command = (
        f"'{BIN}/tele' login --proxy {cluster.listen} --user alice --ca-pin {pin}"
        f" --password-file <(cat '{secret}')"
    )
    if bash := shutil.which("bash"):
        done = subprocess.run(
            [bash, "-c", command], env=tele.environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_key_that_others_can_read_is_not_used(tele: Tele, cluster: Cluster, pin: str) -> None:
    """As ssh refuses its own key, so does the API's client."""
    log_in(tele, cluster, pin, "--password-file", "-")
    key = tele.home / cluster.name / "alice.tls.key"
    key.chmod(0o604)
    assert f"your key {key}: others can read it" in tele.fails(2, "ls")
    key.chmod(0o600)
    tele.run("ls")


@pytest.fixture(scope="module")
def recording(cluster: Cluster) -> str:
    """The id of a complete recording that says hello."""
    cluster.tele.run("ssh", socket.gethostname(), "echo hello; echo there >&2")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for row in cluster.tele.json("recordings", "ls"):
            if row["ended"] and cluster.tele.run("recordings", "verify", row["id"], status=None):
                return str(row["id"])
        time.sleep(0.1)
    raise AssertionError("no recording came")


def test_a_recording_is_exported_to_standard_output(
    cluster: Cluster, recording: str, tmp_path: Path
) -> None:
    """``-`` is no name of a file, in any form; what comes out is the recording and nothing else."""
    file = tmp_path / "whole.tape"
    with file.open("wb") as out:
        subprocess.run(
            [BIN / "tele", "recordings", "export", recording, "-"], env=cluster.tele.environment,
            stdout=out, cwd=tmp_path, timeout=60, check=True,
        )  # fmt: skip
    assert file.read_bytes().startswith(b"TELETAPE1\n")
    assert cluster.tele.run("recordings", "verify", file).stdout.startswith("ok: ")
    for form, has in (("text", "hello\n"), ("json", '"data": "hello\\n"'), ("cast", "version")):
        done = cluster.tele.run("recordings", "export", recording, "-", "--format", form)
        assert has in done.stdout
        assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["whole.tape"]
    assert not Path("-").exists()


def test_a_channel_that_is_chosen_is_the_one_that_is_shown(
    cluster: Cluster, recording: str
) -> None:
    """In every form, JSON included."""
    for form in ("text", "json"):
        shown = cluster.tele.run("play", recording, "--format", form, "--channel", "1").stdout
        none = cluster.tele.run("play", recording, "--format", form, "--channel", "77").stdout
        assert "hello" in shown
        assert none == ""


# -- which user or node ---------------------------------------------------------------
def test_an_option_beats_the_environment(tele: Tele, cluster: Cluster, pin: str) -> None:
    """``--proxy`` is not passed over because TELE_CLUSTER is set, nor the other way round."""
    log_in(tele, cluster, pin, "--password-file", "-")
    assert "not logged in" in tele.fails(3, "status", TELE_CLUSTER="elsewhere")
    shown = tele.run("status", "--proxy", cluster.listen, TELE_CLUSTER="elsewhere").stdout
    assert cluster.name in shown
    tele.run("status", "--cluster", cluster.name, TELE_PROXY="127.0.0.1:1")
    tele.run("ssh", "--cluster", cluster.name, socket.gethostname(), "true", TELE_PROXY="other:1")


def test_options_that_contradict_each_other_are_refused(
    tele: Tele, cluster: Cluster, pin: str
) -> None:
    """None of two wins by chance; nothing is done to one that was not meant."""
    log_in(tele, cluster, pin, "--password-file", "-")
    both = ("--cluster", cluster.name, "--proxy", "127.0.0.1:1")
    assert f"--cluster {cluster.name} and --proxy 127.0.0.1:1" in tele.fails(2, "ls", *both)
    config = cluster.folder / "tele.yaml"
    for words in (("--user", "bob"), ("--cluster", "c"), ("--proxy", "p:1")):
        assert "leave out" in cluster.tele.fails(2, "ls", "--config", config, *words)
    assert "--all excludes --cluster" in tele.fails(2, "logout", "--all", "--cluster", cluster.name)
    tele.run("status")
    assert "--type host" in tele.fails(
        2, "ca", "export", "--type", "user", "--format", "known_hosts"
    )


def test_a_certificate_of_another_ca_is_not_enough(tele: Tele, cluster: Cluster, pin: str) -> None:
    """``login --if-needed --ca-pin`` keeps a certificate only if its cluster has that pin."""
    log_in(tele, cluster, pin, "--password-file", "-")
    tele.run("login", "--if-needed", "--ca-pin", pin)
    words = ("login", "--if-needed", "--ca-pin", "sha256:" + "0" * 64, "--password-file", "-")
    assert "pin" in tele.fails(4, *words, stdin=f"{PASSWORD}\n")


def test_an_option_that_is_empty_is_not_one_that_is_left_out(
    cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """``--login "$UNSET"`` gives no certificate for all logins, and no token for any host."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    before = cluster.tele.json("tokens", "ls")
    for words in (
        ("ca", "sign-user", tmp_path / "k.pub", "--user", "alice", "--out", "-", "--login", ""),
        ("users", "update", "alice", "--login", ""),
        ("users", "update", "alice", "--remove-role", " "),
        ("users", "add", "carol", "--role", ","),
        ("tokens", "add", "--label", ""),
        ("tokens", "add", "--replace", ""),
        ("tokens", "add", "--address", ""),
        ("tokens", "add", "--host-id", ""),
        ("locks", "add", "--user", ""),
        ("locks", "add", "--user", "", "--role", "access"),
        ("audit", "ls", "--of", ""),
        ("audit", "ls", "--session", ""),
        ("audit", "ls", "--event", ""),
    ):
        assert cluster.tele.run(*words, status=2).stdout == ""
    assert cluster.tele.json("tokens", "ls") == before
    assert "carol" not in cluster.tele.run("users", "ls", "--format", "names").stdout


def test_an_inventory_is_of_the_cluster_that_ssh_knows(cluster: Cluster) -> None:
    """Auth's owner may be logged in to another cluster: nodes of one get no ssh of the other."""
    config = cluster.folder / "tele.yaml"
    said = cluster.tele.fails(2, "ls", "--format", "ansible", "--config", config)
    assert "leave --config out" in said


# -- what was there before ------------------------------------------------------------
def test_a_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """When auth's store was removed and its hosts' identities were not, they belong to a cluster
    that is no more: the error says which folder to remove, and then it starts.
    """
    own = new_cluster(tmp_path)
    try:
        own.down()
        for path in own.folder.glob("auth.sqlite*"):
            path.unlink()
        said = own.up(status=2).stderr
        assert "proxy.join: " in said
        folder = own.folder / "identity" / "proxy"
        assert f"remove {folder}" in said
        assert len(re.findall("sha256:[0-9a-f]{64}", said)) == 2
        shutil.rmtree(own.folder / "identity")
        own.up()
        assert own.tele.json("ls")
    finally:
        own.down()


def test_twistd_refuses_a_token_that_others_can_read(
    tele: Tele, pin: str, cluster: Cluster
) -> None:
    """A service that is to join says why it does not start, and which file it is."""
    made = cluster.tele.json("tokens", "add")
    token = tele.folder / "token"
    token.write_text(made["token"])
    token.chmod(0o644)
    auth = re.search(r"listen: (127\.0\.0\.1:\d+)", (cluster.folder / "tele.yaml").read_text())
    assert auth is not None
    config = tele.folder / "node.yaml"
    config.write_text(
        "version: v1\ndata_dir: d\nnode:\n  name: web9\n  listen: 127.0.0.1:0\n"
        f"  join: {{auth: '{auth[1]}', token_file: token, ca_pin: '{pin}'}}\n"
    )
    done = subprocess.run(
        [str(BIN / "twistd"), "-n", "--pidfile=", "tele-node", "--config", str(config)],
        env={**os.environ, **tele.environment}, cwd=tele.folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f'cannot start error="token_file {token}: others can read it (mode 0644)' in done.stderr
    assert made["token"] not in done.stderr
