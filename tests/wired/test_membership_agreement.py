"""A host whose folder belongs to another cluster than its configuration says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from small_cluster import SmallCluster, small_cluster
from tele.config.values import Address, JoinConfig, NodeConfig, Pins, ProxyConfig
from tele.embed.node import node_service
from tele.embed.proxy import proxy_service
from tele.errors import InvalidInput
from tele.membership.store import DirectoryStore
from tele.model.identity import HostRole

OTHER = "sha256:" + "0" * 64


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


@pytest.fixture
def pin(cluster: SmallCluster) -> str:
    return cluster.settings().pins[0]


@pytest.fixture
def joined(cluster: SmallCluster) -> Path:
    """The folder of a node that was a member, and is stopped."""
    node = cluster.tunnel_node(cluster.proxy())
    cluster.stop_tunnel_node(node)
    return cluster.folder / "nat1"


def join(cluster: SmallCluster, *pins: str, **more: Any) -> JoinConfig:
    return JoinConfig(proxy=Address("127.0.0.1", 1), ca_pin=Pins(pins) if pins else None, **more)


def test_another_pin_is_not_passed_over(cluster: SmallCluster, joined: Path, pin: str) -> None:
    """A node that is configured for another cluster does not silently stay in the old one:
    both pins, the cluster and what to do are in the error, and nothing is left locked.
    """
    settings = join(cluster, OTHER, token_file=joined / "new-token")
    with pytest.raises(InvalidInput) as caught:
        node_service(cluster.reactor, NodeConfig(name="nat1", join=settings), joined)
    said = str(caught.value)
    folder = joined / "identity" / "node"
    for part in ("node.join: ", f"{folder} holds", "node nat1 in cluster small", pin, OTHER,
                 f"remove {folder}"):  # fmt: skip
        assert part in said
    DirectoryStore(joined, HostRole.NODE).close()
    shutil.rmtree(folder)
    node_service(
        cluster.reactor, NodeConfig(name="nat1", join=settings), joined
    ).member._store.close()


def test_the_right_pin_and_none_are_as_good_as_before(
    cluster: SmallCluster, joined: Path, pin: str
) -> None:
    """One of several pins is enough, as while the CA is being replaced; a member needs none."""
    for pins in ((pin,), (OTHER, pin), ()):
        config = NodeConfig(name="nat1", join=join(cluster, *pins))
        node_service(cluster.reactor, config, joined).member._store.close()


def test_an_identity_is_of_one_role(cluster: SmallCluster, joined: Path, pin: str) -> None:
    """A node's folder that was copied to the place of a proxy makes no proxy."""
    shutil.copytree(joined / "identity" / "node", joined / "identity" / "proxy")
    with pytest.raises(InvalidInput, match=r"proxy.join: .* holds the identity of node nat1"):
        proxy_service(cluster.reactor, ProxyConfig(join=join(cluster, pin)), joined)
