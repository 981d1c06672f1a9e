"""A node that loses its power while sessions are recorded: at most the last second is lost.

The node's data is on an image behind a loop device, to which nothing is written because time
passes. Its file is copied while the node stands still: what only the page cache knows is not in the
copy. Then the node is killed, and another one begins on the copy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from three_processes import Cluster, make_cluster, wait_for

SESSIONS = 6
#: Seconds of what a session showed that may be gone: the one that is promised, and what the
#: machine of the tests takes to do what the node asked for.
LOST = 2.5


def loop_mounts() -> bool:
    """Whether images can be mounted here."""
    return os.geteuid() == 0 and all(
        shutil.which(name) for name in ("mkfs.ext4", "losetup", "mount", "ssh")
    )


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not loop_mounts(), reason="needs root, loop devices, ext4 and OpenSSH"),
]


def run(*words: str | Path) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace")
        if "loop device" in text or "failed to setup" in text or "permission" in text.lower():
            pytest.skip(f"images cannot be mounted here: {text.strip()}")
        raise AssertionError(f"{words}: {text}")


@define
class Disk:
    """An ext4 image ``file`` that is mounted at ``at``."""

    file: Path
    at: Path
    mounted: bool = field(default=False, init=False)

    def make(self, size: str) -> None:
        """Make an empty one."""
        run("truncate", "-s", size, self.file)
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.file)

    def mount(self) -> None:
        """Mount it, such that nothing is written because time passes."""
        self.at.mkdir(exist_ok=True)
        run("mount", "-o", "loop,commit=300", self.file, self.at)
        self.mounted = True
        self.at.chmod(0o700)

    def unmount(self) -> None:
        """Take it away, whatever has it open still: mount namespaces of others have it, too."""
        if self.mounted:
            run("umount", "--lazy", self.at)
            self.mounted = False


@define
class Machine:
    """A cluster whose node has a disk of its own, that can lose its power."""

    cluster: Cluster
    disk: Disk

    def lose_power(self) -> None:
        """Kill the node, and give the next one what its disk had at that moment."""
        copy = self.cluster.folder / "copy.img"
        # It stands still while the image is copied, so that the copy is of one moment.
        self.cluster.processes["node"].send_signal(signal.SIGSTOP)
        shutil.copyfile(self.disk.file, copy)
        self.cluster.kill("node")
        self.disk.unmount()
        copy.rename(self.disk.file)  # the old one is there as long as it is mounted anywhere
        self.disk.mount()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A running cluster, and its node's disk."""
    disk = Disk(tmp_path / "node.img", tmp_path / "node")
    running: Cluster | None = None
    try:
        disk.make("64M")
        disk.mount()
        running = make_cluster(tmp_path)
        yield Machine(running, disk)
    finally:
        if running is not None:
            running.stop()
        disk.unmount()


def times(text: bytes) -> list[float]:
    """The times in whole lines; start-up files of the account's shell may print other lines."""
    return [float(each) for each in re.findall(rb"^[0-9]+\.[0-9]+\r?$", text, re.MULTILINE)]


@define
class Shown:
    """A session that shows the time again and again, and the last time that its client saw."""

    process: subprocess.Popen[bytes]
    seen: float = 0.0

    def read(self, until: float) -> None:
        """Read what comes until the clock says ``until``."""
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) and self.seen < until:
            self.seen = max(self.seen, *times(line), 0.0)

    def end(self) -> None:
        """Read the rest."""
        out, _ = self.process.communicate()
        self.seen = max([self.seen, *times(out.rpartition(b"\n")[0])])


@pytest.mark.parametrize("auth_is_there", [True, False])
def test_a_power_cut_loses_at_most_the_last_second(
    machine: Machine, *, auth_is_there: bool
) -> None:
    """Recordings that ran are closed, whole and signed after it, with or without what auth had;
    nothing that was shown more than about a second before is missing, and none runs for ever.
    """
    alice = machine.cluster
    command = "stty -opost; while :; do date +%s.%N; sleep 0.1; done"
    words = ["ssh", "-tt", "-F", str(alice.ssh_config), alice.host, command]
    sessions = [
        Shown(
            subprocess.Popen(
                words,
                env=alice.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
        for _ in range(SESSIONS)
    ]
    try:
        for session in sessions:
            session.read(session.seen + 0.1)
        wait_for(lambda: len(listed(alice)) == SESSIONS, "auth to know of all sessions")
        if not auth_is_there:
            alice.kill("auth")
        moment = time.time() + 4 + os.urandom(1)[0] / 128
        for session in sessions:
            session.read(moment)
        machine.lose_power()
    finally:
        for session in sessions:
            session.process.kill()
            session.end()
    if not auth_is_there:
        alice.start("auth")
    alice.start("node")
    wait_for(lambda: all(row["complete"] for row in listed(alice)), "all to be closed", 60)
    assert len(listed(alice)) == SESSIONS
    ends = sorted(last_shown(alice, str(row["id"])) for row in listed(alice))
    for end, seen in zip(ends, sorted(each.seen for each in sessions), strict=True):
        assert end > seen - LOST, f"lost {seen - end:.1f} s\n{alice.logs()}"
    for row in listed(alice):
        done = alice.tele("recordings", "verify", str(row["id"]), "--format", "json")
        report = json.loads(done.stdout)
        assert (report["ok"], report["recovered"], report["missing"]) == (True, True, [])
    assert json.loads(alice.tele("sessions", "ls", "--format", "json").stdout) == []
    wait_for(
        lambda: not [each for each in (machine.disk.at / "spool").iterdir() if each.is_dir()],
        "the spool to be empty",
    )


def listed(alice: Cluster) -> list[dict[str, object]]:
    """Return the recordings that auth knows of."""
    found: list[dict[str, object]] = json.loads(
        alice.tele("recordings", "ls", "--format", "json").stdout
    )
    return found


def last_shown(alice: Cluster, recording_id: str) -> float:
    """Return the last time that a recording shows."""
    done = alice.tele("play", recording_id, "--format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    text = "".join(row["data"] for row in rows if row["frame"] == "output")
    return max(times(text.rpartition("\n")[0].encode()))
