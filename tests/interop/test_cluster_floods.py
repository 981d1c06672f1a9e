"""The memory of a real node stays flat under hostile clients, authenticated or not."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from attrs import frozen

from three_processes import Cluster, wait_for

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

LOGIN = pwd.getpwuid(os.geteuid()).pw_name
MEGABYTE = 1 << 20
#: Far less than any of these attacks sends, far more than a window and its buffers.
MARGIN = 48 * MEGABYTE
PING = 192


@frozen
class Node:
    """The process that faces the network."""

    pid: int

    @property
    def resident(self) -> int:
        """Its memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


def wait_stalled(pid: int, least: int) -> None:
    """Wait until a process has read ``least`` bytes of files and pipes, and reads no more."""

    def have_read() -> int:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])

    start = last = have_read()

    def stalled() -> bool:
        nonlocal last
        time.sleep(1)
        before, last = last, have_read()
        return last - start >= least and last - before < 64 * 1024

    wait_for(stalled, "the flow to stall", 120)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """The node, warm."""
    cluster.ssh(cluster.host, "head -c 20000000 /dev/zero >/dev/null; echo")
    return Node(cluster.processes["node"].pid)


@pytest.fixture
def run(cluster: Cluster) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start an ssh that is ended with the test."""
    with ExitStack() as stack:

        def start(*args: str, **streams: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                ["ssh", "-F", str(cluster.ssh_config), *args], env=cluster.environment, **streams
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def test_a_client_that_does_not_read(cluster: Cluster, node: Node, run: Any) -> None:
    """Three gigabytes of output for a client that reads none of them cost a window."""
    before = node.resident
    client = run(
        cluster.host, "head -c 3G /dev/zero", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    wait_stalled(node.pid, MEGABYTE // 4)
    assert node.resident - before < MARGIN
    assert cluster.ssh(cluster.host, "echo others go on").stdout == b"others go on\n"
    client.kill()
    client.stdout.close()


def test_a_program_that_does_not_read(cluster: Cluster, node: Node, run: Any) -> None:
    """A client that sends without end to a program that reads nothing is stopped by its window."""
    before = node.resident
    with open("/dev/zero", "rb") as zeros:
        client = run(cluster.host, "sleep 600", stdin=zeros, stdout=subprocess.DEVNULL)
    wait_stalled(client.pid, MEGABYTE // 4)
    assert node.resident - before < MARGIN
    assert cluster.ssh(cluster.host, "echo others go on").stdout == b"others go on\n"


@pytest.fixture(scope="module")
def key(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key and its certificate."""
    path = tmp_path_factory.mktemp("key") / "k"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    done = cluster.tele("ca", "sign-user", f"{path}.pub", "--user", "alice")
    certificate = path.with_name("k-cert.pub")
    certificate.write_bytes(done.stdout)
    return str(path), str(certificate)


def test_pings_whose_answers_are_not_read(
    cluster: Cluster, node: Node, key: tuple[str, str]
) -> None:
    """A client that does not read replies is not read from until it does (as CVE-2025-26466)."""
    before = node.resident

    async def flood() -> int:
        async with asyncssh.connect(
            "127.0.0.1", cluster.ports["node"], username=LOGIN, client_keys=[key],
            known_hosts=None, config=None, agent_path=None,
        ) as connection:  # fmt: skip
            transport: Any = connection.get_extra_info("socket") and connection._transport
            transport.pause_reading()
            for _ in range(4000):
                connection.send_packet(PING, asyncssh.packet.String(bytes(30000)))
                await asyncio.sleep(0)
            left = transport.get_write_buffer_size()
            # It has stopped to take them.
            for _ in range(600):
                await asyncio.sleep(1)
                last, left = left, transport.get_write_buffer_size()
                if left == last:
                    break
            resident = node.resident
            transport.abort()
            assert left > 50 * MEGABYTE
            return resident

    assert asyncio.run(flood()) - before < MARGIN
    assert cluster.ssh(cluster.host, "echo others go on").stdout == b"others go on\n"


def test_unauthenticated_clients_with_half_a_packet(cluster: Cluster, node: Node) -> None:
    """Hundreds of connections, each with as much of a packet as is taken, cost their places."""
    before = node.resident
    packet = (34996).to_bytes(4, "big") + b"\4\x14" + bytes(34000)
    with ExitStack() as stack:
        for _ in range(400):
            client = stack.enter_context(socket.socket())
            client.settimeout(60)
            client.connect(("127.0.0.1", cluster.ports["node"]))
            try:
                client.sendall(b"SSH-2.0-x\r\n" + packet)
            except OSError:
                continue  # admission refused it
        assert node.resident - before < MARGIN
    assert cluster.ssh(cluster.host, "echo others go on").stdout == b"others go on\n"
    assert b"Traceback" not in (cluster.folder / "node.log").read_bytes()
