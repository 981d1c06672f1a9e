"""A client that may use only NIST curves can log in everywhere, in the suite ``ecdsa``."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_cluster_openssh
from three_processes import Cluster, free_port, make_cluster, wait_for

CERTIFICATE = "ecdsa-sha2-nistp256-cert-v01@openssh.com"
#: What an OpenSSH in FIPS mode would keep to.
LIMITED = {
    "KexAlgorithms": "ecdh-sha2-nistp256",
    "HostKeyAlgorithms": CERTIFICATE,
    # OpenSSH takes a private key from a file only if its plain name is accepted, too.
    "PubkeyAcceptedAlgorithms": f"{CERTIFICATE},ecdsa-sha2-nistp256",
    "CASignatureAlgorithms": "ecdsa-sha2-nistp256",
    "Ciphers": "aes256-gcm@openssh.com",
}
ONLY = ("key_exchanges: [ecdh-sha2-nistp256]", "ciphers: [aes256-gcm@openssh.com]")
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

for _each in (
    "test_the_status_is_the_remote_one",
    "test_tele_ssh_takes_the_short_name",
    "test_every_byte_arrives",
    "test_many_sessions_share_one_connection",
    "test_sftp_batch",
    "test_what_ran_can_be_replayed",
    "test_the_audit_names_the_user",
):
    globals()[_each] = getattr(test_cluster_openssh, _each)

pytestmark = test_cluster_openssh.pytestmark


def limit(cluster: Cluster) -> None:
    """Let every OpenSSH client of ``cluster`` use those algorithms only."""
    lines = ["Host *", *(f"    {name} {value}" for name, value in LIMITED.items()), ""]
    written = cluster.ssh_config.read_text()
    cluster.ssh_config.write_text("\n".join(lines) + written)


@pytest.fixture(scope="module", params=["direct", "tunnel"])
def cluster(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """A cluster of the suite ``ecdsa``, and a user who is limited to NIST curves.

    Where the node has a tunnel, the hosts offer nothing else either: they reach each other, too.
    """
    folder = tmp_path_factory.mktemp("ecdsa")
    tunnel = request.param == "tunnel"
    running = make_cluster(folder, tunnel=tunnel, suite="ecdsa", settings=ONLY if tunnel else ())
    limit(running)
    try:
        yield running
    finally:
        running.stop()


def test_nothing_but_the_curves_of_nist_is_used(cluster: Cluster) -> None:
    """Each connection, to the proxy and to the node, has P-256 in its exchange and all its keys."""
    for host in (cluster.host, f"proxy.{cluster.name}"):
        output = cluster.ssh("-v", host, "true", check=False).stderr.decode()
        assert "kex: algorithm: ecdh-sha2-nistp256" in output
        assert f"kex: host key algorithm: {CERTIFICATE}" in output
        assert "CA ecdsa-sha2-nistp256 " in output
    config = cluster.tele("config").stdout.decode()
    assert "ed25519" not in config
    assert "ecdsa-sha2-nistp256-cert-v01@openssh.com" in config


def test_hosts_offer_what_auth_says(cluster: Cluster) -> None:
    """The settings of proxy and node alike; without any, other clients can log in as well."""
    config = cluster.folder / "others"
    text = cluster.ssh_config.read_text()
    config.write_text(text.replace(LIMITED["KexAlgorithms"], "curve25519-sha256", 1))
    for host in (cluster.host, f"proxy.{cluster.name}"):
        output = subprocess.run(
            ["ssh", "-v", "-F", str(config), host, "true"],
            env=cluster.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
            check=False,
        ).stderr.decode()  # fmt: skip
        limited = cluster.ports["node"] == 0
        assert ("no matching key exchange method found" in output) == limited, output
        assert ("kex: algorithm: curve25519-sha256" in output) != limited


def test_a_jump_with_openssh_alone(cluster: Cluster) -> None:
    """``ssh -J`` passes the proxy and reaches the node with the same limits."""
    done = cluster.ssh("-J", f"proxy.{cluster.name}", cluster.host, "echo jumped")
    assert done.stdout == b"jumped\n"


def test_every_key_of_the_cluster_is_of_its_suite(cluster: Cluster) -> None:
    """Both CAs, the user's key and the hosts' keys are ECDSA, whichever part made them."""
    for kind in ("user", "host"):
        exported = cluster.tele("ca", "export", "--type", kind).stdout
        assert exported.startswith(b"ecdsa-sha2-nistp256 ")
    lines = cluster.tele("ca", "export", "--type", "host", "--format", "known_hosts").stdout
    assert lines.startswith(f"@cert-authority *.{cluster.name} ecdsa-sha2-nistp256 ".encode())
    home = cluster.folder / cluster.home / cluster.name
    assert (home / "alice.pub").read_text().startswith("ecdsa-sha2-nistp256 ")
    assert f"*.{cluster.name} ecdsa-sha2-nistp256 " in (home / "known_hosts").read_text()


def test_the_audit_and_the_recordings_verify(cluster: Cluster, tmp_path: Path) -> None:
    """What hosts sign with keys of P-256 is verified, by auth and from an exported file."""
    cluster.tele("audit", "verify")
    test_cluster_openssh.test_what_ran_can_be_replayed(cluster)
    row = cluster.tele("recordings", "ls", "--format", "names").stdout.split()[0].decode()
    out = tmp_path / "one.tape"
    cluster.tele("recordings", "export", row, str(out))
    cluster.tele("recordings", "verify", str(out))


def test_a_second_login_knows_the_suite(cluster: Cluster) -> None:
    """A new login with the files of an earlier one gets a key of the same suite."""
    password = cluster.folder / "alice.password"
    cluster.tele("login", "--password-file", str(password))
    public = cluster.folder / cluster.home / cluster.name / "alice.pub"
    assert public.read_text().startswith("ecdsa-sha2-nistp256 ")
    assert cluster.ssh(cluster.host, "echo again").stdout == b"again\n"


@pytest.mark.parametrize("kind", [("ecdsa", "256"), ("ecdsa", "384"), ("ed25519", "256")])
def test_keys_of_automation(cluster: Cluster, kind: tuple[str, str], tmp_path: Path) -> None:
    """``sign-user`` takes keys of either kind and of P-384, and they log in."""
    key = tmp_path / "deploy"
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-t", kind[0], "-b", kind[1], "-f", str(key)], check=True
    )
    local = ("--config", str(cluster.folder / "auth.yaml"))
    cluster.tele("ca", "sign-user", "--user", "alice", f"{key}.pub", *local)
    config = cluster.tele("config").stdout.decode()
    own = tmp_path / "config"
    kept = [line for line in config.splitlines() if "File" not in line or "HostsFile" in line]
    own.write_text("\n".join(kept).replace("IdentitiesOnly", f"IdentityFile {key}\nIdentitiesOnly"))
    login = pwd.getpwuid(os.geteuid()).pw_name
    done = subprocess.run(
        ["ssh", "-F", str(own), f"{login}@{cluster.host}", "echo signed"],
        env=cluster.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stdout == b"signed\n", done.stderr.decode()


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
def test_a_plain_sshd_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """``sign-host`` and the exported user CA make an sshd part of it, with the same limits."""
    assert SSHD is not None
    folder, port = tmp_path, free_port()
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-t", "ecdsa", "-f", str(folder / "host")], check=True
    )
    local = ("--config", str(cluster.folder / "auth.yaml"))
    cluster.tele("ca", "sign-host", str(folder / "host.pub"), "--principal", "plain.test", *local)
    (folder / "users").write_bytes(cluster.tele("ca", "export", "--type", "user").stdout)
    known = folder / "known"
    ca = cluster.tele("ca", "export", "--type", "host").stdout.decode()
    known.write_text(f"@cert-authority plain.test {ca}")
    limits = [f"{name} {value}" for name, value in LIMITED.items()]
    lines = [
        f"ListenAddress 127.0.0.1:{port}", f"HostKey {folder}/host",
        f"HostCertificate {folder}/host-cert.pub", f"TrustedUserCAKeys {folder}/users",
        "AuthorizedKeysFile none", "PasswordAuthentication no", "UsePAM no", "StrictModes no",
        "PermitRootLogin prohibit-password", "PidFile none",
        *(line for line in limits if "HostKey" not in line), "",
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(lines))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        wait_for(lambda: b"listening" in (folder / "log").read_bytes(), "sshd")
        home = cluster.folder / cluster.home / cluster.name
        login = pwd.getpwuid(os.geteuid()).pw_name
        done = subprocess.run(
            [
                "ssh", "-F", "/dev/null", "-i", str(home / "alice"), "-p", str(port),
                "-o", f"UserKnownHostsFile={known}", "-o", "HostKeyAlias=plain.test",
                "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
                *(word for line in limits for word in ("-o", line.replace(" ", "=", 1))),
                f"{login}@127.0.0.1", "echo plain",
            ],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        output = done.stderr.decode() + (folder / "log").read_text()
        assert done.stdout == b"plain\n", output
    finally:
        sshd.terminate()
        sshd.wait(20)
