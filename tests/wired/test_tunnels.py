"""Nodes behind NAT: reached through proxies that they dialled, with OpenSSH's client."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_cluster import ME, SmallCluster, small_cluster

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one person."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def test_a_command_through_a_tunnel(cluster: SmallCluster) -> None:
    """A node that knows only a proxy and binds no port runs a command, to the byte."""
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    data = os.urandom(1_000_000)
    cluster.reactor.until(lambda: node.proxies == (proxy.member.host_id,))
    done = cluster.jump("alice", proxy, "nat1", "cat; echo bad >&2; exit 7", stdin=data)
    assert (done.stdout == data, done.stderr, done.returncode) == (True, b"bad\n", 7)
    (started,) = cluster.wait_event("session.start")
    assert started.server_name == "nat1"
    assert started.remote_addr.startswith("127.0.0.1:")
