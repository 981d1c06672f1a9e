"""Hundreds of connections at once through one ``ssh -L``."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from small_cluster import ME, SmallCluster, SmallNode, free_port, set_options, small_cluster
from tele.capacity.descriptors import DescriptorBudget, shares_of

COUNT = 600

pytestmark = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 8 * COUNT,
    reason="needs some thousand file descriptors",
)


class Greeter(Protocol):
    """Greets, and sends back what it receives."""

    def connectionMade(self) -> None:
        self.transport.write(b"hello\n")  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with enough descriptors for both ends of every connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with small_cluster(tmp_path) as made:
            made.person("alice", ME)
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def forwarded(cluster: SmallCluster, node: SmallNode) -> Iterator[int]:
    """A port that one ssh forwards to a greeter beyond the node."""
    factory: Any = Factory.forProtocol(Greeter)
    factory.noisy = False
    reactor: Any = cluster.reactor
    beyond = reactor.listenTCP(0, factory, interface="127.0.0.1", backlog=1024)
    port = free_port()
    target = f"127.0.0.1:{beyond.getHost().port}"
    arguments = cluster.ssh_words(
        "alice", node, "-N", "-L", f"127.0.0.1:{port}:{target}", "127.0.0.1"
    )
    process = cluster.start("ssh", *arguments)
    try:
        yield port
    finally:
        process.kill()
        cluster.reactor.until(lambda: process.poll() is not None)
        cluster.reactor.wait(beyond.stopListening())


class Clients:
    """Connections to the forwarded port, and what they received."""

    def __init__(self, cluster: SmallCluster, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self.made: list[socket.socket] = []
        self.got: dict[socket.socket, bytes] = {}

    def connect(self, port: int, count: int) -> None:
        """Open ``count`` more connections, in small groups: ssh's own queue is short."""

        def one() -> bool:
            try:
                made = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                return False  # ssh has not begun to listen
            made.setblocking(False)
            self.made.append(self._stack.enter_context(made))
            return True

        for number in range(count):
            self._cluster.reactor.until(one)
            if number % 20 == 0:
                self._cluster.reactor.turn(0.01)

    def greeted(self) -> int:
        """Return how many were greeted, or sent data back, by now."""
        for each in self.made:
            try:
                self.got[each] = self.got.get(each, b"") + each.recv(4096)
            except BlockingIOError:
                continue
        return sum(bool(data) for data in self.got.values())


def test_hundreds_of_connections_are_forwarded(cluster: SmallCluster) -> None:
    """As many as sshd takes: 600 through one client, each of which carries its own bytes."""
    node = cluster.node()
    with forwarded(cluster, node) as port, ExitStack() as stack:
        clients = Clients(cluster, stack)
        clients.connect(port, COUNT)
        cluster.reactor.until(lambda: clients.greeted() == COUNT)
        for number, each in enumerate(clients.made):
            each.send(b"%d\n" % number)
        expected = [b"hello\n%d\n" % number for number in range(COUNT)]

        def came_back() -> bool:
            clients.greeted()
            return [clients.got[each] for each in clients.made] == expected

        cluster.reactor.until(came_back)
    cluster.reactor.until(lambda: not len(node.service.avatars.slots))


@pytest.mark.parametrize("limit", ["role", "descriptors"])
def test_the_rest_waits(cluster: SmallCluster, limit: str) -> None:
    """With as many as a role allows, or the user's descriptors let be, the next ones are not
    refused: each is served when another one has ended.
    """
    most = 24
    if limit == "role":
        node = cluster.node()
        set_options(cluster, node, max_forwards=most)
    else:
        shares = shares_of(256)
        most = shares.per_user * 3 // 4
        node = cluster.node(budget=DescriptorBudget(shares))
    with forwarded(cluster, node) as port, ExitStack() as stack:
        clients = Clients(cluster, stack)
        clients.connect(port, 3 * most)
        waits = node.service.avatars.slots.waits
        cluster.reactor.until(lambda: waits("alice") == 2 * most)
        cluster.reactor.until(lambda: clients.greeted() == most)
        assert waits("alice") == 2 * most
        for each in list(clients.got):
            each.close()
            clients.made.remove(each)
        clients.got.clear()
        cluster.reactor.until(lambda: clients.greeted() == most)
        assert waits("alice") == most
    cluster.reactor.until(lambda: not len(node.service.avatars.slots))
