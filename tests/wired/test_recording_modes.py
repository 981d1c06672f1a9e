"""Recording modes that no part supports: refused where they are set, and by members that receive
them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from twisted.internet.task import Clock

from small_cluster import ME, NAME, SmallCluster, set_options, small_cluster
from tele.auth.service import AuthService
from tele.errors import InvalidInput
from tele.model.api.cluster import PUT_CLUSTER, PutCluster
from tele.model.codec import decode, encode
from tele.model.frame import FrameKind
from tele.model.recording_modes import MODES
from tele.model.resources import Cluster, ClusterSpec, Metadata, RecordingMode, RecordingSettings
from tele.recording.archives.directory import DirectoryArchive
from tele.store.memory import MemoryBackend
from tele.testing import MemoryRecorder

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

#: Each mode that does not work, and one of a version that is yet to come.
UNABLE: list[Any] = [m for m in RecordingMode if m not in (*MODES, RecordingMode.UNKNOWN)]
REFUSED: list[Any] = [*(mode.value for mode in UNABLE), "proxy-hologram"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def announce(cluster: SmallCluster, mode: Any) -> None:
    """Let auth send ``mode`` to all members, as one of another version would."""
    assert cluster.auth is not None
    assert cluster.auth._parts is not None
    state = cluster.auth._parts.state
    state.configured = RecordingSettings(mode)
    state._notify(state._revision + 1)


def wait_until_known(cluster: SmallCluster, member: Any, mode: RecordingMode) -> None:
    cluster.reactor.until(lambda: member.state.recording.mode is mode)


@needs_ssh
@pytest.mark.parametrize("mode", REFUSED)
def test_an_unsupported_mode_refuses_logins(cluster: SmallCluster, mode: str) -> None:
    """Neither a node nor a proxy ignores it; the user reads why, and the supported modes work as
    before.
    """
    recorder = MemoryRecorder()
    node = cluster.node(recorder=recorder)
    proxy = cluster.proxy()
    cluster.reactor.until(lambda: any(host.addresses for host in proxy.service.router.index))
    received = RecordingMode(mode) if mode in list(RecordingMode) else RecordingMode.UNKNOWN
    announce(cluster, mode)
    for member in (node.member, proxy.member):
        wait_until_known(cluster, member, received)
    direct = cluster.ssh("alice", node, "echo in")
    assert (direct.stdout, direct.returncode) == (b"", 255)
    assert b"this node cannot record sessions as the cluster says" in direct.stderr
    jumped = cluster.jump("alice", proxy, "web1.small", "echo in")
    assert (jumped.stdout, jumped.returncode) == (b"", 255)
    assert b"this proxy cannot record sessions as the cluster says" in jumped.stderr
    announce(cluster, RecordingMode.NODE)
    for member in (node.member, proxy.member):
        wait_until_known(cluster, member, RecordingMode.NODE)
    again = cluster.jump("alice", proxy, "web1.small", "echo in")
    assert again.stdout == b"in\n", again.stderr
    assert len(recorder.recordings) == 1


@needs_ssh
def test_a_change_by_an_administrator_is_live(cluster: SmallCluster) -> None:
    """Without a restart: connections that begin afterwards follow it, the others do not."""
    recorder = MemoryRecorder()
    node = cluster.node(recorder=recorder)
    with TemporaryDirectory(dir="/tmp") as folder:  # a path that fits into a socket's address
        socket = f"{folder}/s"
        words = cluster.ssh_words("alice", node, "-M", "-S", socket, "-N", "127.0.0.1")
        cluster.start("ssh", *words)
        cluster.reactor.until(lambda: Path(socket).exists())
        assert cluster.ssh("alice", node, "echo one", options=("-S", socket)).stdout == b"one\n"
        settings = ClusterSpec(RecordingSettings(RecordingMode.OFF))
        changed = PutCluster(Cluster(Metadata(NAME), settings))
        cluster.reactor.wait(cluster.admin.perform(PUT_CLUSTER, changed))
        wait_until_known(cluster, node.member, RecordingMode.OFF)
        assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
        assert cluster.ssh("alice", node, "echo two", options=("-S", socket)).stdout == b"two\n"
        cluster.ssh("alice", node, options=("-S", socket, "-O", "exit"))
    (recording,) = recorder.recordings
    assert sum(frame.kind is FrameKind.OPEN for frame in recording.frames) == 2


@needs_ssh
def test_in_an_emergency_nodes_record_what_comes_past_the_proxies(cluster: SmallCluster) -> None:
    """Users of roles with ``break_glass`` log in directly while no proxy works; no other user."""
    recorder = MemoryRecorder()
    node = cluster.node(recorder=recorder)
    announce(cluster, RecordingMode.PROXY)
    wait_until_known(cluster, node.member, RecordingMode.PROXY)
    refused = cluster.ssh("alice", node, "echo in")
    assert b"recorded by its proxies" in refused.stderr
    assert recorder.recordings == []
    set_options(cluster, node, break_glass=True)
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
    assert len(recorder.recordings) == 1


@needs_ssh
def test_off_records_nothing(cluster: SmallCluster) -> None:
    """The only other mode that works does what it says, from the next connection on."""
    recorder = MemoryRecorder()
    node = cluster.node(recorder=recorder)
    announce(cluster, RecordingMode.OFF)
    wait_until_known(cluster, node.member, RecordingMode.OFF)
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
    assert recorder.recordings == []
    (ended,) = cluster.wait_event("session.end")
    assert ended.fields["recorded"] is False


@pytest.mark.parametrize(
    "settings",
    [
        *(RecordingSettings(mode) for mode in UNABLE),
        RecordingSettings(RecordingMode.UNKNOWN),
    ],
)
def test_auth_does_not_start_with_what_nothing_honours(
    tmp_path: Path, settings: RecordingSettings
) -> None:
    """A program that embeds auth learns it at once, as a user does from their file."""
    with pytest.raises(InvalidInput, match="session_recording"):
        AuthService(
            Clock(),
            cluster="c",
            backend=MemoryBackend(Clock()),
            archive=DirectoryArchive(tmp_path, Clock()),
            host_id="11111111-1111-4111-8111-111111111111",
            name="auth",
            listen=("127.0.0.1", 0),
            recording=settings,
        )


def test_a_mode_of_a_newer_auth_is_unknown() -> None:
    """A member that restarts without auth remembers that the mode was unknown."""
    state = encode(RecordingSettings())
    newer = state.replace(b'"mode":"node"', b'"mode":"hologram"')
    assert newer != state
    received = decode(RecordingSettings, newer)
    assert received.mode is RecordingMode.UNKNOWN
    assert received.problem
    assert decode(RecordingSettings, encode(received)) == received
