"""A cluster in a synchronous mode of recording, and a client's ssh: for tests."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

from attrs import define

from small_cluster import SmallCluster
from sync_recorder import SyncRecorder
from tele.model.frame import FrameKind
from tele.model.resources import RecordingMode, RecordingSettings

#: A session that waits so long for auth ends.
END_AFTER = timedelta(seconds=5)


@define
class SyncWorld:
    """A cluster, the recorder of its sessions, and what a client has read so far.

    ``words`` are ssh's options to reach the node, and the node.
    """

    cluster: SmallCluster
    recorder: SyncRecorder
    folder: Path
    words: Callable[[], list[str]]

    def ssh(self, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start ssh with options and a command; return it and the file that has what it shows."""
        shown = self.folder / "shown"
        *options, host = self.words()
        options += [word for word in words if word.startswith("-")]
        command = [word for word in words if not word.startswith("-")]
        with shown.open("wb") as file:
            ssh = subprocess.Popen(
                ["ssh", *options, host, *command],
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.cluster.programs.append(ssh)
        return ssh, shown

    def until(self, condition: Any) -> None:
        """Run the reactor until ``condition()`` holds."""
        self.cluster.reactor.until(condition)

    def recorded(self, kind: FrameKind) -> bytes:
        """Return the data of all frames of a kind."""
        return b"".join(each.kinds(kind) for each in self.recorder.recordings)


def use_mode(cluster: SmallCluster, mode: RecordingMode, *members: Any) -> None:
    """Set the mode, and wait until ``members`` follow."""
    assert cluster.auth is not None
    assert cluster.auth._parts is not None
    state = cluster.auth._parts.state
    state.configured = RecordingSettings(mode, sync_end_after=END_AFTER)
    state._notify(state._revision + 1)
    cluster.reactor.until(lambda: all(each.state.recording.mode is mode for each in members))


def check_that_output_waits(world: SyncWorld) -> None:
    """It is recorded, and not shown, until auth has it; then all of it is, with the exit."""
    world.recorder.away = True
    ssh, shown = world.ssh("echo secret; exit 7")
    world.until(lambda: b"secret" in world.recorded(FrameKind.OUTPUT))
    assert shown.read_bytes() == b""
    world.recorder.come_back()
    world.until(lambda: ssh.poll() is not None)
    assert (shown.read_bytes(), ssh.returncode) == (b"secret\n", 7)


def check_that_a_long_wait_ends(world: SyncWorld) -> None:
    """The user reads why, and never what was held."""
    world.recorder.away = True
    ssh, shown = world.ssh("-tt", "echo secret; exec sleep 1000")
    world.until(lambda: ssh.poll() is not None)
    told = shown.read_bytes()
    assert b"secret" in world.recorded(FrameKind.OUTPUT)
    assert b"secret" not in told
    assert b"recorded" in told
    assert ssh.returncode == 255


@contextmanager
def greeter(*, closes: bool = False) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that sends ``banner``; yield its address, and the connections that it has served."""
    served: list[socket.socket] = []

    def greet() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"banner")
        if closes:
            connection.close()
        served.append(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=greet, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", served


def check_that_a_forward_waits(world: SyncWorld, *, closes: bool = False, wait: float = 0) -> None:
    """Who connects where has to be at auth before the client receives anything from there.

    ``wait``: seconds in which it could arrive, if it did not wait.
    """
    with greeter(closes=closes) as (address, served):
        world.recorder.away = True
        ssh, shown = world.ssh(f"-W{address}")
        world.until(lambda: bool(served) and b"direct-tcpip" in world.recorded(FrameKind.OPEN))
        world.cluster.reactor.sleep(wait)
        assert shown.read_bytes() == b""
        world.recorder.come_back()
        world.until(lambda: shown.read_bytes() == b"banner")
        served[0].close()
        world.until(lambda: ssh.poll() is not None)
