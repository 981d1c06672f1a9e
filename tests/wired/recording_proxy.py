"""A small cluster whose sessions end at a proxy, and what its recordings hold: for tests."""

from __future__ import annotations

import subprocess
from typing import Any

from small_cluster import SmallCluster, SmallNode, SmallProxy
from tele.model.frame import Frame, FrameKind
from tele.model.resources import RecordingMode, RecordingSettings
from tele.tape.details import details
from tele.testing import MemoryRecorder
from tele.testing.recorder import MemoryRecording


def set_mode(
    cluster: SmallCluster, mode: RecordingMode, *members: Any, plain_keys: bool = False
) -> None:
    """Record in a mode from now on, and wait until ``members`` know it."""
    assert cluster.auth is not None
    assert cluster.auth._parts is not None
    state: Any = cluster.auth._parts.state
    wanted = RecordingSettings(mode, proxy_plain_keys=plain_keys)
    state.configured = wanted
    state._notify(state._revision + 1)
    for member in members:
        cluster.reactor.until(lambda member=member: member.state.recording == wanted)


def settled(cluster: SmallCluster, proxy: SmallProxy, *names: str) -> None:
    """Wait until ``proxy`` knows how to reach nodes."""

    def known() -> set[str]:
        hosts = proxy.service.router.index
        return {host.name for host in hosts if host.addresses or host.tunnels}

    cluster.reactor.until(lambda: known() >= set(names))


def read_error(cluster: SmallCluster, program: subprocess.Popen[bytes]) -> bytes:
    """Return what a client that has ended wrote to its standard error.

    A program of its own that connects it holds that, too, until the proxy closes the connection.
    """
    cluster.programs.remove(program)
    done: list[tuple[bytes, bytes]] = []
    pool = cluster.reactor.getThreadPool()
    pool.callInThread(lambda: done.append(program.communicate()))
    cluster.reactor.until(lambda: bool(done))
    return done[0][1]


def end_programs(cluster: SmallCluster) -> None:
    """End the clients that run."""
    for program in list(cluster.programs):
        program.kill()
        read_error(cluster, program)


class Proxied:
    """A node, and a proxy that ends its sessions and records them in memory."""

    def __init__(self, cluster: SmallCluster, **proxy: Any) -> None:
        self.cluster = cluster
        self.recorder = MemoryRecorder()
        self.node: SmallNode = cluster.node(labels={"env": "prod"})
        self.proxy: SmallProxy = cluster.proxy(recorder=self.recorder, **proxy)
        set_mode(cluster, RecordingMode.PROXY, self.node.member, self.proxy.member)
        settled(cluster, self.proxy, "web1")

    def ssh(self, *args: str, stdin: bytes | None = None, person: str = "alice") -> Any:
        """Run OpenSSH's client through the proxy."""
        return self.cluster.jump(person, self.proxy, "web1.small", *args, stdin=stdin)

    def ended(self, count: int = 1) -> MemoryRecording:
        """Return the last of so many recordings, when they are closed."""
        made = self.recorder.recordings
        self.cluster.reactor.until(
            lambda: len(made) >= count and all(each.closed is not None for each in made)
        )
        return made[-1]


def bytes_of(recording: MemoryRecording, kind: FrameKind = FrameKind.OUTPUT) -> bytes:
    """What the program wrote."""
    return b"".join(frame.data for frame in recording.frames if frame.kind is kind)


def facts(recording: MemoryRecording, kind: FrameKind) -> list[Any]:
    """The fields of all frames of a kind."""
    frames: list[Frame] = [frame for frame in recording.frames if frame.kind is kind]
    return [details(frame) for frame in frames]
