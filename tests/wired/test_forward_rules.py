"""What roles allow and deny to forward, for OpenSSH's client on a real node, by destination."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from own_display import own_authority
from small_cluster import ME, SmallCluster, SmallNode, free_port, set_role, small_cluster
from tele.model.actions import ForwardRules
from test_node_forwards import VISIT, agent, greeter, running

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tele-test-", dir="/tmp") as made:
        yield Path(made)


def reach(
    cluster: SmallCluster, node: SmallNode, target: str
) -> subprocess.CompletedProcess[bytes]:
    """Connect by ``ssh -W``."""
    return cluster.ssh("alice", node, options=("-W", target))


def forwards(cluster: SmallCluster, node: SmallNode, **rules: object) -> None:
    """Have the role allow this to be forwarded."""
    set_role(cluster, node, {"forward": ForwardRules(**rules)})  # type: ignore[arg-type]


def test_destinations(cluster: SmallCluster) -> None:
    """A host is reached by what the role names: by its address, or a name with that address. What
    it does not name, and what it denies, is not, however it is written; the user is told that it is
    not allowed, and the audit why (attack).
    """
    node = cluster.node()
    with greeter() as (good, _), greeter() as (bad, _):
        forwards(cluster, node, local=(f"127.0.0.0/8:{good}",))
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            done = reach(cluster, node, f"{host}:{good}")
            assert done.stdout == b"hello", (host, done)
        for target in (f"127.0.0.1:{bad}", f"[::1]:{good}", f"web.invalid:{bad}"):
            done = reach(cluster, node, target)
            assert (done.stdout, b"not allowed" in done.stderr) == (b"", True), (target, done)
            assert b"127.0.0.0/8" not in done.stderr
        deny = {"forward": ForwardRules(local=(f"127.0.0.0/8:{bad}",))}
        set_role(cluster, node, {"forward": ForwardRules(local=("*:*",))}, deny)
        assert reach(cluster, node, f"localhost:{good}").stdout == b"hello"
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "127.2.3.4"):
            done = reach(cluster, node, f"{host}:{bad}")
            assert (done.stdout, b"not allowed" in done.stderr) == (b"", True), (host, done)
    refused = [event for event in cluster.wait_event("forward", 13) if event.error]
    assert len(refused) == 9
    assert all("access allow" in event.error and "127.0.0.0/8" in event.error for event in refused)


def test_listeners(cluster: SmallCluster) -> None:
    """The node listens on the ports that the role names, and ends those that it no longer does."""
    node = cluster.node()
    good, bad = free_port(), free_port()
    forwards(cluster, node, remote=(f"localhost:{good}",))
    with greeter() as (target, _):
        words = cluster.ssh_words(
            "alice", node, "-N", "-R", f"{good}:127.0.0.1:{target}",
            "-R", f"{bad}:127.0.0.1:{target}", "-R", f"0:127.0.0.1:{target}",
            "-L", f"{free_port()}:127.0.0.1:{target}", "127.0.0.1",
        )  # fmt: skip
        with running(*words):
            asked = cluster.wait_event("forward", 3)
            visit = cluster.run("sh", "-c", f"{VISIT} 127.0.0.1:{good}")
            assert visit.stdout == b"hello\n", visit
            made = {event.fields["asked"]: event.error for event in asked if event.error}
            assert {*made} == {f"localhost:{bad}", "localhost:0"}
            assert all("not allowed" in error for error in made.values())
            forwards(cluster, node, remote=(f"localhost:{bad}",))
            ended = cluster.wait_event("forward.end", 2)
            assert "tcpip-forward" in [event.fields["kind"] for event in ended]
    done = reach(cluster, node, f"127.0.0.1:{target}")
    assert b"not allowed" in done.stderr, "what the role does not name is forbidden"


def test_sockets(cluster: SmallCluster, short: Path) -> None:
    """A socket is reached, and made, where the role says; a link leads to no other (attack)."""
    node = cluster.node()
    for each in ("open", "shut"):
        (short / each).mkdir()
    (short / "open" / "link").symlink_to("../shut/socket")
    (short / "open" / "out").symlink_to("../shut")
    forwards(cluster, node, streamlocal=(f"{short.resolve()}/open/**",))
    near = {name: short / name for name in "abcd"}
    there = ("open/socket", "open/link", "open/../shut/socket", "open/out/socket")
    with greeter(str(short / "open/socket")), greeter(str(short / "shut/socket")) as (_, came):
        local = [
            word
            for mine, path in zip(near.values(), there, strict=True)
            for word in ("-L", f"{mine}:{short}/{path}")
        ]
        made = ("open/made", "shut/made", "open/out/made")
        remote = [word for path in made for word in ("-R", f"{short}/{path}:{short}/open/socket")]
        words = cluster.ssh_words("alice", node, "-N", *local, *remote, "127.0.0.1")
        with running(*words):
            cluster.wait_event("forward", 3)
            visits = [cluster.run("sh", "-c", f"{VISIT} {each}") for each in near.values()]
            assert [each.stdout for each in visits] == [b"hello\n", b"\n", b"\n", b"\n"]
            visit = cluster.run("sh", "-c", f"{VISIT} {short}/open/made")
            assert visit.stdout == b"hello\n", visit
            assert sorted(each.name for each in (short / "shut").iterdir()) == ["socket"]
    assert not came
    events = cluster.wait_event("forward", 8)
    refused = [event for event in events if event.error]
    assert len(refused) == 5
    assert all("not allowed" in event.error for event in refused)


def test_agent(cluster: SmallCluster, short: Path) -> None:
    """A role that names its forwards has to name the agent; a denial takes it from all roles."""
    node = cluster.node()
    with agent(short) as (path, _):
        for rules, deny, given in (
            (ForwardRules(local=("*:*",)), ForwardRules(), False),
            (ForwardRules(agent=True), ForwardRules(), True),
            (ForwardRules(agent=True), ForwardRules(agent=True), False),
        ):
            set_role(cluster, node, {"forward": rules}, {"forward": deny})
            done = cluster.ssh(
                "alice", node, "echo ${SSH_AUTH_SOCK:+given}",
                options=("-A", "-o", f"IdentityAgent={path}"),
            )  # fmt: skip
            assert done.stdout == (b"given\n" if given else b"\n"), done


@pytest.mark.skipif(not shutil.which("xauth"), reason="xauth is not installed")
def test_display(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that allows the display gives it; a denial takes it from all."""
    node = cluster.node()
    monkeypatch.setenv("DISPLAY", ":77")
    for rules, deny, given in (
        (ForwardRules(x11=True), ForwardRules(), True),
        (ForwardRules(x11=True), ForwardRules(x11=True), False),
        (ForwardRules(agent=True), ForwardRules(), False),
    ):
        set_role(cluster, node, {"forward": rules}, {"forward": deny})
        cluster.certify("alice")  # the certificate has to say it, too
        with own_authority():
            done = cluster.ssh("alice", node, "echo ${DISPLAY:+given}", options=("-Y",))
        assert done.stdout == (b"given\n" if given else b"\n"), done


