"""Killing any part at any time: nothing acknowledged is lost, the living parts go on."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from three_processes import Cluster, wait_for


@pytest.mark.parametrize("part", ["auth", "proxy", "node"])
def test_a_killed_part_recovers(cluster: Cluster, part: str) -> None:
    """After kill -9 and a start, everything works as before, without help."""
    cluster.kill(part)
    cluster.start(part)
    wait_for(
        lambda: cluster.ssh(cluster.host, "true", check=False).returncode == 0,
        f"ssh to work after {part} came back",
        60,
    )
    assert cluster.tele("ls", "--format", "names").stdout == b"web1\n"


def test_sessions_go_on_without_auth(cluster: Cluster) -> None:
    """Running sessions and new ones need no auth; their recordings arrive later."""
    mark = f"offline-{time.time_ns()}"
    running = subprocess.Popen(
        ["ssh", "-F", str(cluster.ssh_config), cluster.host, "echo on; read x; echo got $x"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    cluster.kill("auth")
    try:
        out, _ = running.communicate(b"word\n", timeout=20)
        assert out == b"got word\n"
        assert cluster.ssh(cluster.host, f"echo {mark}").stdout == f"{mark}\n".encode()
    finally:
        running.kill()
        running.wait()
        cluster.start("auth")

    wait_for(lambda: recorded(cluster, mark), "the recording made while auth was away", 60)


def test_a_killed_node_loses_at_most_the_last_second(cluster: Cluster) -> None:
    """What a session showed until a second before the node died is replayed after its restart."""
    mark = f"killed-{time.time_ns()}"
    running = subprocess.Popen(
        ["ssh", "-tt", "-F", str(cluster.ssh_config), cluster.host, f"echo {mark}; sleep 60"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        assert mark.encode() in running.stdout.readline()
        time.sleep(2.0)
        cluster.kill("node")
        running.wait(20)
    finally:
        running.kill()
        running.communicate()
        cluster.start("node")
    wait_for(lambda: recorded(cluster, mark), "the recording of the killed node", 60)


def test_the_audit_chain_holds_through_it_all(cluster: Cluster) -> None:
    """Every event carries the hash of the one before, whatever was killed meanwhile."""
    done = cluster.tele("audit", "ls", "--limit", "10000", "--format", "json")
    events = sorted(json.loads(done.stdout), key=lambda e: e["time"])
    previous = {event["previous"] for event in events}
    heads = {event["hash"] for event in events}
    assert len(heads) == len(events)
    assert len(heads - previous) == 1


def recorded(cluster: Cluster, mark: str) -> bool:
    listed = cluster.tele("recordings", "ls", "--format", "json", check=False)
    if listed.returncode:
        return False
    return any(
        mark.encode() in cluster.tele("play", row["id"], "--format", "text", check=False).stdout
        for row in json.loads(listed.stdout)
        if row["ended"]
    )
