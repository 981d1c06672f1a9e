"""One user uses up what a node has; sessions of others continue, recorded in full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from three_processes import Cluster, free_port, make_cluster, wait_for

pytestmark = pytest.mark.skipif(
    not (shutil.which("ssh") and shutil.which("prlimit")), reason="needs OpenSSH and prlimit"
)


@pytest.fixture
def limit(request: pytest.FixtureRequest) -> int:
    """The node's LimitNOFILE."""
    value: int = request.param
    return value


@pytest.fixture
def alice(tmp_path: Path, limit: int) -> Iterator[Cluster]:
    """A cluster whose node has few descriptors, as its first user has it."""
    running = make_cluster(tmp_path, prefixes={"node": ["prlimit", f"--nofile={limit}:{limit}"]})
    try:
        yield running
    finally:
        running.stop()


def to_the_node(cluster: Cluster) -> list[str]:
    """Options of ssh that lead to the node itself, without the proxy."""
    said = (
        "ProxyCommand=none",
        "HostName=127.0.0.1",
        f"Port={cluster.ports['node']}",
        f"HostKeyAlias={cluster.host}",
        "ConnectTimeout=20",
    )
    return [arg for option in said for arg in ("-o", option)]


@contextmanager
def running_ssh(cluster: Cluster, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run OpenSSH's client beside the test."""
    client = subprocess.Popen(
        ["ssh", "-F", str(cluster.ssh_config), *to_the_node(cluster), *args, cluster.host],
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield client
    finally:
        client.send_signal(signal.SIGTERM)
        client.communicate(timeout=20)


def descriptors(cluster: Cluster) -> int:
    """Return how many descriptors the node has open."""
    return len(os.listdir(f"/proc/{cluster.processes['node'].pid}/fd"))


def recording_of(auditor: Cluster, user: str) -> list[dict[str, object]]:
    """Return the last recording of ``user`` as the frames that ``tele play`` prints."""

    def listed() -> list[dict[str, object]]:
        done = auditor.tele("recordings", "ls", "--format", "json")
        found: list[dict[str, object]] = json.loads(done.stdout)
        return [each for each in found if each["user"] == user and each["ended"]]

    wait_for(listed, f"a recording of {user}")
    name = str(listed()[0]["id"])
    done = auditor.tele("play", name, "--format", "json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def others_go_on(alice: Cluster, bob: Cluster) -> None:
    """Bob logs in, gets a terminal, and all that it shows is on his recording."""
    count = 20_000
    done = bob.ssh(*to_the_node(bob), "-tt", bob.host, f"seq 1 {count}; echo the end")
    shown = done.stdout.decode().split()
    assert shown == [str(number) for number in range(1, count + 1)] + ["the", "end"]
    frames = recording_of(alice, "bob")
    assert [frame for frame in frames if frame["frame"] == "gap"] == []
    text = "".join(str(frame.get("data", "")) for frame in frames if frame["frame"] == "output")
    assert text.split() == shown


@pytest.mark.parametrize("limit", [256], indirect=True)
def test_idle_connections(alice: Cluster, limit: int) -> None:
    """Idle connections without end: beyond a share they are refused, and no session or recording
    of others is touched; when they end new ones are accepted again.
    """
    bob = alice.person("bob", "access")
    before = descriptors(alice)
    with ExitStack() as stack:
        clients = []
        for number in range(60):
            # One after another: what is not logged in yet has a share of its own.
            mark = alice.folder / f"in.{number}"
            said = ("PermitLocalCommand=yes", f"LocalCommand=touch {mark}")
            args = [arg for option in said for arg in ("-o", option)]
            client = stack.enter_context(running_ssh(alice, "-N", *args))
            clients.append(client)
            wait_for(
                lambda mark=mark, client=client: mark.exists() or client.poll() is not None,
                "ssh to be accepted or refused",
            )
        assert 10 < sum(client.poll() is None for client in clients) <= 40
        taken = descriptors(alice)
        assert before + 20 < taken < limit - 64
        refused = alice.ssh(*to_the_node(alice), alice.host, "true", check=False)
        assert refused.returncode == 255
        others_go_on(alice, bob)
    wait_for(lambda: descriptors(alice) <= before + 2, "the descriptors to be closed", 60)
    assert alice.ssh(*to_the_node(alice), alice.host, "echo again").stdout == b"again\n"


def open_all(ports: Sequence[int], each: int) -> list[socket.socket]:
    """Open so many connections through each forwarded port."""
    made = []
    for port in ports:
        for _ in range(each):
            made.append(socket.create_connection(("127.0.0.1", port), timeout=60))
    return made


@pytest.mark.parametrize("limit", [256, 1024], indirect=True)
def test_a_thousand_forwards(alice: Cluster, limit: int) -> None:
    """A thousand forwarded connections of one user leave descriptors for all others, and those
    beyond the share wait.
    """
    bob = alice.person("bob", "access")
    before = descriptors(alice)
    with ExitStack() as stack:
        sink = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
        target = f"127.0.0.1:{sink.getsockname()[1]}"
        ports = [free_port() for _ in range(5)]
        for port in ports:
            stack.enter_context(running_ssh(alice, "-N", "-L", f"127.0.0.1:{port}:{target}"))
        for port in ports:
            wait_for(lambda at=port: answers(at), "ssh to forward")
        for each in open_all(ports, 200):
            stack.enter_context(each)

        def refused() -> list[str]:
            args = ("--event", "forward", "--limit", "2000", "--format", "json")
            events = json.loads(alice.tele("audit", "ls", *args).stdout)
            return [event["error"] for event in events if event["error"]]

        wait_for(lambda: descriptors(alice) > before + 20, "forwards", 120)
        others_go_on(alice, bob)
        assert before + 20 < descriptors(alice) < limit - 64
        assert refused() == []
    wait_for(lambda: descriptors(alice) <= before + 2, "the descriptors to be closed", 60)


def answers(port: int) -> bool:
    """Whether a port listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