class Holder:
    """A server that keeps the connections of its clients."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.taken: list[socket.socket] = []

    def take(self, cluster: SmallCluster) -> socket.socket:
        """Return the next client, which sent a byte."""
        self._server.settimeout(0)

        def came() -> bool:
            try:
                self.taken.append(self._server.accept()[0])
            except BlockingIOError:
                return False
            return True

        cluster.reactor.until(came)
        return self.taken[-1]


@contextmanager
def holder(address: str | tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[tuple[Holder, int]]:
    """Yield a server, and its port."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as server:
        server.bind(address)
        server.listen()
        made = Holder(server)
        try:
            yield made, 0 if isinstance(address, str) else server.getsockname()[1]
        finally:
            for each in made.taken:
                each.close()


def has_ended(taken: socket.socket) -> bool:
    """Whether the other end has closed a connection."""
    taken.settimeout(0)
    try:
        return taken.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_what_is_open_ends_with_its_permission(cluster: SmallCluster, short: Path) -> None:
    """A role that gives less closes what is open and not given any more: to a port, to a socket and
    to the client, and the audit says why; what it still gives goes on (attack).
    """
    node = cluster.node()
    path, mine = str(short / "there"), str(short / "mine")
    every = ForwardRules(local=("*:*",), remote=("*:*",), streamlocal=("/**",))
    set_role(cluster, node, {"forward": every})
    ports = [free_port() for _ in range(3)]
    with holder() as (kept, good), holder() as (lost, bad), holder(path) as (local, _):
        words = cluster.ssh_words(
            "alice", node, "-N", "-L", f"{ports[0]}:127.0.0.1:{good}",
            "-L", f"{ports[1]}:127.0.0.1:{bad}", "-L", f"{mine}:{path}",
            "-R", f"{ports[2]}:127.0.0.1:{good}", "127.0.0.1",
        )  # fmt: skip
        with running(*words), contextlib.ExitStack() as clients:
            cluster.wait_event("forward", 1)

            def visit(where: str | int) -> None:
                family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
                client = clients.enter_context(socket.socket(family))
                client.connect(where if isinstance(where, str) else ("127.0.0.1", where))

            visit(ports[0])
            stays = kept.take(cluster)
            visit(ports[2])
            from_node = kept.take(cluster)
            visit(ports[1])
            to_port = lost.take(cluster)
            visit(mine)
            to_path = local.take(cluster)
            cluster.wait_event("forward", 5)
            less = ForwardRules(local=(f"127.0.0.0/8:{good}",))
            set_role(cluster, node, {"forward": less})
            for ending in (to_port, to_path, from_node):
                cluster.reactor.until(lambda ending=ending: has_ended(ending))
            assert not has_ended(stays)
            ends = cluster.wait_event("forward.end", 4)
    kinds = {event.fields["kind"] for event in ends if "a role has changed" in event.error}
    assert kinds == {"direct-tcpip", "direct-streamlocal", "forwarded-tcpip"}
