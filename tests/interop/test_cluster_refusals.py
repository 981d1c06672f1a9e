"""A client without the right certificate is refused, and the attempt is in the audit."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from pathlib import Path

import pytest
from attrs import frozen

from three_processes import Cluster, wait_for


@frozen
class Keys:
    """A private key and a CA, made by ssh-keygen."""

    folder: Path

    def keygen(self, *words: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *words], check=True, cwd=self.folder)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A fresh key pair ``k`` and a foreign CA ``ca``."""
    made = Keys(tmp_path)
    made.keygen("-t", "ed25519", "-N", "", "-f", "k")
    made.keygen("-t", "ed25519", "-N", "", "-f", "ca")
    return made


def direct(cluster: Cluster, *words: str, login: str = "") -> subprocess.CompletedProcess[bytes]:
    """Connect directly to the node's port with no other options than ``words``."""
    login = login or pwd.getpwuid(os.geteuid()).pw_name
    return subprocess.run(
        ["ssh", "-F", "none", "-p", str(cluster.ports["node"]), "-o", "BatchMode=yes",
         "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-l", login, *words,
         "127.0.0.1", "echo reached"],
        env=cluster.environment, capture_output=True, timeout=30, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip


def refused(cluster: Cluster, *words: str) -> None:
    """The attempt fails, reaches nothing, and is audited."""
    before = denials(cluster)
    done = direct(cluster, *words)
    assert done.returncode == 255
    assert b"reached" not in done.stdout
    wait_for(lambda: denials(cluster) > before, "the denial in the audit")


def denials(cluster: Cluster) -> int:
    done = cluster.tele(
        "audit", "ls", "--event", "auth.denied", "--limit", "1000", "--format", "json"
    )
    return len(json.loads(done.stdout))


def certificate(cluster: Cluster, keys: Keys, *words: str) -> tuple[str, ...]:
    """Have the cluster sign ``k`` for alice."""
    done = cluster.tele("ca", "sign-user", str(keys.folder / "k.pub"), "--user", "alice", *words)
    (keys.folder / "k-cert.pub").write_bytes(done.stdout)
    return ("-i", str(keys.folder / "k"), "-o", f"CertificateFile={keys.folder}/k-cert.pub")


def test_a_valid_certificate_is_accepted(cluster: Cluster, keys: Keys) -> None:
    """The login from which the others differ in one respect."""
    done = direct(cluster, *certificate(cluster, keys))
    assert (done.returncode, done.stdout) == (0, b"reached\n"), done.stderr


def test_a_plain_key_is_refused(cluster: Cluster, keys: Keys) -> None:
    """A key without a certificate is refused."""
    refused(cluster, "-i", str(keys.folder / "k"))


def test_another_authority_is_refused(cluster: Cluster, keys: Keys) -> None:
    """A certificate of a foreign CA is refused."""
    login = pwd.getpwuid(os.geteuid()).pw_name
    keys.keygen("-s", "ca", "-I", "alice", "-n", login, "-V", "+1h", "k.pub")
    refused(
        cluster, "-i", str(keys.folder / "k"), "-o", f"CertificateFile={keys.folder}/k-cert.pub"
    )


def test_an_expired_certificate_is_refused(cluster: Cluster, keys: Keys) -> None:
    """A certificate is valid until its end and not after."""
    words = certificate(cluster, keys, "--ttl", "1s")
    time.sleep(1.5)
    refused(cluster, *words)


def test_a_wrong_principal_is_refused(cluster: Cluster, keys: Keys) -> None:
    """A certificate permits only the logins that it names."""
    words = certificate(cluster, keys)
    before = denials(cluster)
    done = direct(cluster, *words, login="games")
    assert done.returncode == 255
    wait_for(lambda: denials(cluster) > before, "the denial in the audit")


def test_a_host_certificate_is_no_user(cluster: Cluster, keys: Keys) -> None:
    """A certificate for a host logs no user in."""
    login = pwd.getpwuid(os.geteuid()).pw_name
    done = cluster.tele("ca", "sign-host", str(keys.folder / "k.pub"), "--principal", login)
    (keys.folder / "k-cert.pub").write_bytes(done.stdout)
    refused(
        cluster, "-i", str(keys.folder / "k"), "-o", f"CertificateFile={keys.folder}/k-cert.pub"
    )


def test_a_client_without_credentials_is_refused(cluster: Cluster) -> None:
    """A client that disconnects after it learned which methods there are is in the audit, too."""
    refused(cluster, "-o", "PubkeyAuthentication=no")


def test_passwords_are_not_offered(cluster: Cluster) -> None:
    """Certificates only: the server offers publickey and nothing else."""
    before = denials(cluster)
    done = direct(cluster, "-o", "PreferredAuthentications=password,keyboard-interactive", "-v")
    assert done.returncode == 255
    assert b"Authentications that can continue: publickey\r\n" in done.stderr
    wait_for(lambda: denials(cluster) > before, "the denial in the audit")


def test_the_denials_say_why(cluster: Cluster) -> None:
    """Each denial names its reason and where it came from."""
    done = cluster.tele("audit", "ls", "--event", "auth.denied", "--format", "json")
    events = json.loads(done.stdout)
    assert events
    assert all(event["ok"] is False and event["error"] and event["remote_addr"] for event in events)
