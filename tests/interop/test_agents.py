"""Users whose agent holds many keys, of which the cluster's is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from tele.certs.keys import PrivateKey
from test_engine_clients import Server, start, stop

pytestmark = pytest.mark.skipif(
    not shutil.which("ssh-agent"), reason="OpenSSH's agent is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for this file."""
    running = start(tmp_path_factory.mktemp("engine"))
    yield running
    stop(running)


@contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[dict[str, str]]:
    """Run an agent that holds ``keys``; the environment of its clients."""
    path = folder / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(
            ["ssh-add", "-q", *map(str, keys)], env=environment, check=True, capture_output=True
        )
        yield environment
    finally:
        process.terminate()
        process.communicate()


def plain_keys(folder: Path, count: int) -> list[Path]:
    """Make keys that no host knows."""
    made = []
    for number in range(count):
        path = folder / f"key{number}"
        path.touch(0o600)
        path.write_bytes(PrivateKey.generate().to_openssh())
        made.append(path)
    return made


def ssh(server: Server, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run OpenSSH with whatever its agent has."""
    settings = (
        "User=root", f"UserKnownHostsFile={server.folder}/known_hosts", "BatchMode=yes",
        "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes", "IdentityFile=none",
        "LogLevel=INFO",
    )  # fmt: skip
    words = [part for setting in settings for part in ("-o", setting)]
    return subprocess.run(
        ["ssh", "-F", "none", *words, "-p", str(server.port), "127.0.0.1", "true"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("others", [30, 60])
def test_the_right_key_may_be_the_last_of_an_agent(
    server: Server, tmp_path: Path, others: int
) -> None:
    """Dozens of other keys before the certificate prevent no login and are not reported."""
    keys = [*plain_keys(tmp_path, others), server.folder / "ed25519"]
    with agent(tmp_path, *keys) as environment:
        done = ssh(server, environment)
    assert done.returncode == 0, done.stderr
    assert server.reported("login") == "root"


def test_too_many_keys_are_refused_with_the_next_step(server: Server, tmp_path: Path) -> None:
    """Above the limit the login fails; OpenSSH's message says how to offer the right key only."""
    with agent(tmp_path, *plain_keys(tmp_path, 140)) as environment:
        done = ssh(server, environment)
    assert done.returncode == 255
    assert b"128 keys without a certificate of this cluster were offered" in done.stderr
    assert b"IdentitiesOnly=yes" in done.stderr


def test_a_client_that_signs_each_key_logs_in_with_the_last(server: Server, tmp_path: Path) -> None:
    """Paramiko sends no query before it signs: a signature with another key is no attempt."""
    own = paramiko.Ed25519Key.from_private_key_file(str(server.folder / "ed25519"))
    own.load_certificate(str(server.folder / "ed25519-cert.pub"))
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        transport.start_client(timeout=30)
        for path in plain_keys(tmp_path, 12):
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_publickey(
                    "root", paramiko.Ed25519Key.from_private_key_file(str(path))
                )
        transport.auth_publickey("root", own)
        assert transport.is_authenticated()
    finally:
        transport.close()
