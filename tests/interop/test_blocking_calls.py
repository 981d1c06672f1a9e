"""Real parts with real clients: nothing that can wait for a disk or a name is done by a reactor."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define

from three_processes import Cluster, make_cluster, wait_for

PARTS = ("auth", "proxy", "node")
#: The recorder and its spool; and the log, which is written only while the pipe takes it.
ELSEWHERE = ("recording/", "log_stream.py")


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "tunnel"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster whose parts note what may block them."""
    folder = tmp_path_factory.mktemp("guarded")
    running = make_cluster(folder, tunnel=request.param, guarded=True)
    try:
        yield running
    finally:
        running.stop()


@define
class Notes:
    """What the guards of all parts note from now on."""

    cluster: Cluster
    starts: dict[str, int]

    @classmethod
    def of(cls, cluster: Cluster) -> Notes:
        """Begin to check."""
        return cls(cluster, {part: len(_notes(cluster, part)) for part in PARTS})

    def check(self, *parts: str) -> None:
        """Fail if one of ``parts`` made a call that may block."""
        for part in parts:
            found = [
                note
                for note in _notes(self.cluster, part)[self.starts[part] :]
                if not note["in"] or not note["in"][0].startswith(ELSEWHERE)
            ]
            assert found == [], f"{part} may block"


def _notes(cluster: Cluster, part: str) -> list[dict[str, list[str]]]:
    lines = (cluster.folder / f"{part}.blocking").read_text().splitlines()
    return [json.loads(line) for line in lines]


@contextmanager
def agent(socket: Path) -> Iterator[str]:
    """Run an agent without keys."""
    running = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        wait_for(socket.exists, "the agent")
        yield str(socket)
    finally:
        running.terminate()
        running.wait()


def test_no_call_that_blocks(cluster: Cluster, tmp_path: Path) -> None:
    """Log-ins, terminals, transfers, forwards, agents, new users, locks, lists and an absence of
    auth: once a part serves, its reactor reads and writes no file, and asks no name service.
    """
    notes = Notes.of(cluster)
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    assert cluster.ssh(cluster.host, "echo in").stdout == b"in\n"
    assert cluster.ssh("-tt", cluster.host, "echo in").stdout == b"in\r\n"
    cluster.client("scp", str(tmp_path / "sent"), f"{cluster.host}:{tmp_path}/got")
    with agent(tmp_path / "agent") as socket:
        forwards = ("-R", "0:127.0.0.1:1", "-R", f"{tmp_path}/r:127.0.0.1:1")
        agents = ("-A", "-o", f"IdentityAgent={socket}")
        listed = cluster.ssh(*agents, *forwards, cluster.host, "ssh-add -l; true")
        assert b"no identities" in listed.stdout
    bob = cluster.person("bob", "access")
    assert bob.ssh(cluster.host, "true").returncode == 0
    cluster.tele("locks", "add", "--user", "bob")
    assert bob.ssh(cluster.host, "true", check=False).returncode != 0
    for what in ("audit", "recordings", "users", "locks", "tokens"):
        cluster.tele(what, "ls")
    notes.check("auth")
    cluster.kill("auth")
    assert cluster.ssh(cluster.host, "echo alone").stdout == b"alone\n"
    cluster.start("auth")
    wait_for(cluster.online, "the node to be online again")
    notes.check("proxy", "node")
