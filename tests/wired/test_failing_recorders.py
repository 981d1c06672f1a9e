"""A recorder that fails in the middle of a real session: the role decides what becomes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from small_cluster import ME, SmallCluster, small_cluster
from tele.interfaces import IRecorder, IRecording, NamedRecorder
from tele.model.api.paging import ByName
from tele.model.api.roles import GET_ROLE, PUT_ROLE, PutRole
from tele.model.frame import Frame, FrameKind
from tele.model.resources import SessionRecording
from tele.model.session import RecordingStart
from tele.testing import MemoryRecorder, MemoryRecording

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

#: Fails while this is shown.
FATAL = b"fatal"
COMMAND = "echo begin; sleep 0.3; echo fatal; sleep 0.5; echo after; exec sleep {}"


class Failing(MemoryRecording):
    """A recording that fails when it sees :data:`FATAL`."""

    def write(self, frame: Frame) -> None:
        if FATAL in frame.data and frame.kind is FrameKind.OUTPUT:
            raise RuntimeError("a mistake of the plugin")
        super().write(frame)


@implementer(IRecorder)
class FailingRecorder:
    """A recorder of a third party."""

    def open(self, start: RecordingStart) -> Deferred[IRecording]:
        return succeed(Failing(start))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def strict(cluster: SmallCluster) -> None:
    """Let the role of all users demand a recording."""
    role = cluster.reactor.wait(cluster.admin.perform(GET_ROLE, ByName("access")))
    options = evolve(role.spec.options, record=SessionRecording.STRICT)
    changed = evolve(role, spec=evolve(role.spec, options=options))
    cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, PutRole("access", changed)))


def recorders(good: MemoryRecorder) -> list[NamedRecorder]:
    return [NamedRecorder("good", good), NamedRecorder("third", FailingRecorder())]


def test_a_strict_session_ends_with_a_message(cluster: SmallCluster) -> None:
    """Its programs end, and a further command on the same connection does not run; the next
    connection is served, and the other recorder has all of it.
    """
    strict(cluster)
    good = MemoryRecorder()
    node = cluster.node(recorder=recorders(good))
    with TemporaryDirectory(dir="/tmp") as folder:  # a path that fits into a socket's address
        socket = f"{folder}/s"
        words = cluster.ssh_words("alice", node, "-M", "-S", socket, "-N", "127.0.0.1")
        cluster.start("ssh", *words)
        cluster.reactor.until(lambda: Path(socket).exists())
        done = cluster.ssh("alice", node, COMMAND.format(60), options=("-S", socket))
        assert done.returncode == 255
        assert done.stdout.startswith(b"begin\n")
        assert b"after" not in done.stdout
        cluster.reactor.until(lambda: not Path(socket).exists())
    (ended,) = cluster.wait_event("session.end")
    assert ended.fields["reason"] == "recording"
    assert ended.error == "the session cannot be recorded any more: the recorder third failed"
    (recording,) = good.recordings
    assert b"fatal\n" in [frame.data for frame in recording.frames]
    assert recording.closed == ended.error
    assert cluster.ssh("alice", node, "echo again").stdout == b"again\n"


def test_the_reason_is_shown(cluster: SmallCluster) -> None:
    """The client prints it."""
    strict(cluster)
    node = cluster.node(recorder=recorders(MemoryRecorder()))
    done = cluster.ssh("alice", node, COMMAND.format(60))
    assert done.returncode == 255
    assert b"the session cannot be recorded any more: the recorder third failed" in done.stderr


def test_any_other_session_goes_on(cluster: SmallCluster) -> None:
    """The audit says which recorder failed, and why; the other one has all of it."""
    good = MemoryRecorder()
    node = cluster.node(recorder=recorders(good))
    done = cluster.ssh("alice", node, COMMAND.format(0))
    assert (done.stdout, done.returncode) == (b"begin\nfatal\nafter\n", 0)
    (gap,) = cluster.wait_event("recording.gap")
    assert (gap.fields["recorder"], gap.fields["why"]) == ("third", "the recorder third failed")
    (recording,) = good.recordings
    shown = [f.data for f in recording.frames if f.kind is FrameKind.OUTPUT]
    assert b"".join(shown) == b"begin\nfatal\nafter\n"
