"""Subsystems by plugin and by command line, for OpenSSH's client."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

import tele.plugins
from small_cluster import ME, SmallCluster, small_cluster
from tele.config.values import Chosen
from tele.embed import choose
from tele.errors import AccessDenied, InvalidInput
from tele.interfaces import ISubsystem, ISubsystemFactory, SubsystemSession, Surroundings
from tele.node.subsystems import by_name
from tele.plugins.commanding import CommandSubsystem

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tele" / "plugins"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@implementer(ISubsystem)
@frozen
class Refusing:
    """Refuses every session."""

    name: str = "refusing"

    def start(self, session: SubsystemSession) -> Deferred[Any]:
        """See :class:`ISubsystem`."""
        return fail(AccessDenied(f"not for {session.user}"))


@implementer(ISubsystem)
@frozen
class Broken:
    """Is a mistake."""

    name: str = "broken"

    def start(self, session: SubsystemSession) -> Deferred[Any]:
        """See :class:`ISubsystem`."""
        raise RuntimeError("a secret")


@implementer(IHalfCloseableProtocol)
class Flood(Protocol):
    """Writes without end, as fast as it may."""

    transport: Any
    written = 0

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.written += 65536
        self.transport.write(bytes(65536))

    def stopProducing(self) -> None:
        """See Twisted."""

    def readConnectionLost(self) -> None:
        """See Twisted."""

    def writeConnectionLost(self) -> None:
        self.transport.loseConnection()


@implementer(ISubsystem)
class Flooding:
    """Has one flood."""

    name = "flood"

    def __init__(self) -> None:
        self.flood = Flood()
        self.sessions: list[SubsystemSession] = []

    def start(self, session: SubsystemSession) -> Deferred[Any]:
        """See :class:`ISubsystem`."""
        self.sessions.append(session)
        return succeed(self.flood)


def test_the_example(
    cluster: SmallCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin of the documentation is found, made, and spoken with over ssh."""
    folder = tmp_path / "tele" / "plugins"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    monkeypatch.setattr(tele.plugins, "__path__", [*tele.plugins.__path__, str(folder)])
    surroundings = Surroundings(cluster.reactor, tmp_path)
    made = choose(ISubsystemFactory, Chosen("greeting", "Good morning"), surroundings)
    assert verifyObject(ISubsystem, made)
    node = cluster.node(subsystems=[made])
    done = cluster.ssh("alice", node, "greeting", stdin=b"one\ntwo\n", options=("-s",))
    assert (done.stdout, done.returncode) == (b"Good morning, alice\n" * 2, 0)
    (event,) = cluster.wait_event("subsystem")
    assert (event.fields["command"], event.ok) == ("greeting", True)


def test_a_command(cluster: SmallCluster, tmp_path: Path) -> None:
    """A command line of the configuration runs in the account's shell, as sshd's Subsystem."""
    surroundings = Surroundings(cluster.reactor, tmp_path)
    chosen = Chosen("command", "count tr a-z A-Z; echo $USER; exit 5")
    node = cluster.node(subsystems=[choose(ISubsystemFactory, chosen, surroundings)])
    done = cluster.ssh("alice", node, "count", stdin=b"abc\n", options=("-s",))
    assert (done.stdout, done.returncode) == (f"ABC\n{ME}\n".encode(), 5)


def test_what_is_refused(cluster: SmallCluster) -> None:
    """An unknown subsystem, a refusal and an internal error have different replies; the internal
    error is not shown.
    """
    node = cluster.node(subsystems=[Refusing(), Broken(), Flooding()])
    for name, expected in (
        ("unknown", b"no subsystem"),
        ("refusing", b"not for alice"),
        ("broken", b"could not be started"),
        ("../sftp", b"no subsystem"),
    ):
        done = cluster.ssh("alice", node, name, options=("-s",))
        assert expected in done.stderr
        assert b"secret" not in done.stderr
    done = cluster.ssh("alice", node, "flood", options=("-s", "-tt"))
    assert b"takes no terminal" in done.stdout + done.stderr


def test_a_client_that_leaves(cluster: SmallCluster) -> None:
    """A protocol that never stops is stopped when its client has gone, and waits before that."""
    flooding = Flooding()
    node = cluster.node(subsystems=[flooding])
    ended: list[object] = []
    flooding.flood.connectionLost = ended.append  # type: ignore[method-assign, assignment]
    words = cluster.ssh_words("alice", node, "-s", "127.0.0.1", "flood")
    client = subprocess.Popen(["ssh", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert client.stdout is not None
    try:
        cluster.reactor.until(lambda: flooding.flood.written >= 1 << 20)
        cluster.reactor.sleep(0.3)
        assert flooding.flood.written < 64 << 20  # it waits for a reader
    finally:
        client.kill()
        client.communicate()
    cluster.reactor.until(lambda: bool(ended))
    (session,) = flooding.sessions
    assert (session.user, session.login) == ("alice", ME)
    assert session.remote_addr.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", ["sftp", "", "a b", "x" * 200, "a\n", "-x"])
def test_names_that_cannot_be(name: str) -> None:
    """Nothing replaces ``sftp``, and a name is one word."""
    with pytest.raises(InvalidInput):
        by_name([CommandSubsystem(name, "true")])


def test_names_are_given_once() -> None:
    """Two subsystems of one name are a mistake of the configuration."""
    with pytest.raises(InvalidInput, match="two subsystems x"):
        by_name([CommandSubsystem("x", "true"), CommandSubsystem("x", "false")])


@pytest.mark.parametrize("arguments", ["", "name", "name ", " command"])
def test_commands_that_are_none(arguments: str, tmp_path: Path) -> None:
    """A command needs its name and its line."""
    with pytest.raises(InvalidInput):
        choose(ISubsystemFactory, Chosen("command", arguments), Surroundings(Clock(), tmp_path))
