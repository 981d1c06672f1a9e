"""Real clients log in with a certificate: OpenSSH, asyncssh and paramiko."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from attrs import define

HERE = Path(__file__).parent
MEGABYTE = 1 << 20
SECONDS = 60


@define
class Server:
    """A running server, and the configuration of its clients."""

    process: subprocess.Popen[str]
    folder: Path
    port: int

    def ssh(
        self, key: str, *arguments: str, options: tuple[str, ...] = (), data: bytes = b""
    ) -> Any:
        """Run OpenSSH's client with ``key`` and nothing else."""
        settings = [
            *options,
            "User=root",
            f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "LogLevel=INFO",
        ]
        command = ["ssh", "-F", "none", "-p", str(self.port), "-i", str(self.folder / key)]
        command += [part for setting in settings for part in ("-o", setting)]
        return subprocess.run(
            [*command, "127.0.0.1", *arguments],
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def reported(self, key: str) -> Any:
        """Return the next value that the server reports for ``key``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            if key in report:
                return report[key]
        raise AssertionError(f"the server ended without saying {key}")


def start(folder: Path, **environment: str) -> Server:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "engine_server.py"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    server = Server(process, folder, 0)
    server.port = server.reported("port")
    return server


def stop(server: Server) -> None:
    server.process.kill()
    server.process.wait()
    assert server.process.stdout is not None
    server.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for this file."""
    running = start(tmp_path_factory.mktemp("engine"))
    yield running
    stop(running)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that rekeys every 4 MiB, and offers all methods."""
    running = start(
        tmp_path_factory.mktemp("engine"), REKEY_OCTETS=str(4 * MEGABYTE), EVERYTHING="yes"
    )
    yield running
    stop(running)


@pytest.mark.parametrize("key", ["ed25519", "ecdsa", "rsa"])
def test_openssh_logs_in(server: Server, key: str) -> None:
    """OpenSSH logs in with a certificate of each type, and checks the host's certificate."""
    done = server.ssh(key, "true")
    assert done.returncode == 0, done.stderr
    assert server.reported("login") == "root"


def _supported(kind: str) -> list[str]:
    return subprocess.run(
        ["ssh", "-Q", kind], capture_output=True, text=True, check=True
    ).stdout.split()


KEX = [
    name
    for name in (
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
    )
    if name in _supported("kex")
]


@pytest.mark.parametrize("kex", KEX)
def test_openssh_key_exchanges(impatient: Server, kex: str) -> None:
    """OpenSSH exchanges keys with each method that it has."""
    done = impatient.ssh("ed25519", "true", options=(f"KexAlgorithms={kex}",))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"])
def test_openssh_ciphers_both_ways(server: Server, cipher: str) -> None:
    """Ten megabytes in each direction under each cipher."""
    options = (f"Ciphers={cipher}",)
    down = server.ssh("ed25519", f"give {10 * MEGABYTE}", options=options)
    assert (len(down.stdout), down.returncode) == (10 * MEGABYTE, 0), down.stderr
    up = server.ssh("ed25519", "count", options=options, data=bytes(10 * MEGABYTE))
    assert up.stdout == b"%d\n" % (10 * MEGABYTE), up.stderr


@pytest.mark.parametrize("limit", ["16M", "1M", "512K", "32K", "16K", "16"])
def test_openssh_renews_keys(server: Server, limit: str) -> None:
    """With any RekeyLimit nothing is lost in either direction.

    Below a megabyte OpenSSH starts an exchange after each packet of an upload.
    """
    options = (f"RekeyLimit={limit}",)
    size = (50 if limit.endswith("M") else 5) * MEGABYTE
    down = server.ssh("ed25519", f"give {size}", options=options)
    assert len(down.stdout) == size, down.stderr
    up = server.ssh("ed25519", "count", options=options, data=bytes(size))
    assert up.stdout == b"%d\n" % size, up.stderr


def test_we_renew_keys_with_openssh(impatient: Server) -> None:
    """Key exchanges that the server starts lose nothing either."""
    down = impatient.ssh("ed25519", f"give {50 * MEGABYTE}")
    assert len(down.stdout) == 50 * MEGABYTE, down.stderr
    up = impatient.ssh("ed25519", "count", data=bytes(50 * MEGABYTE))
    assert up.stdout == b"%d\n" % (50 * MEGABYTE), up.stderr


def test_openssh_binds_the_login_to_the_host(server: Server) -> None:
    """OpenSSH uses the method that binds a login to the host's key."""
    done = server.ssh("ed25519", "true", options=("LogLevel=DEBUG3",))
    assert done.returncode == 0
    assert b"publickey-hostbound" in done.stderr


def test_openssh_knows_the_plain_host_key(server: Server) -> None:
    """A client that knows the host's plain key, and no authority, is served, too."""
    options = (
        f"UserKnownHostsFile={server.folder}/known_keys",
        "HostKeyAlgorithms=ssh-ed25519",
    )
    assert server.ssh("ed25519", "true", options=options).returncode == 0


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("expired", "validity"),
        ("foreign", "authority"),
        ("other", "principal"),
        ("pinned", "address"),
        ("plain", "not_a_certificate"),
    ],
)
def test_openssh_is_refused(server: Server, key: str, reason: str) -> None:
    """An invalid certificate or a plain key is refused, and the reason is reported."""
    done = server.ssh(key, "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr
    assert server.reported("denied") == reason


@pytest.mark.parametrize(
    "option",
    [
        "KexAlgorithms=diffie-hellman-group14-sha256",
        "Ciphers=aes128-cbc",
        "Ciphers=aes192-ctr",
        "Ciphers=chacha20-poly1305@openssh.com",
        "HostKeyAlgorithms=rsa-sha2-256",
    ],
)
def test_openssh_finds_no_other_algorithms(server: Server, option: str) -> None:
    """Algorithms that we do not have, or do not offer by default, are not negotiated."""
    done = server.ssh("ed25519", "true", options=(option,))
    assert done.returncode == 255
    assert b"no matching" in done.stderr or b"we share no" in done.stderr


def test_paramiko_logs_in(server: Server) -> None:
    """Paramiko logs in with a certificate and runs a command."""
    key = paramiko.Ed25519Key.from_private_key_file(str(server.folder / "ed25519"))
    key.load_certificate(str(server.folder / "ed25519-cert.pub"))
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        transport.connect(username="root", pkey=key)
        channel = transport.open_session()
        channel.exec_command("give 100000")
        received = 0
        while data := channel.recv(65536):
            received += len(data)
        assert received == 100000
        assert channel.recv_exit_status() == 0
    finally:
        transport.close()


@pytest.mark.parametrize("secret", ["password", "plain"])
def test_paramiko_is_refused(server: Server, secret: str) -> None:
    """Passwords and plain keys are refused."""
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        if secret == "password":
            attempt: Any = {"password": "guess"}
        else:
            path = str(server.folder / "plain")
            attempt = {"pkey": paramiko.Ed25519Key.from_private_key_file(path)}
        with pytest.raises(paramiko.AuthenticationException):
            transport.connect(username="root", **attempt)
    finally:
        transport.close()
    expected = "method" if secret == "password" else "not_a_certificate"
    assert server.reported("denied") in (expected, "signature")


def test_asyncssh_logs_in(server: Server) -> None:
    """Asyncssh logs in, checks the host's certificate, and sends data both ways."""

    async def session() -> tuple[int, str]:
        authority = (server.folder / "hosts_authority.pub").read_text()
        async with asyncssh.connect(
            "127.0.0.1",
            server.port,
            username="root",
            client_keys=[str(server.folder / "ed25519")],
            known_hosts=asyncssh.import_known_hosts(f"@cert-authority * {authority}"),
            config=None,
        ) as connection:
            down = await connection.run("give 3000000", encoding=None)
            up = await connection.run("count", input="x" * 1000000)
            return len(down.stdout or b""), str(up.stdout)

    assert asyncio.run(session()) == (3000000, "1000000\n")


def test_a_scanner_gets_the_host_certificate(server: Server) -> None:
    """ssh-keyscan sees the certificate and the plain key."""
    for extra, expected in ((("-c",), b"ssh-ed25519-cert-v01"), ((), b"ssh-ed25519 ")):
        done = subprocess.run(
            ["ssh-keyscan", *extra, "-t", "ed25519", "-p", str(server.port), "127.0.0.1"],
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert expected in done.stdout
