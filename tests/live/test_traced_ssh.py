"""What OpenSSH's client has a node do is traced by the kernel, and is recorded."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from small_cluster import ME, SmallCluster, SmallNode, set_options, small_cluster
from tele.interfaces import ISessionTracer
from tele.model.api.audit import LIST_EVENTS, ListEvents
from tele.model.frame import FrameKind
from tele.model.trace import Handovers, TraceKind
from tele.plugins.kernel_tracing import PROGRAM, KernelTracer
from tele.testing import MemoryRecorder
from traced import tracing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
]
COMMAND, DISK, NETWORK = TraceKind.COMMAND, TraceKind.DISK, TraceKind.NETWORK


class World:
    """A cluster with a node that traces, and what it recorded."""

    def __init__(self, cluster: SmallCluster, program: Path = PROGRAM) -> None:
        self.cluster = cluster
        self.tracer = KernelTracer(cluster.reactor, program)
        self.recorder = MemoryRecorder()
        tracer: ISessionTracer = self.tracer
        self.node: SmallNode = cluster.node(tracer=tracer, recorder=self.recorder)

    def ssh(self, script: str, *kinds: TraceKind, **options: Any) -> bytes:
        """Run a script over ssh, traced by a role that asks for ``kinds``."""
        self.recorder.recordings.clear()
        set_options(self.cluster, self.node, enhanced_recording=kinds, **options)
        return self.cluster.ssh("alice", self.node, script).stdout

    def frames(self, kind: FrameKind) -> list[dict[str, Any]]:
        """Return the fields of recorded frames of one kind."""
        return [json.loads(each.data) for each in self.recorder.frames if each.kind is kind]

    def programs(self, *paths: str) -> list[dict[str, Any]]:
        """Return which of these programs were executed, in order: not what start-up files run."""
        return [
            each
            for each in self.frames(FrameKind.COMMAND)
            if each["action"] == "exec" and each["path"] in paths
        ]

    def wait_for(self, *argv: str) -> None:
        """Wait until the audit has that this was executed."""
        request = ListEvents(event="session.command", newest=True)

        def found() -> bool:
            listed = self.cluster.reactor.wait(self.cluster.admin.perform(LIST_EVENTS, request))
            return any(each.fields.get("argv") == list(argv) for each in listed.items)

        self.cluster.reactor.until(found)


@contextmanager
def world(folder: Path, program: Path = PROGRAM) -> Iterator[World]:
    with tracing():  # a machine that cannot trace skips
        pass
    with small_cluster(folder) as cluster:
        cluster.person("alice", ME)
        yield World(cluster, program)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One cluster for all that does not end its tracer."""
    with world(tmp_path_factory.mktemp("traced")) as made:
        yield made


def test_fifty_commands(traced: World) -> None:
    """Each command of a script is in the recording and in the audit, in order, with its end; when
    the client has its exit status all of it is recorded.
    """
    script = "".join(f"/bin/echo {number} >/dev/null; " for number in range(50)) + "/bin/false"
    traced.ssh(script, COMMAND)
    programs = traced.programs("/bin/echo", "/bin/false")
    assert [each["argv"] for each in programs] == [
        *(["/bin/echo", str(number)] for number in range(50)),
        ["/bin/false"],
    ]
    ends = {
        each["pid"]: each for each in traced.frames(FrameKind.COMMAND) if each["action"] == "exit"
    }
    assert [ends[each["pid"]]["status"] for each in programs] == ["0"] * 50 + ["1"]
    numbers = [each["number"] for each in traced.frames(FrameKind.COMMAND)]
    assert numbers == sorted(numbers)
    assert {each["executable"] for each in programs[1:-1]} == {"/usr/bin/echo"}
    traced.wait_for("/bin/false")


SERVER = """
import socket
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
address = server.getsockname()
client = socket.create_connection(address); accepted, _ = server.accept()
server.close(); socket.socket().connect_ex(address)
"""


def test_files_and_network(traced: World, tmp_path: Path) -> None:
    """Files that are written and read, connections that are accepted and refused."""
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    folder = tmp_path / "work"
    folder.mkdir()
    script = f"cd {folder}; echo x >a; mv a b; rm b; {sys.executable} -I -S {program}"
    traced.ssh(script, DISK, NETWORK)
    below = [
        (each["action"], os.path.basename(each["path"]), os.path.basename(each.get("to", "")))
        for each in traced.frames(FrameKind.DISK)
        if each["path"].startswith(f"{folder}/")
    ]
    assert below == [("create", "a", ""), ("rename", "a", "b"), ("unlink", "b", "")]
    network = [
        (each["action"], each.get("failed", ""))
        for each in traced.frames(FrameKind.NETWORK)
        if each["family"] == "inet"
    ]
    assert network == [
        ("bind", ""),
        ("listen", ""),
        ("connect", ""),
        ("accept", ""),
        ("connect", "ECONNREFUSED"),
    ]
    assert not traced.frames(FrameKind.COMMAND)


@pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed")
def test_sudo_and_what_is_left_running(traced: World) -> None:
    """What sudo runs is of the session, and so is what goes on when its client has gone."""
    marker = f"{os.getpid()}"
    traced.ssh(f"sudo -n /bin/echo {marker}", COMMAND)
    assert ["/bin/echo", marker] in [each["argv"] for each in traced.programs("/bin/echo")]
    traced.ssh(f"setsid nohup sh -c 'sleep 1; /bin/echo x{marker}' >/dev/null 2>&1 &", COMMAND)
    traced.wait_for("/bin/echo", f"x{marker}")


def test_two_sessions(traced: World) -> None:
    """Each session has its own commands only, and one whose role does not ask for it has none."""
    cluster, node = traced.cluster, traced.node
    set_options(cluster, node, enhanced_recording=(COMMAND,))
    words = [
        cluster.ssh_words("alice", node, "127.0.0.1", f"for i in 1 2 3; do /bin/echo {n}; done")
        for n in ("one", "two")
    ]
    running = [cluster.start("ssh", *each) for each in words]
    for each in running:
        cluster.reactor.until(lambda each=each: each.poll() is not None)
    cluster.wait_event("session.command")
    seen = []
    for recording in traced.recorder.recordings[-2:]:
        fields = [
            json.loads(each.data) for each in recording.frames if each.kind is FrameKind.COMMAND
        ]
        seen.append([each["argv"][1] for each in fields if each.get("path") == "/bin/echo"])
    assert sorted(seen) == [["one"] * 3, ["two"] * 3]


def test_what_is_handed_over(traced: World, tmp_path: Path) -> None:
    """A file that the next login obeys, written by a session, is told as that."""
    folder = tmp_path / ".ssh"
    folder.mkdir()
    traced.ssh(f"echo key >>{folder}/authorized_keys", DISK)
    assert [each["action"] for each in traced.frames(FrameKind.HANDOVER)] == ["authorized_keys"]


def test_a_role_that_forbids_it(traced: World, tmp_path: Path) -> None:
    """A session that hands something over ends, with all that it started (attack); one that does
    not goes on. Nothing that it does gets around it by the kinds that are recorded.
    """
    options = {"handovers": Handovers.DENY}
    assert traced.ssh("echo $((6 * 7))", COMMAND, **options) == b"42\n"
    folder = tmp_path / ".ssh"
    folder.mkdir()
    left = tmp_path / "left"
    script = f"setsid sh -c 'sleep 6; : >{left}' & ln -s {folder} {tmp_path}/x; sleep 60"
    assert traced.ssh(f"{script}; echo late", NETWORK, **options) == b""
    (frame,) = traced.frames(FrameKind.HANDOVER)
    assert (frame["action"], frame["path"]) == ("authorized_keys", str(folder))
    events = traced.cluster.wait_event("session.end", 2)
    assert any(each.fields.get("reason") == "handover" for each in events)
    traced.cluster.reactor.wait(deferLater(traced.cluster.reactor, 6.5))
    assert not left.exists()


def test_repeated_opens(traced: World, tmp_path: Path) -> None:
    """The first is listed, and the rest are counted until the program ends."""
    path = tmp_path / "again"
    path.write_text("x")
    script = f"i=0; while [ $i -lt 50 ]; do i=$((i+1)); : <{path}; done"
    traced.ssh(script, DISK, count_repeated_opens=True)
    opens = [each for each in traced.frames(FrameKind.DISK) if each["path"] == str(path)]
    assert opens[0].get("times") is None
    assert sum(each.get("times", 1) for each in opens) == 50
    assert len(opens) < 10


SMALL = """
import os, sys
words = [sys.executable, "-I", "-S", {program!r}, *sys.argv[1:3]]
os.execv(sys.executable, [*words, '{{"command_buffer": 4096, "event_buffer": 4096}}'])
"""


def test_a_loss_ends_a_strict_session(tmp_path: Path) -> None:
    """What is lost is a gap with its numbers; a role with ``record: strict`` ends the session."""
    program = tmp_path / "small.py"
    program.write_text(SMALL.format(program=str(PROGRAM)))
    with world(tmp_path, program) as made:
        loop = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); : </etc/hostname; done; echo ended"
        assert made.ssh(loop, DISK) == b"ended\n"
        gaps = made.frames(FrameKind.GAP)
        assert gaps
        assert all("lost" in each["reason"] for each in gaps)
        made.cluster.wait_event("recording.gap")


def test_system_calls_by_name(traced: World) -> None:
    """Those that a role names are recorded one by one, and all are counted; a name that the machine
    does not know starts nothing.
    """
    kinds = (TraceKind.SYSCALLS,)
    assert traced.ssh("exec /bin/uname -s", *kinds, traced_syscalls=("uname",)) == b"Linux\n"
    frames = traced.frames(FrameKind.SYSCALLS)
    assert [each["result"] for each in frames if each["action"] == "uname"] != []
    assert any(
        count["name"] == "uname"
        for each in frames
        if each["action"] == "counts"
        for count in each["counts"]
    )
    assert traced.ssh("echo started", *kinds, traced_syscalls=("no_such_call",)) == b""
