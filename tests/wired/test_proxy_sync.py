"""In the mode proxy-sync nothing reaches the client before auth has it, recorded by the proxy."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from attrs import define

from recording_proxy import end_programs, settled
from small_cluster import ME, SmallCluster, SmallProxy, small_cluster
from sync_recorder import SyncRecorder
from tele.model.frame import FrameKind
from tele.model.resources import RecordingMode, RecordingSettings

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

END_AFTER = timedelta(seconds=5)


@define
class World:
    """A node behind a recording proxy, and what a client has read so far."""

    cluster: SmallCluster
    proxy: SmallProxy
    recorder: SyncRecorder
    folder: Path

    def ssh(self, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start ssh through the proxy; return it and the file that has what it shows."""
        shown = self.folder / "shown"
        first = self.cluster.jump_words("alice", self.proxy, "web1.small")
        *options, host = first
        with shown.open("wb") as file:
            ssh = subprocess.Popen(
                ["ssh", *options, *[w for w in words if w.startswith("-")], host,
                 *[w for w in words if not w.startswith("-")]],
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.cluster.programs.append(ssh)
        return ssh, shown

    def until(self, condition: Any) -> None:
        self.cluster.reactor.until(condition)

    def recorded(self, kind: FrameKind) -> bytes:
        return b"".join(each.kinds(kind) for each in self.recorder.recordings)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster in the mode proxy-sync; a session that waits for long ends after some seconds."""
    with small_cluster(tmp_path / "cluster") as cluster:
        cluster.person("alice", ME)
        recorder = SyncRecorder()
        node, proxy = cluster.node(), cluster.proxy(recorder=recorder)
        assert cluster.auth is not None
        assert cluster.auth._parts is not None
        state = cluster.auth._parts.state
        state.configured = RecordingSettings(RecordingMode.PROXY_SYNC, sync_end_after=END_AFTER)
        state._notify(state._revision + 1)
        for member in (node.member, proxy.member):
            cluster.reactor.until(
                lambda member=member: member.state.recording.mode is RecordingMode.PROXY_SYNC
            )
        settled(cluster, proxy, "web1")
        yield World(cluster, proxy, recorder, tmp_path)
        end_programs(cluster)


def test_output_waits_for_auth(world: World) -> None:
    """It is recorded, and not shown, until auth has it; then all of it is, with the exit."""
    world.recorder.away = True
    ssh, shown = world.ssh("echo secret; exit 7")
    world.until(lambda: b"secret" in world.recorded(FrameKind.OUTPUT))
    assert shown.read_bytes() == b""
    world.recorder.come_back()
    world.until(lambda: ssh.poll() is not None)
    assert (shown.read_bytes(), ssh.returncode) == (b"secret\n", 7)


def test_a_session_that_waits_too_long_ends(world: World) -> None:
    """The user reads why, and never what was held."""
    world.recorder.away = True
    ssh, shown = world.ssh("-tt", "echo secret; exec sleep 1000")
    world.until(lambda: ssh.poll() is not None)
    told = shown.read_bytes()
    assert b"secret" in world.recorded(FrameKind.OUTPUT)
    assert b"secret" not in told
    assert b"recorded" in told
    assert ssh.returncode == 255


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed at once"])
def test_a_forward_waits_for_auth(world: World, closes: bool) -> None:
    """Who connects where has to be at auth before the client receives anything from there."""
    listener = socket.create_server(("127.0.0.1", 0))
    served: list[socket.socket] = []

    def greet() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"banner")
        if closes:
            connection.close()
        served.append(connection)

    with listener:
        Thread(target=greet, daemon=True).start()
        world.recorder.away = True
        ssh, shown = world.ssh(f"-W127.0.0.1:{listener.getsockname()[1]}")
        world.until(lambda: bool(served) and b"direct-tcpip" in world.recorded(FrameKind.OPEN))
        world.cluster.reactor.sleep(0.5)
        assert shown.read_bytes() == b""
        world.recorder.come_back()
        world.until(lambda: shown.read_bytes() == b"banner")
        served[0].close()
        world.until(lambda: ssh.poll() is not None)
