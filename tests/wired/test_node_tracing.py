"""A tracer of a third party on a real node, for OpenSSH's client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

import tele.plugins
from small_cluster import ME, SmallCluster, set_options, small_cluster
from tele.config.values import Chosen
from tele.embed import choose
from tele.interfaces import (
    ISessionTracer,
    ISessionTracerFactory,
    ISubsystemFactory,
    Surroundings,
)
from tele.model.frame import FrameKind
from tele.model.trace import TraceKind
from tele.testing import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tele" / "plugins"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def test_the_example(
    cluster: SmallCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tracer of the documentation is found and made; what it sees is on the recording and in
    the audit, auth lists what it can do, and for a role that wants more nothing starts.
    """
    folder = tmp_path / "tele" / "plugins"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    monkeypatch.setattr(tele.plugins, "__path__", [*tele.plugins.__path__, str(folder)])
    surroundings = Surroundings(cluster.reactor, tmp_path)
    made = choose(ISessionTracerFactory, Chosen("first"), surroundings)
    assert verifyObject(ISessionTracer, made)
    recorder = MemoryRecorder()
    node = cluster.node(tracer=made, recorder=recorder)
    (host,) = cluster.hosts()
    assert host.tracing == (TraceKind.COMMAND,)
    assert host.untraced == "the tracer 'first' sees programs only"

    assert cluster.ssh("alice", node, "echo untraced").returncode == 0
    set_options(cluster, node, enhanced_recording=(TraceKind.COMMAND,))
    done = cluster.ssh("alice", node, "echo $((6 * 7)); read x", stdin=b"\n")
    assert (done.stdout, done.returncode) == (b"42\n", 0)
    (event,) = cluster.wait_event("session.command")
    assert event.user == "alice"
    assert event.fields["argv"][-1] == "echo $((6 * 7)); read x"
    frames = [each for each in recorder.frames if each.kind is FrameKind.COMMAND]
    (frame,) = (json.loads(each.data) for each in frames)
    assert frame["argv"] == event.fields["argv"]

    set_options(cluster, node, enhanced_recording=(TraceKind.COMMAND, TraceKind.NETWORK))
    done = cluster.ssh("alice", node, "echo not started")
    assert (done.stdout, done.returncode) == (b"", 254)
    refused = [each for each in cluster.wait_event("exec", 3) if not each.ok]
    assert "network: the tracer 'first' sees programs only" in refused[0].error


def test_what_runs_in_the_node_cannot_be_traced(
    cluster: SmallCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subsystem of a plugin has no process of its own: it does not start (attack)."""
    folder = tmp_path / "tele" / "plugins"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    monkeypatch.setattr(tele.plugins, "__path__", [*tele.plugins.__path__, str(folder)])
    surroundings = Surroundings(cluster.reactor, tmp_path)
    node = cluster.node(
        tracer=choose(ISessionTracerFactory, Chosen("first"), surroundings),
        subsystems=[choose(ISubsystemFactory, Chosen("greeting"), surroundings)],
    )
    set_options(cluster, node, enhanced_recording=(TraceKind.COMMAND,))
    done = cluster.ssh("alice", node, "greeting", stdin=b"one\n", options=("-s",))
    assert done.stdout == b""
    (event,) = cluster.wait_event("subsystem")
    assert "cannot be traced" in event.error


def test_a_node_without_a_tracer_says_so(cluster: SmallCluster, tmp_path: Path) -> None:
    """What a role demands and the node cannot do is refused, with the key to change."""
    surroundings = Surroundings(cluster.reactor, tmp_path)
    made = choose(ISessionTracerFactory, Chosen("none"), surroundings)
    node = cluster.node(tracer=made)
    set_options(cluster, node, enhanced_recording=(TraceKind.DISK,))
    done = cluster.ssh("alice", node, "echo not started")
    assert (done.stdout, done.returncode) == (b"", 254)
    (event,) = cluster.wait_event("exec")
    assert "node.tracer: none" in event.error
