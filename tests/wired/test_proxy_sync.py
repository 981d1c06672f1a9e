"""In the mode proxy-sync nothing reaches the client before auth has it, recorded by the proxy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recording_proxy import end_programs, settled
from small_cluster import ME, small_cluster
from sync_recorder import SyncRecorder
from sync_world import (
    SyncWorld,
    check_that_a_forward_waits,
    check_that_a_long_wait_ends,
    check_that_output_waits,
    use_mode,
)
from tele.model.resources import RecordingMode

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SyncWorld]:
    """A node behind a recording proxy, in the mode proxy-sync."""
    with small_cluster(tmp_path / "cluster") as cluster:
        cluster.person("alice", ME)
        recorder = SyncRecorder()
        node, proxy = cluster.node(), cluster.proxy(recorder=recorder)
        use_mode(cluster, RecordingMode.PROXY_SYNC, node.member, proxy.member)
        settled(cluster, proxy, "web1")
        yield SyncWorld(
            cluster, recorder, tmp_path, lambda: cluster.jump_words("alice", proxy, "web1.small")
        )
        end_programs(cluster)


def test_output_waits_for_auth(world: SyncWorld) -> None:
    """It is recorded, and not shown, until auth has it; then all of it is, with the exit."""
    check_that_output_waits(world)


def test_a_session_that_waits_too_long_ends(world: SyncWorld) -> None:
    """The user reads why, and never what was held."""
    check_that_a_long_wait_ends(world)


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed at once"])
def test_a_forward_waits_for_auth(world: SyncWorld, closes: bool) -> None:
    """Who connects where has to be at auth before the client receives anything from there."""
    check_that_a_forward_waits(world, closes=closes, wait=0.5)
