"""A cluster whose state is in etcd with three members: members and auth may go at any moment."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_server import EtcdCluster, program, running_etcd
from three_processes import Cluster, make_cluster, wait_for

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def members() -> Iterator[EtcdCluster]:
    """Three members that may be killed."""
    if program() is None:
        pytest.skip("etcd is not installed")
    with running_etcd(3) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(members: EtcdCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with its store there, of which no file of auth's has a part."""
    folder: Path = tmp_path_factory.mktemp("etcd")
    running = make_cluster(folder, auth_settings=f"store: 'etcd:{members.url('interop')}'")
    try:
        yield running
    finally:
        running.stop()


def test_a_member_ends(cluster: Cluster, members: EtcdCluster) -> None:
    """Whichever is killed, users log in, sessions are recorded, and nothing that was said to be
    done is lost, also when auth is killed, too.
    """
    for member in range(3):
        members.signal(member, signal.SIGKILL)
        name = f"user{member}"
        cluster.tele("users", "add", name, "--role", "access", "--login", "x", "--format", "json")
        assert cluster.ssh(cluster.host, f"echo {name}").stdout == f"{name}\n".encode()
        cluster.kill("auth")
        cluster.start("auth")
        found = json.loads(cluster.tele("users", "ls", "--format", "json").stdout)
        assert name in {user["metadata"]["name"] for user in found}
        members.start(member)
        members.wait(member)

    def complete() -> bool:
        rows = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
        return len(rows) == 3 and all(row["complete"] for row in rows)

    wait_for(complete, "the recordings", 60)
    assert not (cluster.folder / "auth" / "auth.sqlite").exists()
