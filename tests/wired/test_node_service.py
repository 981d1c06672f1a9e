"""A node that joined a real auth, and OpenSSH's client at its door."""

from __future__ import annotations

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


def test_command(cluster: SmallCluster) -> None:
    """OpenSSH runs a command on a node that it never saw, and gets all that it said."""
    node = cluster.node()
    done = cluster.ssh("alice", node, "cat; echo bad >&2; exit 7", stdin=b"x" * 1_000_000)
    assert (len(done.stdout), done.stderr, done.returncode) == (1_000_000, b"bad\n", 7)
