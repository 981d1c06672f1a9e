"""Peers that disappear without closing: every connection of every part has keepalives."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import tcp

from small_cluster import ME, SmallCluster, small_cluster
from tele.sockets.tcp import MACHINE_SECONDS, USER_SECONDS

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with a user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def patience(cluster: SmallCluster) -> dict[tuple[int, int], int]:
    """Return in seconds how long each connection waits for a dead peer, by its two ports."""
    reactor: Any = cluster.reactor
    return {
        (each.socket.getsockname()[1], each.socket.getpeername()[1]): each.socket.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
        )
        // 1000
        if each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        else 0
        for each in reactor.getReaders()
        if isinstance(each, tcp.Connection) and each.socket.family == socket.AF_INET
    }


def test_every_connection_is_watched(cluster: SmallCluster) -> None:
    """Through a proxy to a node's own address: what is between machines ends soon without its peer,
    at both ends; only the user's own connection survives a long silence.
    """
    proxy = cluster.proxy()
    node = cluster.node()
    index = proxy.service.router.index
    cluster.reactor.until(lambda: any(each.addresses for each in index))
    words = cluster.jump_words("alice", proxy, "web1", "sleep 60")
    running = cluster.start("ssh", *words)
    cluster.wait_event("exec")
    found = patience(cluster)
    assert running.poll() is None
    running.terminate()  # now, while the reactor turns: its jump holds a pipe of ours
    cluster.wait_event("session.end")
    users = {ports: seconds for ports, seconds in found.items() if ports[0] == proxy.port}
    dialled = {ports: seconds for ports, seconds in found.items() if ports[1] == node.port}
    accepted = {ports: seconds for ports, seconds in found.items() if ports[0] == node.port}
    assert set(users.values()) == {USER_SECONDS}
    assert list(dialled.values()) == list(accepted.values()) == [MACHINE_SECONDS]
    others = {p: s for p, s in found.items() if p not in users}
    assert all(0 < seconds <= MACHINE_SECONDS for seconds in others.values()), others
    assert any(ports[0] == cluster.port for ports in others), "calls to auth"
    assert any(ports[1] == cluster.port for ports in others), "calls to auth"
