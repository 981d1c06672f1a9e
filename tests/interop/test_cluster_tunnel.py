"""What works with stock OpenSSH also works on a node that binds no port: the same tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_cluster_openssh
from three_processes import Cluster, make_cluster, wait_for
from web_route import terminal

globals().update(
    {name: test for name, test in vars(test_cluster_openssh).items() if name.startswith("test_")}
)

pytestmark = test_cluster_openssh.pytestmark


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three processes whose node knows only the proxy."""
    running = make_cluster(tmp_path_factory.mktemp("tunnel"), tunnel=True)
    try:
        yield running
    finally:
        running.stop()


def sockets_that_listen(pid: int) -> set[str]:
    """The TCP sockets of a process that listen, by inode."""
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(f"socket:[{fields[9]}]")
    own = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return listening & own


def test_the_node_has_no_port(cluster: Cluster) -> None:
    """``ss -ltn`` shows nothing of it."""
    assert sockets_that_listen(cluster.processes["node"].pid) == set()
    assert sockets_that_listen(cluster.processes["proxy"].pid)


@pytest.mark.parametrize("part", ["proxy", "node", "auth"])
def test_a_killed_part_restarts(cluster: Cluster, part: str) -> None:
    """Whichever is killed and restarted, clients get through again without help."""
    cluster.kill(part)
    cluster.start(part)

    def through() -> bool:
        done = cluster.ssh(cluster.host, "echo through", check=False)
        return done.stdout == b"through\n"

    wait_for(through, f"a route to the node\n{cluster.logs()}", 90)


def test_sessions_go_on_without_auth(cluster: Cluster) -> None:
    """A tunnel needs no auth: sessions begin, too, and events are delivered later."""
    cluster.kill("auth")
    assert cluster.ssh(cluster.host, "echo alone").stdout == b"alone\n"
    cluster.start("auth")

    def is_reported() -> bool:
        done = cluster.tele("audit", "ls", "--format", "json", check=False)
        return b"echo alone" in done.stdout

    wait_for(is_reported, "the event of the session", 60)


def test_a_page_gets_through(cluster: Cluster, tmp_path: Path) -> None:
    """The terminal of a page is on the node, with its size; the node is the one that was asked for,
    and its name is that of its certificate. Another login, or another node, is refused (attack).
    """
    found = terminal(cluster, "web1", tmp_path, "stty size; echo on-$((40+2)); exit 5\n")
    assert "17 91" in found["shown"]
    assert "on-42" in found["shown"]
    assert (found["exit"], found["name"]) == ({"status": 5, "signal": ""}, "web1")
    assert "refused" in terminal(cluster, "web1", tmp_path, "", login="daemon")["refused"]
    unknown = "6f1f8f0e-2b8f-4c55-9a2e-0d5d0c3a7f11"
    assert unknown in terminal(cluster, "", tmp_path, "", host_id=unknown)["refused"]
