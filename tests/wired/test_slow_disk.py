"""A node on a disk that does not answer: who is in notices nothing, and others come in."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.protocol import ProcessProtocol

from small_cluster import ME, SmallCluster, small_cluster
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.resources import Metadata, Role

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@define
class SlowDisk:
    """Syncs that wait until the disk continues, with their callers."""

    goes_on: threading.Event = field(factory=threading.Event)
    waiting: list[str] = field(factory=list)

    def sync(self, descriptor: int) -> None:
        """Wait, as ``fsync`` does."""
        self.waiting.append(threading.current_thread().name)
        assert self.goes_on.wait(60)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    """A disk that is quick until :attr:`SlowDisk.goes_on` is cleared."""
    made = SlowDisk()
    made.goes_on.set()
    monkeypatch.setattr(os, "fsync", made.sync)
    monkeypatch.setattr(os, "fdatasync", made.sync)
    yield made
    made.goes_on.set()


@pytest.fixture
def cluster(tmp_path: Path, disk: SlowDisk) -> Iterator[SmallCluster]:
    """A cluster on that disk, with two users."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        made.person("bob", ME)
        try:
            yield made
        finally:
            disk.goes_on.set()


class Typing(ProcessProtocol):
    """A client that types to ``cat`` and reads the echo."""

    transport: Any

    def __init__(self) -> None:
        self.read = b""
        self.ended = False

    def outReceived(self, data: bytes) -> None:
        self.read += data

    def processEnded(self, reason: object) -> None:
        self.ended = True


def test_a_disk_that_waits_stops_no_session(cluster: SmallCluster, disk: SlowDisk) -> None:
    """While every sync waits, a session echoes, others log in and out, and their events arrive."""
    node = cluster.node()
    typing = Typing()
    args = cluster.ssh_words("alice", node, "127.0.0.1", "cat")
    reactor: Any = cluster.reactor
    process = reactor.spawnProcess(typing, "ssh", ["ssh", *args], env=os.environ)
    process.write(b"0")
    cluster.reactor.until(lambda: typing.read == b"0")
    disk.goes_on.clear()
    disk.waiting.clear()
    for number in range(1, 4):
        done = cluster.ssh("bob", node, "true")
        assert done.returncode == 0, done.stderr
        process.write(b"%d" % number)
        cluster.reactor.until(lambda number=number: typing.read.endswith(b"%d" % number))
    started = cluster.wait_event("session.start", 4)
    assert [event.user for event in started].count("bob") == 3
    cluster.reactor.until(lambda: bool(disk.waiting))
    assert threading.current_thread().name not in disk.waiting
    disk.goes_on.set()
    process.closeStdin()
    cluster.reactor.until(lambda: typing.ended)


def test_a_disk_that_waits_does_not_keep_rules_from_counting(
    cluster: SmallCluster, disk: SlowDisk
) -> None:
    """A new state counts at once, though the disk has not taken it yet; it does so in a thread."""
    node = cluster.node()
    disk.goes_on.clear()
    disk.waiting.clear()
    added = PutRole("new", Role(Metadata("new")))
    cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, added))

    def counts() -> bool:
        return any(role.metadata.name == "new" for role in node.member.state.roles)

    cluster.reactor.until(counts)
    cluster.reactor.until(lambda: "membership files" in disk.waiting)
    assert threading.current_thread().name not in disk.waiting
    disk.goes_on.set()
