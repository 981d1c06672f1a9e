"""What is typed in real sessions is recorded if a role asks, and never a password."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from small_cluster import ME, SmallCluster, SmallNode, set_options, small_cluster
from tele.model.frame import FrameKind
from tele.testing.recorder import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

PASSWORD = "hunter2-secret"
#: Prompts for a password, as a shell, stty, and programs such as sudo make them.
PROMPTS = {
    "stty": "stty -echo; read -r secret; stty echo; echo got ${#secret}",
    "read": "bash -c 'read -rs secret; echo got ${#secret}'",
    "getpass": 'python3 -c \'import getpass; s = getpass.getpass("READY"); print("got", len(s))\'',
    # As sudo's pwfeedback and systemd-ask-password do: raw, with stars.
    "stars": "stty -echo -icanon; head -c 15 >/dev/null; stty echo icanon; echo got 14",
}


@define
class World:
    """A node whose recorder keeps all frames."""

    cluster: SmallCluster
    node: SmallNode
    recorder: MemoryRecorder

    def kinds(self, kind: FrameKind) -> bytes:
        """Return all bytes of a kind."""
        return b"".join(f.data for f in self.recorder.frames if f.kind is kind)

    def echoes(self) -> bool:
        """Whether the terminal echoes whose name was its first output."""
        name = self.kinds(FrameKind.OUTPUT).split()[0]
        slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
        try:
            return bool(termios.tcgetattr(slave)[3] & termios.ECHO)
        finally:
            os.close(slave)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster whose role asks for input."""
    with small_cluster(tmp_path) as cluster:
        cluster.person("alice", ME)
        recorder = MemoryRecorder()
        node = cluster.node(recorder=recorder)
        set_options(cluster, node, record_input=True)
        yield World(cluster, node, recorder)


@pytest.mark.parametrize("prompt", list(PROMPTS))
def test_a_password_is_not_recorded(world: World, prompt: str) -> None:
    """What is typed before and after it is; the recording says that something is left out, and not
    how much (attack: passwords read from recordings).
    """
    command = f"tty; cat >/dev/null; {PROMPTS[prompt]}; echo NEXT; cat >/dev/null"
    ssh = world.cluster.ssh_words("alice", world.node, "-tt", "127.0.0.1", command)
    user = subprocess.Popen(["ssh", *ssh], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    world.cluster.programs.append(user)
    assert user.stdin is not None
    for typed, is_time in (
        (b"before\n", lambda: b"\n" in world.kinds(FrameKind.OUTPUT)),
        (b"\4", lambda: b"before\n" in world.kinds(FrameKind.INPUT)),
        (f"{PASSWORD}\n".encode(), lambda: not world.echoes()),
        (b"after\n", lambda: b"NEXT" in world.kinds(FrameKind.OUTPUT) and world.echoes()),
        (b"\4", lambda: b"after\n" in world.kinds(FrameKind.INPUT)),
    ):
        world.cluster.reactor.until(is_time)
        user.stdin.write(typed)
        user.stdin.flush()
    world.cluster.wait_event("session.end")
    user.stdin.close()
    user.wait()
    assert b"got 14" in world.kinds(FrameKind.OUTPUT)
    inputs = world.kinds(FrameKind.INPUT)
    assert b"before\n" in inputs
    assert b"after\n" in inputs
    assert PASSWORD.encode() not in inputs
    assert not any(PASSWORD.encode() in f.data for f in world.recorder.frames)
    gaps = [json.loads(f.data) for f in world.recorder.frames if f.kind is FrameKind.GAP]
    assert [(gap["lost"], gap["reason"]) for gap in gaps] == [
        ({}, "input of a terminal is not recorded unless the terminal is known to echo")
    ]


def test_nothing_is_recorded_unless_a_role_asks(world: World) -> None:
    """Not even what echoes."""
    set_options(world.cluster, world.node, record_input=False)
    ssh = world.cluster.ssh_words("alice", world.node, "-tt", "127.0.0.1", "cat >/dev/null")
    world.cluster.run("ssh", *ssh, stdin=b"words\n\4")
    world.cluster.wait_event("session.end")
    assert world.kinds(FrameKind.INPUT) == b""
