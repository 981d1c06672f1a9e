"""Clocks that are set while everything runs: real processes, each with a date of its own.

libfaketime gives a process the date of a file; monotonic clocks stay as they are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from set_clocks import HOUR, LIBRARIES, clocked, set_clock
from three_processes import Cluster, make_cluster, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None or not LIBRARIES, reason="OpenSSH or faketime is not installed"
)


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "tunnel"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("clocks")
    made = make_cluster(folder, tunnel=request.param, prefixes=clocked(folder))
    try:
        yield made
    finally:
        made.stop()


def events(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    done = cluster.tele("audit", "ls", "--event", name, "--format", "json", check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    return found


def session_of(cluster: Cluster) -> str:
    """Return the id of the session on a terminal that runs, or nothing."""
    listed = cluster.tele("sessions", "ls", "--format", "json", check=False)
    found = [each["id"] for each in json.loads(listed.stdout or b"[]") if each["interactive"]]
    return found[0] if len(found) == 1 else ""


def is_complete(cluster: Cluster, recording_id: str) -> bool:
    """Whether auth has the whole recording, and it verifies."""
    return cluster.tele("recordings", "verify", recording_id, check=False).returncode == 0


@pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])
@pytest.mark.parametrize("part", ["node", "proxy", "auth"])
def test_a_clock_that_is_set_disturbs_nothing(cluster: Cluster, part: str, hours: int) -> None:
    """Whichever clock is set, and in which direction: sessions go on, new users log in,
    the node is online, the recording is complete and verifies, and the step is in the audit.
    """
    before = len(events(cluster, "clock.step"))
    mark = f"set-{part}-{hours}-{time.time_ns()}"
    running = subprocess.Popen(
        ["ssh", "-tt", "-F", str(cluster.ssh_config), cluster.host, "cat"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"first\n")
        running.stdin.flush()
        assert b"first" in running.stdout.readline()
        wait_for(lambda: session_of(cluster), "the session to be listed", 60)
        recording = session_of(cluster)
        set_clock(cluster.folder, part, hours * HOUR)
        wait_for(lambda: len(events(cluster, "clock.step")) > before, "the step in the audit", 60)
        running.stdin.write(mark.encode() + b"\n")
        running.stdin.flush()
        while mark.encode() not in running.stdout.readline():
            pass
        assert cluster.online()
        assert cluster.ssh(cluster.host, "echo here").stdout == b"here\n"
        running.communicate(b"\x04", timeout=60)
        wait_for(lambda: is_complete(cluster, recording), "the whole recording", 60)
        row = json.loads(cluster.tele("recordings", "show", recording, "--format", "json").stdout)
        assert row["started"] < row["ended"]
        shown = cluster.tele("play", recording, "--format", "text").stdout
        assert b"first" in shown
        assert mark.encode() in shown
        assert cluster.online()
        step = events(cluster, "clock.step")[-1]
        assert round(step["seconds"] / HOUR) == hours
        assert step["server_id"]
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                pipe.close()
        set_clock(cluster.folder, part, 0)
        wait_for(lambda: len(events(cluster, "clock.step")) > before + 1, "the step back", 60)
    assert cluster.tele("audit", "verify").returncode == 0
    wait_for(
        lambda: cluster.ssh(cluster.host, "true", check=False).returncode == 0, "ssh to work", 60
    )
