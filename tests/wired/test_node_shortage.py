"""What one user opens on a node is counted, given back, and refused when it is too much."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from small_cluster import ME, SmallCluster, SmallNode, small_cluster
from tele.capacity.descriptors import DescriptorBudget, shares_of
from tele.conch.session.programs import ProgramRequest, PtyRequest
from tele.errors import TeleError, Unavailable
from tele.sockets.direct import DirectConnector, DirectReactor
from test_node_forwards import VISIT, free_port, greeter
from test_node_programs import Node, node

__all__ = ["node"]

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


def budget_of(per_user: int) -> DescriptorBudget:
    """Return a budget in which one user may hold so many descriptors."""
    return DescriptorBudget(evolve(shares_of(1024), per_user=per_user))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with two users."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        made.person("bob", ME)
        yield made


def wait_given_back(cluster: SmallCluster, budget: DescriptorBudget) -> None:
    """Wait until no descriptor is held."""
    cluster.reactor.until(lambda: budget.held == 0)


# -- all that was taken is given back -------------------------------------------------
@pytest.mark.parametrize("options", [(), ("-tt",)])
@pytest.mark.parametrize("command", ["true", "exit 3", "kill -9 $$", "exec 1>&- 2>&-"])
def test_sessions_give_back(cluster: SmallCluster, options: tuple[str, ...], command: str) -> None:
    """However a session ends, with pipes or a terminal, its descriptors count no more after it."""
    budget = budget_of(40)
    node = cluster.node(budget=budget)
    cluster.ssh("alice", node, command, options=options)
    wait_given_back(cluster, budget)


def test_files_and_subsystems_give_back(cluster: SmallCluster) -> None:
    """A file transfer, and a subsystem that is not there."""
    budget = budget_of(40)
    node = cluster.node(budget=budget)
    cluster.run("sftp", *cluster.ssh_words("alice", node), "127.0.0.1", stdin=b"ls /\n")
    cluster.ssh("alice", node, "nothing", options=("-s",))
    wait_given_back(cluster, budget)


def test_forwards_give_back(cluster: SmallCluster, tmp_path: Path) -> None:
    """Ports and sockets in both directions, an agent, and what others connect to them with."""
    budget = budget_of(40)
    node = cluster.node(budget=budget)
    path = f"/tmp/tele-{os.getpid()}-{free_port()}"
    port, near = free_port(), free_port()
    with greeter() as (target, came):
        far = f"127.0.0.1:{target}"
        options = ("-A", "-R", f"{port}:{far}", "-R", f"{path}:{far}", "-L", f"{near}:{far}",
                   "-o", "ExitOnForwardFailure=yes")  # fmt: skip
        command = f"{VISIT} 127.0.0.1:{port}; {VISIT} {path}; {VISIT} 127.0.0.1:{near}"
        done = cluster.ssh("alice", node, command, options=options)
        assert done.stdout.count(b"hello") == 3, done
        assert len(came) == 3
    wait_given_back(cluster, budget)


def test_refused_forwards_give_back(cluster: SmallCluster) -> None:
    """A port without a listener, a path that does not exist, a name without an address."""
    budget = budget_of(40)
    node = cluster.node(budget=budget)
    for target in (f"127.0.0.1:{free_port()}", "/nowhere/at/all", "no-such-name.invalid:1"):
        near = free_port()
        options = ("-L", f"{near}:{target}", "-o", "ExitOnForwardFailure=yes")
        cluster.ssh("alice", node, f"{VISIT} 127.0.0.1:{near} 2>&1", options=options)
    wait_given_back(cluster, budget)


# -- what is too much is refused ------------------------------------------------------
def holding(cluster: SmallCluster, node: SmallNode, *words: str) -> subprocess.Popen[bytes]:
    """Start a client in the background."""
    words = tuple(cluster.ssh_words("alice", node, *words))
    return subprocess.Popen(["ssh", *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_one_user_over_all_connections(cluster: SmallCluster) -> None:
    """A user who holds a share on one connection gets nothing on another one, with a clear error
    and an event; another user does, and so does the first one as soon as the share is free.
    """
    budget = budget_of(12)
    node = cluster.node(budget=budget)
    held: list[subprocess.Popen[bytes]] = []
    try:
        for count in (5, 10):
            held.append(holding(cluster, node, "127.0.0.1", "sleep 600"))
            cluster.reactor.until(lambda count=count: budget.held_by("alice") == count)
        refused = cluster.ssh("alice", node, "true")
        assert refused.returncode != 0
        assert b"'alice' holds 11 of at most 12 file descriptors" in refused.stderr
        (event,) = [e for e in cluster.wait_event("exec", 3) if e.error]
        assert "file descriptors" in event.error
        assert cluster.ssh("bob", node, "echo in").stdout == b"in\n"
    finally:
        for client in held:
            client.kill()
            client.communicate()
    wait_given_back(cluster, budget)
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"


def test_a_login_too_many(cluster: SmallCluster) -> None:
    """When a user's share is used up, one more connection of theirs is refused, with an error."""
    budget = budget_of(5)
    node = cluster.node(budget=budget)
    account = budget.account("alice")
    lease = account.take(5)
    assert cluster.ssh("alice", node, "true").returncode == 255
    errors = [event.error for event in cluster.wait_event("auth.denied")]
    assert any("'alice' holds 5 of at most 5 file descriptors" in error for error in errors)
    lease.release()
    assert budget.held == 0


