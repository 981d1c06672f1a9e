"""Parts that are started while auth is away use the cached state."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from three_processes import Cluster, make_cluster, wait_for


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "tunnel"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster whose node is dialled, and one whose node has a tunnel."""
    running = make_cluster(tmp_path_factory.mktemp("alone"), tunnel=request.param)
    try:
        yield running
    finally:
        running.stop()


def test_a_proxy_that_starts_without_auth(cluster: Cluster) -> None:
    """Auth and proxy are killed and the proxy is started alone: a user with a certificate reaches
    nodes; then the node is killed and started alone, too. When auth is back, all is as before.
    """
    kept = cluster.folder / "proxy" / "identity" / "proxy" / "nodes.json"

    def has_a_way() -> bool:
        nodes = json.loads(kept.read_bytes())["nodes"] if kept.exists() else []
        return any(node["addresses"] or node["tunnels"] for node in nodes)

    wait_for(has_a_way, "the node to be kept")
    cluster.kill("auth")
    cluster.kill("proxy")
    cluster.start("proxy")
    wait_for(lambda: reached(cluster), "the node to be reached without auth", 60)
    cluster.kill("node")
    cluster.start("node")
    wait_for(lambda: reached(cluster), "the node to be reached after its restart", 60)
    cluster.start("auth")
    wait_for(cluster.online, "the node to be online again", 60)
    assert reached(cluster)


def reached(cluster: Cluster) -> bool:
    """Whether a user logs in through the proxy."""
    done = cluster.ssh(cluster.host, "echo in", check=False)
    return (done.returncode, done.stdout) == (0, b"in\n")
