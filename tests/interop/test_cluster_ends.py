"""Whatever dies: each session that started has one end, and nothing runs for ever."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from cluster_users import events, local
from three_processes import Cluster, free_port, make_cluster, wait_for

SESSIONS = 10


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one test's own, whose node may be removed."""
    running = make_cluster(tmp_path_factory.mktemp("ends"))
    try:
        yield running
    finally:
        running.stop()


def listed(cluster: Cluster, *args: str) -> list[dict[str, Any]]:
    done = cluster.tele(*args, "ls", "--format", "json", *local(cluster))
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def open_sessions(cluster: Cluster, count: int) -> list[subprocess.Popen[bytes]]:
    """Start recorded sessions, and wait until auth knows of them all."""
    clients = [
        subprocess.Popen(
            ["ssh", "-tt", "-F", str(cluster.ssh_config), cluster.host, "echo begun; sleep 600"],
            env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]  # fmt: skip
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == b"begun\r\n"
    wait_for(lambda: len(listed(cluster, "sessions")) == count, "auth to know the sessions")
    wait_for(lambda: len(events(cluster, "session.start")) == count, "their starts in the audit")
    return clients


def end(clients: list[subprocess.Popen[bytes]]) -> None:
    for client in clients:
        client.kill()
        client.communicate()


def counted(cluster: Cluster, name: str) -> Counter[str]:
    return Counter(str(event["session_id"]) for event in events(cluster, name))


def all_ended(cluster: Cluster) -> bool:
    return counted(cluster, "session.start") == counted(cluster, "session.end")


def test_a_node_that_is_killed_and_started_again(cluster: Cluster) -> None:
    """After kill -9 with ten sessions each start has exactly one end with the reason, and no
    recording and no session is open.
    """
    clients = open_sessions(cluster, SESSIONS)
    try:
        cluster.kill("node")
    finally:
        end(clients)
    cluster.start("node")
    wait_for(lambda: all_ended(cluster), "an end for each start")
    assert {e["reason"] for e in events(cluster, "session.end")} == {"node_restarted"}
    wait_for(lambda: not listed(cluster, "sessions"), "no session to be listed")
    rows = listed(cluster, "recordings")
    assert len(rows) == SESSIONS
    wait_for(lambda: all(r["ended"] for r in listed(cluster, "recordings")), "all to have ended")
    cluster.ssh(cluster.host, "true")
    wait_for(lambda: all_ended(cluster), "an end for the next one, too")
    assert max(counted(cluster, "session.end").values()) == 1


def test_a_node_that_is_removed_while_it_is_dead(cluster: Cluster) -> None:
    """Sessions of a node that never reconnects have ended as soon as it is removed."""
    clients = open_sessions(cluster, 2)
    try:
        cluster.kill("node")
    finally:
        end(clients)
    cluster.tele("nodes", "rm", "web1", *local(cluster))
    wait_for(lambda: all_ended(cluster), "an end for each start")
    assert {e["reason"] for e in events(cluster, "session.end")} == {"node_removed"}
    wait_for(lambda: not listed(cluster, "sessions"), "no session to be listed")
    rows = listed(cluster, "recordings")
    assert all(row["ended"] and row["incomplete"] for row in rows), rows
    assert len(events(cluster, "recording.incomplete")) == 2


def test_auth_that_is_killed_meanwhile(cluster: Cluster) -> None:
    """Sessions that go on while auth is killed and started again are not ended by that."""
    clients = open_sessions(cluster, 2)
    try:
        cluster.kill("auth")
        cluster.start("auth")
        wait_for(cluster.online, "the node to be back")
        assert {s["status"] for s in listed(cluster, "sessions")} == {"running"}
        assert events(cluster, "session.end") == []
    finally:
        end(clients)
    wait_for(lambda: all_ended(cluster), "their ends")
    assert {e["ok"] for e in events(cluster, "session.end")} == {True}


def test_what_began_in_a_session_ends_before_it(cluster: Cluster) -> None:
    """A client that is killed leaves an end for each forward and agent, and then the session's."""
    port, agent = free_port(), cluster.folder / "agent"
    keys = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(agent.exists, "the agent")
    client = subprocess.Popen(
        [
            "ssh", "-tt", "-A", "-F", str(cluster.ssh_config), "-o", "ExitOnForwardFailure=yes",
            "-L", f"127.0.0.1:{port}:127.0.0.1:{cluster.ports['proxy']}", "-R", "127.0.0.1:0:h:1",
            cluster.host, "echo begun; sleep 600",
        ],
        env={**cluster.environment, "SSH_AUTH_SOCK": str(agent)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        while b"begun" not in client.stdout.readline():
            assert client.poll() is None
        with socket.create_connection(("127.0.0.1", port)):
            wait_for(lambda: len(events(cluster, "forward")) == 2, "both forwards in the audit")
    finally:
        end([client])
        keys.terminate()
        keys.wait()
    wait_for(lambda: all_ended(cluster), "the end of the session")
    for kind in ("forward", "agent"):
        assert len(events(cluster, kind)) == len(events(cluster, f"{kind}.end")), kind
    done = cluster.tele("audit", "ls", "--limit", "1000", "--format", "json", *local(cluster))
    names = [e["event"] for e in json.loads(done.stdout) if e["session_id"]]
    last = names.index("session.end")
    assert not {"forward", "forward.end", "agent", "agent.end", "exec"} & set(names[last + 1 :])
    assert "agent.end" in names
