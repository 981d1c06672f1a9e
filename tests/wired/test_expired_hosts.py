"""Hosts whose certificates expire while auth is away: nodes, tunnels and proxies recover."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from small_cluster import ME, SmallCluster, small_cluster
from tele.auth.operations import joining
from tele.loop import now

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCluster]:
    """A cluster with one user, whose hosts have certificates for some seconds."""
    monkeypatch.setattr(joining, "HOST_LIFETIME", timedelta(seconds=6))
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def test_a_fleet_outlives_its_certificates(cluster: SmallCluster) -> None:
    """Auth is away until every certificate has expired: when it is back all hosts rejoin, with the
    ids of before, without a token, and tunnels serve again.
    """
    proxy, direct = cluster.proxy(), cluster.node()
    node = cluster.tunnel_node(proxy)
    members = (proxy.member, direct.member, node.host.member)
    ids = [member.host_id for member in members]
    assert cluster.jump("alice", proxy, "nat1", "echo on").stdout == b"on\n"
    cluster.stop_auth()
    (cluster.folder / "nat1.token").unlink()
    reactor = cluster.reactor
    reactor.until(lambda: all(m.identity.expires < now(reactor) for m in members))
    refused = cluster.ssh("alice", direct, "true")
    assert refused.returncode == 255
    cluster.start_auth()
    reactor.until(lambda: all(m.identity.expires > now(reactor) for m in members), 90)
    reactor.until(lambda: cluster.jump("alice", proxy, "nat1", "echo on").stdout == b"on\n", 90)
    reactor.until(lambda: cluster.jump("alice", proxy, "web1", "echo on").stdout == b"on\n", 90)
    assert [member.host_id for member in members] == ids
    assert {event.server_id for event in cluster.events("node.rejoin")} >= set(ids)
    assert len(cluster.events("node.join")) == 3
