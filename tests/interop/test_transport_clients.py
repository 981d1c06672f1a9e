"""Real clients and our transport: ciphers, and rekeying during bulk data both ways."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from tele.wire.ciphers import CIPHERS, MACS, needs_mac
from test_sessions_clients import SECONDS, Server, running

MEGABYTE = 1 << 20
#: Bytes each way, set by ``TRANSPORT_MEGABYTES``.
SIZE = int(os.environ.get("TRANSPORT_MEGABYTES", "64")) * MEGABYTE

SUITES = [(c, m) for c in CIPHERS for m in (MACS if needs_mac(c) else MACS[:1])]
suites = pytest.mark.parametrize(
    ("cipher", "mac"),
    [(c.decode(), m.decode()) for c, m in SUITES],
    ids=lambda name: name.partition("@")[0],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that offers all ciphers."""
    every = b",".join(CIPHERS).decode()
    with running(tmp_path_factory.mktemp("transport"), CIPHERS=every) as found:
        yield found


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same, and it rekeys after every megabyte."""
    every = b",".join(CIPHERS).decode()
    folder = tmp_path_factory.mktemp("transport")
    with running(folder, CIPHERS=every, REKEY_OCTETS=str(MEGABYTE)) as found:
        yield found


def same_bytes(server: Server, size: int, *options: str) -> None:
    """Send random bytes through ``cat`` and get the same back."""
    data = os.urandom(size)
    done = server.ssh("cat", options=options, data=data)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == size
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@suites
def test_openssh_speaks_each_cipher(server: Server, cipher: str, mac: str) -> None:
    """OpenSSH agrees on each cipher and MAC, and bytes come back whole."""
    same_bytes(server, 4 * MEGABYTE, f"Ciphers={cipher}", f"MACs={mac}")
    output = server.ssh("true", options=(f"Ciphers={cipher}", f"MACs={mac}", "-vv")).stderr
    used = f"cipher: {cipher} MAC: {mac if needs_mac(cipher.encode()) else '<implicit>'}"
    assert output.count(used.encode()) == 2, output


@pytest.mark.parametrize(
    "cipher", ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"]
)
def test_new_keys_in_the_middle_of_bulk_both_ways(impatient: Server, cipher: str) -> None:
    """Both sides start key exchanges all the time, and nothing is lost either way."""
    same_bytes(impatient, SIZE, f"Ciphers={cipher}", f"MACs={MACS[1].decode()}", "RekeyLimit=1M")


def test_openssh_renews_keys_by_time(server: Server) -> None:
    """A client whose keys live for a second renews them, and nothing is lost."""
    command = "head -c 1000; sleep 2; cat"
    data = os.urandom(MEGABYTE)
    done = server.ssh(command, options=("RekeyLimit=default 1", "-vv"), data=data)
    assert done.stdout == data
    assert done.stderr.count(b"SSH2_MSG_NEWKEYS received") > 1


@pytest.mark.parametrize(
    "option",
    [
        "MACs=hmac-sha2-256",
        "MACs=hmac-sha1-etm@openssh.com",
        "MACs=umac-128-etm@openssh.com",
        "MACs=hmac-md5",
    ],
)
def test_no_other_mac(server: Server, option: str) -> None:
    """A cipher that needs a MAC gets one of ours or none; with AES-GCM the list is void."""
    done = server.ssh("true", options=("Ciphers=aes128-ctr", option, "-v"))
    assert done.returncode == 255
    assert b"no matching MAC" in done.stderr or b"no common MAC" in done.stderr
    assert server.ssh("true", options=("Ciphers=aes128-gcm@openssh.com", option)).returncode == 0


@suites
def test_asyncssh_speaks_each_cipher(server: Server, cipher: str, mac: str) -> None:
    """Asyncssh agrees on each cipher and MAC, and bytes come back whole."""
    data = os.urandom(MEGABYTE)

    async def session() -> tuple[Any, str]:
        authority = (server.folder / "hosts_authority.pub").read_text()
        async with asyncssh.connect(
            "127.0.0.1",
            server.port,
            username="root",
            client_keys=[str(server.folder / "ed25519")],
            known_hosts=asyncssh.import_known_hosts(f"@cert-authority * {authority}"),
            config=None,
            encryption_algs=[cipher],
            mac_algs=[mac],
            rekey_bytes=300_000,
        ) as connection:
            done = await connection.run("cat", input=data, encoding=None)
            return done.stdout, connection.get_extra_info("send_cipher")

    assert asyncio.run(session()) == (data, cipher)


@pytest.mark.parametrize("cipher", ["aes128-ctr", "aes256-ctr", "aes128-gcm@openssh.com"])
@pytest.mark.parametrize("mac", [m.decode() for m in MACS])
def test_paramiko_speaks_what_it_has(server: Server, cipher: str, mac: str) -> None:
    """Paramiko, whose old versions have no AES-GCM, agrees on AES-CTR with a MAC."""
    if cipher not in paramiko.Transport._preferred_ciphers:  # type: ignore[attr-defined]
        pytest.skip(f"this paramiko has no {cipher}")
    key = paramiko.Ed25519Key.from_private_key_file(str(server.folder / "ed25519"))
    key.load_certificate(str(server.folder / "ed25519-cert.pub"))
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        options = transport.get_security_options()
        options.ciphers, options.digests = (cipher,), (mac,)
        transport.connect(username="root", pkey=key)
        channel = transport.open_session()
        channel.exec_command("head -c 1000000 /dev/zero")
        received = 0
        while data := channel.recv(65536):
            received += len(data)
        assert received == 1_000_000
        assert getattr(transport, "remote_cipher") == cipher  # noqa: B009  (it has no type)
    finally:
        transport.close()


def test_openssh_learns_a_key_that_is_proved(tmp_path: Path) -> None:
    """With UpdateHostKeys a client that knew the host's old key requests a proof of the new one,
    and replaces the old one in its file.
    """
    with running(tmp_path, CHANGE_KEY="1") as server:
        old = (tmp_path / "known_keys").read_text().split()[2]
        file = tmp_path / "known"
        file.write_text(f"[127.0.0.1]:{server.port} ssh-ed25519 {old}\n")
        options = (
            f"UserKnownHostsFile={file}",
            "HostKeyAlgorithms=ssh-ed25519",
            "UpdateHostKeys=yes",
        )
        done = server.ssh("sleep 1", options=("-vvv", *options))
        new = (tmp_path / "changed_key").read_text().split()[1]
        assert b"Learned new hostkey: ED25519" in done.stderr, done.stderr
        assert new in file.read_text()
        assert old not in file.read_text()
        assert server.ssh("true", options=options).returncode == 0


def test_openssh_keeps_no_certificate_as_a_key(server: Server, tmp_path: Path) -> None:
    """A client that trusts the authority receives the key and still trusts the authority."""
    file = tmp_path / "known"
    file.write_text((server.folder / "known_hosts").read_text())
    options = (f"UserKnownHostsFile={file}", "UpdateHostKeys=yes", "-vvv")
    done = server.ssh("true", options=options)
    assert done.returncode == 0, done.stderr
    assert b"rtype hostkeys-00@openssh.com" in done.stderr
    assert file.read_text() == (server.folder / "known_hosts").read_text()


def test_openssh_lives_by_our_answers(server: Server) -> None:
    """A client that sends a keepalive each second, and allows one miss, stays connected."""
    done = server.ssh("sleep 4", options=("ServerAliveInterval=1", "ServerAliveCountMax=1"))
    assert done.returncode == 0, done.stderr


def test_openssh_answers_us(tmp_path: Path) -> None:
    """An idle OpenSSH client answers many keepalives and stays connected."""
    with running(tmp_path, KEEPALIVE="0.3") as server:
        done = server.ssh("sleep 4", options=("-vvv", "RekeyLimit=1M"))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(b"client_input_global_request: rtype keepalive@openssh.com") >= 3


def test_a_client_that_is_stopped_is_gone(tmp_path: Path) -> None:
    """OpenSSH that is stopped, its connection open, is hung up on after a few questions, and
    so is its program.
    """
    with running(tmp_path, KEEPALIVE="0.3") as server:
        client = subprocess.Popen(
            server.command("echo ready; cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            client.send_signal(signal.SIGSTOP)
            assert server.reported("hung_up")
            client.send_signal(signal.SIGCONT)
            assert client.wait(SECONDS) == 255
        finally:
            client.kill()
            client.communicate()
