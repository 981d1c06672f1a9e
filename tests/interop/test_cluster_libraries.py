"""asyncssh and paramiko log in with a certificate."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import subprocess
from pathlib import Path

import asyncssh
import paramiko
import pytest
from attrs import frozen

from three_processes import Cluster

LOGIN = pwd.getpwuid(os.geteuid()).pw_name


@frozen
class Signed:
    """A key made by ssh-keygen and a certificate for it."""

    key: Path
    certificate: Path


@pytest.fixture(scope="module", params=["ed25519", "ecdsa", "rsa"])
def signed(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Signed:
    """One key of each type, signed for alice."""
    folder = tmp_path_factory.mktemp("keys")
    key = folder / "k"
    subprocess.run(["ssh-keygen", "-q", "-t", request.param, "-N", "", "-f", str(key)], check=True)
    done = cluster.tele("ca", "sign-user", f"{key}.pub", "--user", "alice")
    certificate = folder / "k-cert.pub"
    certificate.write_bytes(done.stdout)
    return Signed(key, certificate)


def known_hosts(cluster: Cluster) -> str:
    """The host authority, trusted for everything: names are not the question here."""
    return f"@cert-authority * {cluster.tele('ca', 'export', '--type', 'host').stdout.decode()}"


def test_asyncssh(cluster: Cluster, signed: Signed) -> None:
    """Asyncssh runs commands, sends 5 MB through, and uses sftp."""

    async def use() -> None:
        async with asyncssh.connect(
            "127.0.0.1", cluster.ports["node"], username=LOGIN,
            client_keys=[(str(signed.key), str(signed.certificate))],
            known_hosts=known_hosts(cluster).encode(), config=None, agent_path=None,
        ) as connection:  # fmt: skip
            done = await connection.run("echo out; echo err >&2; exit 3")
            assert (done.exit_status, done.stdout, done.stderr) == (3, "out\n", "err\n")
            data = os.urandom(5_000_000)
            through = await connection.run("sha256sum", input=data, encoding=None)
            assert isinstance(through.stdout, bytes)
            assert through.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
            back = await connection.run("cat", input=data, encoding=None)
            assert back.stdout == data
            async with connection.start_sftp_client() as sftp:
                assert await sftp.exists("/etc/passwd")

    asyncio.run(asyncio.wait_for(use(), 60))


def test_asyncssh_through_the_proxy(cluster: Cluster, signed: Signed) -> None:
    """Asyncssh jumps through the proxy, which it knows as ``proxy.CLUSTER``, to the node's name."""

    async def use() -> None:
        keys = [(str(signed.key), str(signed.certificate))]
        trusted = known_hosts(cluster).encode()
        async with asyncssh.connect(
            "127.0.0.1", cluster.ports["proxy"], username=LOGIN, client_keys=keys,
            known_hosts=trusted, config=None, agent_path=None,
            host_key_alias=f"proxy.{cluster.name}",
        ) as proxy, asyncssh.connect(
            cluster.host, 22, tunnel=proxy, username=LOGIN, client_keys=keys,
            known_hosts=trusted, config=None, agent_path=None,
        ) as node:  # fmt: skip
            assert (await node.run("echo jumped")).stdout == "jumped\n"

    asyncio.run(asyncio.wait_for(use(), 60))


def test_paramiko(cluster: Cluster, signed: Signed, tmp_path: Path) -> None:
    """Paramiko runs commands and uses sftp."""
    client = paramiko.SSHClient()
    # paramiko does not check host certificates; the node's plain host key is what it sees.
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = paramiko.PKey.from_path(signed.key)
    key.load_certificate(str(signed.certificate))
    try:
        client.connect(
            "127.0.0.1", cluster.ports["node"], username=LOGIN, pkey=key,
            allow_agent=False, look_for_keys=False, timeout=20,
        )  # fmt: skip
        _, out, err = client.exec_command("cat /etc/hostname; exit 5")
        assert out.read() == Path("/etc/hostname").read_bytes()
        assert err.read() == b""
        assert out.channel.recv_exit_status() == 5
        data = os.urandom(1_000_000)
        with client.open_sftp() as sftp, sftp.open(str(tmp_path / "f"), "wb") as file:
            file.write(data)
        assert (tmp_path / "f").read_bytes() == data
    finally:
        client.close()
