"""Users whose client is stopped for a while: real OpenSSH, stopped by a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from small_cluster import ME, SmallCluster, SmallNode, SmallProxy, set_options, small_cluster
from tele.admission.limits import Limits
from tele.proxy.jump_avatar import JumpAvatar

#: Hosts are asked each second, and are gone after four.
OFTEN = Limits(keepalive_interval=1.0)
#: More than that.
STOPPED = 7.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def serving(cluster: SmallCluster) -> tuple[SmallNode, SmallProxy]:
    """A node and a proxy that knows it."""
    node, proxy = cluster.node(limits=OFTEN), cluster.proxy(limits=OFTEN)
    cluster.reactor.until(lambda: any(host.addresses for host in proxy.service.router.index))
    return node, proxy


class Client:
    """An ssh through the proxy that runs ``cat``."""

    def __init__(self, cluster: SmallCluster, proxy: SmallProxy) -> None:
        self._cluster = cluster
        self.process = subprocess.Popen(
            ["ssh", *cluster.jump_words("alice", proxy, "web1", "echo ready; cat")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Client:
        self.read(b"ready\n")

        return self

    def __exit__(self, *_: object) -> None:
        send(self, signal.SIGCONT)
        send(self, signal.SIGKILL)
        self._cluster.reactor.until(lambda: self.process.poll() is not None)
        self.process.communicate()

    def read(self, wanted: bytes) -> None:
        """Wait for ``wanted``."""
        output, lines = self.process.stdout, []
        assert output is not None
        pool = self._cluster.reactor.getThreadPool()
        pool.callInThread(lambda: lines.append(output.readline()))
        self._cluster.reactor.until(lambda: bool(lines))
        assert lines == [wanted]

    def ask(self, line: bytes) -> None:
        """Send a line to ``cat``, and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()
        self.read(line)


def processes(client: Client) -> list[int]:
    """Return the client and the one that it started for the jump."""
    listed = subprocess.run(
        ["ps", "--ppid", str(client.process.pid), "-o", "pid="],
        capture_output=True,
        text=True,
        check=False,
    )
    return [client.process.pid, *map(int, listed.stdout.split())]


def send(client: Client, number: signal.Signals) -> None:
    """Signal both, as a suspended laptop stops both."""
    for pid in processes(client):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_client_that_was_stopped_continues(cluster: SmallCluster) -> None:
    """``~^Z``, or a suspended laptop, for longer than a tunnel may be silent: the session is there
    afterwards, at the node and at the proxy, and vanished clients are left to the kernel to find.
    """
    node, proxy = serving(cluster)
    with Client(cluster, proxy) as client:
        send(client, signal.SIGSTOP)
        cluster.reactor.sleep(STOPPED)
        send(client, signal.SIGCONT)
        client.ask(b"still here\n")
        keep_alive(node, proxy)


def users_at(proxy: SmallProxy) -> set[JumpAvatar]:
    """Those who pass through now."""
    jump = proxy.service._jump
    return set() if jump is None else jump.present


def keep_alive(node: SmallNode, proxy: SmallProxy) -> None:
    """The kernel detects a client that has vanished."""
    for factory in filter(None, (node.service.factory, proxy.service._ssh)):
        for transport in factory.present:
            plain: socket.socket = cast(Any, transport.transport).socket
            assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_role_has_stopped_clients_hung_up(cluster: SmallCluster) -> None:
    """With the option of a role a client that answers nothing is disconnected, also one that is
    connected already, and at the node as well as at the proxy.
    """
    node, proxy = serving(cluster)
    with Client(cluster, proxy) as client:
        set_options(cluster, node, client_keepalive=timedelta(seconds=1))
        send(client, signal.SIGSTOP)
        cluster.wait_event("session.end")
        cluster.reactor.until(lambda: not users_at(proxy))
