"""A node and a proxy of twistd that are stopped by a signal, with sessions and without."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from three_processes import Cluster, wait_for

SECONDS = 60
# twistd ends in good order by the signal that it was sent.


@contextmanager
def session(cluster: Cluster, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A session that has begun and printed ``ready``."""
    client = subprocess.Popen(
        ["ssh", "-F", str(cluster.ssh_config), cluster.host, f"echo ready; {command}"],
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n", cluster.logs()
        yield client
    finally:
        client.kill()
        client.communicate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def stopped(cluster: Cluster, part: str) -> Iterator[subprocess.Popen[bytes]]:
    """``part`` after SIGTERM, no longer listening; started again at the end."""
    process = cluster.processes.pop(part)
    process.send_signal(signal.SIGTERM)
    try:
        wait_for(lambda: not listens(cluster.ports[part]), f"{part} to refuse connections")
        yield process
    finally:
        process.kill()
        process.wait()
        cluster.start(part)
        wait_for(lambda: cluster.ssh(cluster.host, "true", check=False).returncode == 0, "ssh")


@pytest.mark.parametrize("part", ["node", "proxy"])
def test_a_session_ends_by_itself(cluster: Cluster, part: str) -> None:
    """After SIGTERM a session continues, and when it ends the process does."""
    with session(cluster, "read word; echo got $word") as client, stopped(cluster, part) as process:
        assert client.poll() is None
        assert process.poll() is None
        out, err = client.communicate(b"it\n", SECONDS)
        assert (out, err, client.returncode) == (b"got it\n", b"", 0)
        assert process.wait(SECONDS) == -signal.SIGTERM, cluster.logs()


@pytest.mark.parametrize("part", ["node", "proxy"])
def test_a_second_signal_is_the_end(cluster: Cluster, part: str) -> None:
    """After a second signal it disconnects with a reason, and ends in good order."""
    with session(cluster, "sleep 1000") as client, stopped(cluster, part) as process:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = client.communicate(timeout=SECONDS)
        assert client.returncode == 255
        if part == "node":
            assert b"the node is shutting down" in err, err
        assert process.wait(SECONDS) == -signal.SIGTERM, cluster.logs()


def test_without_sessions_it_ends_at_once(cluster: Cluster) -> None:
    """Without sessions it ends at once."""
    with stopped(cluster, "node") as process:
        assert process.wait(SECONDS) == -signal.SIGTERM
        assert "draining" not in (cluster.folder / "node.log").read_text().split("serves")[-1]


def test_the_recording_of_a_session_that_was_hung_up_is_complete(cluster: Cluster) -> None:
    """What a session showed until the end is in a recording that is closed and verifies."""
    known = {one["id"] for one in recordings(cluster)}
    with session(cluster, "echo before the end; sleep 1000"), stopped(cluster, "node") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == -signal.SIGTERM, cluster.logs()

    def ended() -> list[str]:
        return [o["id"] for o in recordings(cluster) if o["id"] not in known and o["ended"]]

    wait_for(ended, "the recording", SECONDS)
    for found in ended():
        assert cluster.tele("recordings", "verify", found).returncode == 0
    shown = b"".join(cluster.tele("play", one, "--format", "text").stdout for one in ended())
    assert b"before the end" in shown


def recordings(cluster: Cluster) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(
        cluster.tele("recordings", "ls", "--format", "json").stdout
    )
    return found