def test_unauthenticated_clients_at_a_port_of_a_user(cluster: SmallCluster) -> None:
    """Others who connect to a forwarded port use its user's share: beyond it they are closed."""
    budget = budget_of(12)
    node = cluster.node(budget=budget)
    port = free_port()
    with greeter() as (target, _):
        client = holding(cluster, node, "-N", "-R", f"{port}:127.0.0.1:{target}", "127.0.0.1")
        try:
            cluster.reactor.until(lambda: budget.held_by("alice") == 3)
            lease = budget.account("alice").take(8)
            sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
            try:
                cluster.wait_event("forward", 3)
                errors = [e.error for e in cluster.events("forward") if e.error]
            finally:
                for each in sockets:
                    each.close()
            assert len(errors) == 1
            assert "file descriptors" in errors[0]
            lease.release()
        finally:
            client.kill()
            client.communicate()
    wait_given_back(cluster, budget)


def test_a_name_with_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address that is tried counts: a name with a hundred of them is no way around a share."""

    class Resolver:
        """Knows a hundred addresses."""

        def resolveHostName(self, receiver: Any, *_: Any, portNumber: int, **__: Any) -> Any:
            receiver.resolutionBegan(self)
            for number in range(100):
                receiver.addressResolved(IPv4Address("TCP", f"192.0.2.{number}", portNumber))
            receiver.resolutionComplete()

    tried: list[DirectConnector] = []
    monkeypatch.setattr(DirectConnector, "connect", lambda self: tried.append(self))
    clock: Any = Clock()
    directlyProvides(clock, IReactorTime, IReactorPluggableNameResolver)
    clock.nameResolver = Resolver()
    budget = budget_of(3)
    direct: Any = DirectReactor(clock, take=budget.account("alice").take)
    endpoint = HostnameEndpoint(direct, "many.invalid", 9)
    failed: list[Failure] = []
    endpoint.connect(Factory.forProtocol(Protocol)).addErrback(failed.append)
    clock.pump([1.0] * 120)
    assert (len(tried), budget.held) == (3, 3)
    tried[0].connectionFailed(Failure(ConnectTimedOut()))
    tried[1].connectionLost(Failure(ConnectionDone()))
    assert budget.held == 1


# -- the spawner ----------------------------------------------------------------------
def limited(node: Node, more: int) -> tuple[int, int]:
    """Leave the spawner so many more descriptors; return its limits of before."""
    pid = node.spawning.pid
    assert pid is not None
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(100) if number not in taken]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[more], before[1]))
    return before


@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_spawner_without_descriptors(node: Node, more: int) -> None:
    """It says why it cannot start a session, at once, lives on, and starts them again later."""
    pid = node.spawning.pid
    assert pid is not None
    assert node.run(b"true")[2].status == 0
    held = node.budget.held
    before = limited(node, more)
    with pytest.raises(Unavailable, match=r"cannot start a process: .*(descriptors|open files)"):
        node.start(ProgramRequest("exec", b"true"))
    assert node.budget.held == held
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert node.run(b"echo again")[0] == b"again\n"
    assert node.spawning.pid == pid


@pytest.mark.parametrize("pty", [None, PtyRequest("xterm", 80, 24, 0, 0, ())])
def test_a_node_without_descriptors(
    node: Node, pty: PtyRequest | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that cannot be handed over is refused with the reason, and leaves nothing open."""
    before = set(os.listdir("/proc/self/fd"))

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", none_left)
        with pytest.raises(TeleError, match="cannot start a session: Too many open files"):
            node.start(ProgramRequest("exec", b"true", pty=pty))
    assert node.budget.held == 0
    assert set(os.listdir("/proc/self/fd")) == before
    assert not node.spawning._sessions


@pytest.mark.parametrize("code", [errno.ETOOMANYREFS, errno.ENOBUFS])
def test_a_kernel_without_room_for_messages(
    node: Node, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be sent now is sent later: the spawner is not taken for dead."""
    pid = node.spawning.pid
    tries: list[int] = []
    send = socket.send_fds

    def refuse_twice(*arguments: Any) -> int:
        tries.append(1)
        if len(tries) <= 2:
            raise OSError(code, os.strerror(code))
        return send(*arguments)

    monkeypatch.setattr(socket, "send_fds", refuse_twice)
    assert node.run(b"echo there")[0] == b"there\n"
    assert len(tries) >= 3
    assert node.spawning.pid == pid


def test_sessions_have_the_limit_that_the_node_was_given(node: Node) -> None:
    """A session begins with the soft and the hard limit that the node was started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert node.run(b"ulimit -Sn; ulimit -Hn")[0].split() == [b"%d" % soft, b"%d" % hard]


def test_starting_counts_for_both_ends(node: Node) -> None:
    """A session that has just enough to run, but not to start, does not."""
    node.budget = budget_of(5)
    with pytest.raises(Unavailable, match="holds 0 of at most 5"):
        node.start(ProgramRequest("exec", b"true"))
    node.budget = budget_of(6)
    program = node.start(ProgramRequest("exec", b"true"))
    assert node.budget.held == 4
    node.finish(program)
    program.descriptors_closed()
    assert node.budget.held == 0
