"""In a mode that is synchronous, nothing reaches the client before auth has it recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """A node in the mode node-sync."""
    with small_cluster(tmp_path / "cluster") as cluster:
        cluster.person("alice", ME)
        recorder = SyncRecorder()
        node = cluster.node(recorder=recorder)
        use_mode(cluster, RecordingMode.NODE_SYNC, node.member)
        yield SyncWorld(
            cluster, recorder, tmp_path, lambda: cluster.ssh_words("alice", node, "127.0.0.1")
        )


def test_output_waits_for_auth(world: SyncWorld) -> None:
    """It is recorded, and not shown, until auth has it; then all of it is, with the exit."""
    check_that_output_waits(world)


def test_a_terminal_tells_why_it_waits(world: SyncWorld) -> None:
    """The user reads that auth is away, and that it is back; nothing else in between."""
    ssh, shown = world.ssh("-tt", "echo one; read line; echo two $line")
    world.until(lambda: b"one" in shown.read_bytes())
    world.recorder.away = True
    assert ssh.stdin is not None
    ssh.stdin.write(b"typed\n")
    ssh.stdin.flush()
    world.until(lambda: b"recording: waiting for auth" in shown.read_bytes())
    assert b"two" not in shown.read_bytes()
    world.recorder.come_back()
    world.until(lambda: ssh.poll() is not None)
    after = shown.read_bytes()
    assert after.index(b"recording: resumed") < after.index(b"two typed")
    ssh.stdin.close()


def test_a_session_that_waits_too_long_ends(world: SyncWorld) -> None:
    """The user reads why, and never what was held."""
    check_that_a_long_wait_ends(world)


def test_a_forward_waits_for_auth(world: SyncWorld) -> None:
    """Who connects where has to be at auth before the client receives anything from there."""
    check_that_a_forward_waits(world)
