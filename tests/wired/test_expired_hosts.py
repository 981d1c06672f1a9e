"""Hosts whose certificates expire while auth is away: nodes, tunnels and proxies recover."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from small_cluster import ME, NAME, SmallCluster, small_cluster
from tele.loop import now
from tele.membership import renewal
from tele.membership.member import Member
from tele.model import cluster_settings
from tele.model.api.cluster import PUT_CLUSTER, PutCluster
from tele.model.cluster_settings import HostCertificates
from tele.model.resources import Cluster, ClusterSpec, Metadata

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCluster]:
    """A cluster with one user, whose hosts may have certificates for some seconds."""
    monkeypatch.setattr(cluster_settings, "SHORTEST_HOST_LIFETIME", timedelta(seconds=1))
    monkeypatch.setattr(renewal, "SPREAD_SECONDS", 1.0)
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def put(cluster: SmallCluster, **rules: timedelta) -> None:
    """Change the rules for certificates of hosts."""
    spec = ClusterSpec(host_certificates=HostCertificates(**rules))  # type: ignore[arg-type]
    request = PutCluster(Cluster(Metadata(NAME), spec))
    cluster.reactor.wait(cluster.admin.perform(PUT_CLUSTER, request))


def life(member: Member) -> timedelta:
    """How long the certificates of a host last."""
    return member.identity.expires - member.identity.issued


def test_certificates_follow_the_settings(cluster: SmallCluster) -> None:
    """Shorter ones are wanted: hosts renew at once, while a session runs. Longer ones are, too:
    from the next renewal on, and after the limit for a rejoin a host needs a token.
    """
    proxy, direct = cluster.proxy(), cluster.node()
    members = (proxy.member, direct.member)
    assert {life(member) for member in members} == {timedelta(hours=24)}
    put(cluster, lifetime=timedelta(hours=2))
    cluster.reactor.until(lambda: {life(m) for m in members} == {timedelta(hours=2)})
    put(cluster, lifetime=timedelta(seconds=6), rejoin_limit=timedelta(seconds=1))
    cluster.reactor.until(lambda: {life(m) for m in members} == {timedelta(seconds=6)})
    put(cluster, lifetime=timedelta(days=30), rejoin_limit=timedelta(seconds=1))
    cluster.reactor.until(lambda: {life(m) for m in members} == {timedelta(days=30)})
    assert cluster.jump("alice", proxy, "web1", "echo on").stdout == b"on\n"
    assert cluster.events("node.copied") == ()


def test_a_fleet_outlives_its_certificates(cluster: SmallCluster) -> None:
    """Auth is away until every certificate has expired: when it is back all hosts rejoin, with the
    ids of before, without a token, and tunnels serve again.
    """
    put(cluster, lifetime=timedelta(seconds=6))
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
