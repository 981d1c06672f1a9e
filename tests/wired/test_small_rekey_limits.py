"""OpenSSH with a small ``RekeyLimit`` on all hops: at a proxy, and at a node behind a tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from small_cluster import ME, SmallCluster, small_cluster

SIZE = 2 << 20


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@pytest.mark.parametrize("limit", ["16K", "32K", "512K"])
def test_every_hop_exchanges_keys_often(cluster: SmallCluster, limit: str) -> None:
    """Every byte arrives in both directions, although each packet of an upload leads to an
    exchange of keys with the proxy and one with the node.
    """
    proxy = cluster.proxy()
    node = cluster.tunnel_node(proxy)
    cluster.settled(node, proxy)
    words = cluster.jump_words("alice", proxy, "nat1")
    config = Path(words[1])
    config.write_text(f"{config.read_text()} RekeyLimit {limit}\n")
    up = cluster.run("ssh", *words, "wc -c", stdin=bytes(SIZE))
    assert up.stdout.strip() == b"%d" % SIZE, up.stderr
    down = cluster.run("ssh", *words, f"head -c {SIZE} /dev/zero")
    assert len(down.stdout) == SIZE, down.stderr
