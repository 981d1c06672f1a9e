"""Forwarding on a real cluster, with OpenSSH, asyncssh and paramiko, through the proxy."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import paramiko
import pytest
from attrs import frozen

from three_processes import Cluster, free_port, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

LOGIN = pwd.getpwuid(os.geteuid()).pw_name


@frozen
class Signed:
    """A key and a certificate for it."""

    key: Path
    certificate: Path


@pytest.fixture(scope="module")
def signed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """A key, signed for alice."""
    folder = tmp_path_factory.mktemp("keys")
    key = folder / "k"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    done = cluster.tele("ca", "sign-user", f"{key}.pub", "--user", "alice")
    (folder / "k-cert.pub").write_bytes(done.stdout)
    return Signed(key, folder / "k-cert.pub")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tele-test-", dir="/tmp") as made:
        yield Path(made)


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets, on loopback."""

    def serve_one(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def through(where: tuple[str, int] | str, data: bytes) -> bytes:
    """Send ``data`` and EOF, and return what is received."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(60)
        connection.connect(where)

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = bytearray()
        while piece := connection.recv(1 << 20):
            back += piece
        sender.join()
        return bytes(back)


def test_openssh_both_ways_at_once(cluster: Cluster, short: Path) -> None:
    """Ports and sockets, both ways on one connection, carry ten megabytes to the byte."""
    data = os.urandom(10_000_000)
    ports = free_port(), free_port()
    paths = f"{short}/l", f"{short}/r"
    with echo() as target:
        arguments = [
            "ssh", "-F", str(cluster.ssh_config), "-N", "-o", "ExitOnForwardFailure=yes",
            "-L", f"{ports[0]}:127.0.0.1:{target}", "-R", f"{ports[1]}:127.0.0.1:{target}",
            "-R", f"{paths[1]}:127.0.0.1:{target}", "-L", f"{paths[0]}:{paths[1]}", cluster.host,
        ]  # fmt: skip
        client = subprocess.Popen(arguments, env=cluster.environment, stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: all(os.path.exists(p) for p in paths), "the sockets")
            for port, path in zip(ports, paths, strict=True):
                assert through(("127.0.0.1", port), data) == data
                assert through(path, data) == data
        finally:
            client.terminate()
            client.wait()
    wait_for(lambda: not os.path.exists(paths[1]), "the socket to be removed")


def test_asyncssh(cluster: Cluster, signed: Signed, short: Path) -> None:
    """Asyncssh's remote ports and sockets, and a socket of the node's."""
    known = cluster.tele("ca", "export", "--type", "host").stdout.decode()
    data = os.urandom(3_000_000)

    async def use(target: int) -> None:
        async with asyncssh.connect(
            "127.0.0.1", cluster.ports["node"], username=LOGIN,
            client_keys=[(str(signed.key), str(signed.certificate))],
            known_hosts=f"@cert-authority * {known}".encode(), config=None, agent_path=None,
        ) as connection:  # fmt: skip
            port = await connection.forward_remote_port("", 0, "127.0.0.1", target)
            path = await connection.forward_remote_path_to_port(f"{short}/r", "127.0.0.1", target)
            for where in (("127.0.0.1", port.get_port()), f"{short}/r"):
                assert await asyncio.to_thread(through, where, data) == data
            reader, writer = await connection.open_unix_connection(f"{short}/r")
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            with pytest.raises(asyncssh.ChannelOpenError, match="No such file"):
                await connection.open_unix_connection(f"{short}/none")
            port.close()
            await port.wait_closed()
            path.close()
            await path.wait_closed()
            with pytest.raises(OSError, match="refused"):
                await asyncio.to_thread(through, ("127.0.0.1", port.get_port()), b"")

    with echo() as target:
        asyncio.run(use(target))


def test_paramiko(cluster: Cluster, signed: Signed) -> None:
    """Paramiko requests a port, accepts connections on it, and cancels it."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = paramiko.PKey.from_path(signed.key)
    key.load_certificate(str(signed.certificate))
    client.connect(
        "127.0.0.1", cluster.ports["node"], LOGIN, pkey=key, allow_agent=False, look_for_keys=False
    )
    with client:
        transport = client.get_transport()
        assert transport is not None
        port = transport.request_port_forward("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            channel = transport.accept(30)
            assert channel is not None
            connection.sendall(b"question")
            assert channel.recv(100) == b"question"
            channel.sendall(b"answer")
            channel.close()
            assert connection.makefile("rb").read() == b"answer"
        transport.cancel_port_forward("127.0.0.1", port)
        wait_for(lambda: not _answers(port), "the port to be closed")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_play_shows_forwards(cluster: Cluster) -> None:
    """The recording of a connection that only forwards has its targets and its bytes."""
    with echo() as target:
        done = cluster.ssh(
            "-o", "ControlPath=none", "-W", f"127.0.0.1:{target}", cluster.host, stdin=b"12345"
        )
    assert done.stdout == b"12345"

    def shown() -> str:
        listed = cluster.tele("recordings", "ls", "--format", "json").stdout
        for each in json.loads(listed):
            played = cluster.tele("play", each["id"], "--format", "text", check=False).stdout
            if f"127.0.0.1:{target}".encode() in played and b"forward close" in played:
                return played.decode()
        return ""

    wait_for(lambda: bool(shown()), "the recording")
    opened, closed = shown().splitlines()
    assert opened.startswith("[direct-tcpip open: channel=1 ")
    assert f'target="127.0.0.1:{target}"' in opened
    assert closed == "[forward close: channel=1 received=5 sent=5]"
