"""Name servers and name services that do not answer delay only the user that needs them."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from small_cluster import ME, SmallCluster, SmallNode, small_cluster
from tele.certs.certificate import parse_certificate
from tele.certs.keys import parse_line
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.conch.connection.stream import open_stream
from tele.model.authority import AuthorityKind
from tele.outbound.dialer import dial
from tele.spawner.accounts import Refused
from tele.wire.fields import string, uint32

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

#: More than there are threads in Twisted's pool, and than a user has.
MANY = 100


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What is stuck continues at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def cluster(tmp_path: Path, stuck: threading.Event) -> Iterator[SmallCluster]:
    """A cluster with two users."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        made.person("mallory", ME)
        try:
            yield made
        finally:
            stuck.set()


def as_mallory(cluster: SmallCluster, node: SmallNode) -> Any:
    """A connection of Mallory's to ``node``."""
    line = (cluster.folder / "people" / "mallory-cert.pub").read_text()
    key = cluster.ssh_keys["mallory"]
    return connect(
        cluster.reactor,
        dial(cluster.reactor, f"127.0.0.1:{node.port}", 10),
        verify_host=HostVerifier(node.member.ssh_trust(AuthorityKind.HOST), (node.member.host_id,)),
        identity=ClientIdentity(key, parse_certificate(parse_line(line)), ME),
    )


def forward(connection: Any, host: str, port: int) -> Deferred[Any]:
    """Open a port forward, as ``ssh -W`` does."""
    target = string(host.encode()) + uint32(port) + string(b"127.0.0.1") + uint32(1)
    return open_stream(connection, b"direct-tcpip", target, Protocol())


def test_slow_names_of_a_user_delay_no_other_user(
    cluster: SmallCluster, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hundred names of one user unanswered, another logs in and has theirs (attack)."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def slow(host: Any, *args: Any, **named: Any) -> Any:
        if str(host).endswith(".slow.example"):
            asked.append(host)
            stuck.wait(60)
            raise socket.gaierror(-3, "no answer")
        return real(host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    node = cluster.node()
    connection = cluster.reactor.wait(as_mallory(cluster, node))
    refused: list[Any] = []
    for number in range(MANY):
        forward(connection, f"n{number}.slow.example", 80).addErrback(refused.append)
    cluster.reactor.until(lambda: len(asked) >= 4)
    done = cluster.ssh("alice", node, "echo in")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\n", b"")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet() -> None:
            with server.accept()[0] as client:
                client.sendall(b"hello\n")

        threading.Thread(target=greet).start()
        through = cluster.run(
            "ssh",
            *cluster.ssh_words("alice", node, "-W", f"localhost:{port}", "127.0.0.1"),
            stdin=b"",
        )
    assert through.stdout == b"hello\n", through.stderr
    assert len(asked) == 4, "one user's share"
    stuck.set()
    cluster.reactor.until(lambda: len(refused) == MANY)
    connection.transport.loseConnection()


def test_a_slow_account_of_a_user_delays_no_other_user(
    cluster: SmallCluster, stuck: threading.Event
) -> None:
    """While the name service does not answer for one user, another logs in (attack)."""
    asked: list[str] = []
    slow = True

    def look_up(login: str) -> None:
        # All are the same account here: the first are Mallory's.
        asked.append(login)
        if slow:
            stuck.wait(60)
            raise Refused("there is no such account")

    node = cluster.node(look_up=look_up)
    waiting: list[Any] = []
    for _ in range(30):
        as_mallory(cluster, node).addBoth(waiting.append)
    cluster.reactor.until(lambda: len(asked) == 4)
    slow = False
    done = cluster.ssh("alice", node, "echo in")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\n", b"")
    assert node.service._accounts.workers.running == 4
    stuck.set()
    cluster.reactor.until(lambda: len(waiting) == 30)
    for each in waiting:
        transport = getattr(each, "transport", None)
        if transport is not None:
            transport.loseConnection()
