"""What OpenSSH's clients and rsync copy is on the recording and in the audit, file by file."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from small_cluster import ME, SmallCluster, SmallNode, set_options, small_cluster
from tele.model.frame import FrameKind
from tele.testing.recorder import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("scp") is None, reason="OpenSSH is not installed")

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SERVERS = tuple(
    f"/usr/{each}/sftp-server" for each in ("lib/openssh", "libexec/openssh", "lib/ssh")
)
SFTP_SERVER = next(filter(os.path.exists, SERVERS), None)


@define
class World:
    """A node whose recorder keeps all frames, and a folder on either side."""

    cluster: SmallCluster
    node: SmallNode
    recorder: MemoryRecorder
    here: Path
    there: Path

    @property
    def options(self) -> list[str]:
        """How OpenSSH's clients log in."""
        return self.cluster.ssh_words("alice", self.node)

    def run(
        self, program: str, *words: str, stdin: bytes | None = None, fails: bool = False
    ) -> Any:
        """Run a client to its end, and wait for that of its session."""
        ended = len(self.cluster.events("session.end"))
        done = self.cluster.run(program, *words, stdin=stdin)
        assert bool(done.returncode) is fails, done.stderr
        self.cluster.wait_event("session.end", ended + 1)
        return done

    def frames(self, kind: FrameKind) -> list[dict[str, Any]]:
        """Return what frames of a kind say."""
        return [json.loads(f.data) for f in self.recorder.frames if f.kind is kind]

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """Return fields of all transfers, which have to be events, too."""
        transfers = self.frames(FrameKind.TRANSFER)
        for protocol in {each["protocol"] for each in transfers}:
            frames = [each for each in transfers if each["protocol"] == protocol]
            events = self.cluster.wait_event(protocol, len(frames))
            told = [{k: v for k, v in e.fields.items() if k != "channel"} for e in events]
            assert told == frames
        return [tuple(each.get(name) for name in names) for each in transfers]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster with a user, a node and folders."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        folder.chmod(0o777)
    (here / "file").write_bytes(CONTENT)
    (here / "file").chmod(0o640)
    with small_cluster(tmp_path / "cluster") as cluster:
        cluster.person("alice", ME)
        recorder = MemoryRecorder()
        yield World(cluster, cluster.node(recorder=recorder), recorder, here, there)


KEYS = ("op", "direction", "bytes", "mode", "sha256", "result")


@pytest.mark.parametrize("old", [(), ("-O",)], ids=["sftp", "scp"])
def test_scp_both_ways(world: World, old: tuple[str, ...]) -> None:
    """By both of its protocols, with -p and -r, a copy is told file by file."""
    tree = world.here / "tree"
    tree.mkdir()
    (tree / "one").write_bytes(b"1")
    (tree / "one").chmod(0o600)
    target = f"127.0.0.1:{world.there}"
    world.run("scp", *world.options, *old, "-p", str(world.here / "file"), f"{target}/copy")
    world.run("scp", *world.options, *old, "-p", f"{target}/copy", str(world.here / "back"))
    world.run("scp", *world.options, *old, "-r", str(tree), target)
    assert (world.here / "back").read_bytes() == CONTENT
    told = world.told(*KEYS)
    assert ("write", "upload", 300_000, "0640", SHA256, "ok") in told
    assert ("read", "download", 300_000, "0640", SHA256, "ok") in told
    one = hashlib.sha256(b"1").hexdigest()
    assert ("write", "upload", 1, "0600", one, "ok") in told
    assert len([each for each in told if each[0] in ("read", "write")]) == 3
    assert [op for op, *_ in told].count("mkdir") == 1
    paths = [str(each) for each in world.told("path", "to")]
    assert any("copy" in each for each in paths)
    assert any("tree/one" in each for each in paths)


def test_sftp_with_all_that_changes(world: World) -> None:
    """OpenSSH's sftp: files, names, folders, modes; what fails is told with the error."""
    here, there = world.here, world.there
    batch = (
        f"put {here}/file {there}/a", f"get {there}/a {here}/b", f"rename {there}/a {there}/c",
        f"chmod 600 {there}/c", f"mkdir {there}/d", f"ln {there}/c {there}/e", f"rm {there}/c",
        f"rmdir {there}/d", f"-rm {there}/c", f"-get {there}/c {here}/c",
    )  # fmt: skip
    world.run("sftp", *world.options, "-b", "-", "127.0.0.1", stdin="\n".join(batch).encode())
    told = world.told("op", "path", "result")
    for op, name, result in (
        ("write", "a", "ok"), ("read", "a", "ok"), ("rename", "a", "ok"), ("setstat", "c", "ok"),
        ("mkdir", "d", "ok"), ("link", "c", "ok"), ("remove", "c", "ok"), ("rmdir", "d", "ok"),
        ("remove", "c", "no such file"),
    ):  # fmt: skip
        assert (op, f"{there}/{name}", result) in told
    hashes = [each for each in world.told(*KEYS) if each[0] in ("read", "write")]
    assert [each[4] for each in hashes] == [SHA256, SHA256]


@pytest.mark.skipif(SFTP_SERVER is None, reason="OpenSSH's sftp-server is not installed")
def test_a_file_server_under_another_name(world: World) -> None:
    """A command that turns out to be a file server is read as one, and its output recorded, too
    (attack: transfers that are no transfers by name).
    """
    disguised = world.there / "innocent"
    disguised.symlink_to(str(SFTP_SERVER))
    command = f"sh -c 'exec {disguised}'"
    direct = shlex.join(["ssh", *world.options, "127.0.0.1", command])
    batch = f"put {world.here}/file {world.there}/a\n".encode()
    world.run("sftp", "-b", "-", "-D", direct, stdin=batch)
    assert ("write", "upload", 300_000, "0640", SHA256, "ok") in world.told(*KEYS)
    assert [each["stream"] for each in world.frames(FrameKind.CAPTURE)] == ["output", "error"]


def test_a_name_that_lies(world: World) -> None:
    """A command that is called scp, and is none, is recorded as what it is (attack)."""
    fake = world.there / "scp"
    fake.write_text("#!/bin/sh\necho secret output\n")
    fake.chmod(0o755)
    world.run("ssh", *world.options, "127.0.0.1", f"{fake} -t /tmp")
    assert b"secret output\n" in [
        f.data for f in world.recorder.frames if f.kind is FrameKind.OUTPUT
    ]
    assert world.told() == []


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_both_ways(world: World) -> None:
    """Direction, path and bytes that passed; its content is not read."""
    shell = shlex.join(["ssh", *world.options])
    target = f"127.0.0.1:{world.there}/"
    world.run("rsync", "-e", shell, "--whole-file", str(world.here / "file"), target)
    world.run("rsync", "-e", shell, f"{target}file", str(world.here / "back"))
    up, down = world.told("op", "direction", "path", "bytes", "result")
    assert (up[:3], up[4]) == (("write", "upload", f"{world.there}/"), "ok")
    assert (down[:3], down[4]) == (("read", "download", f"{world.there}/file"), "ok")
    assert min(up[3], down[3]) >= 300_000


def test_forced_to_the_file_server(world: World) -> None:
    """Whatever the client requests, the file server is what runs, and what is read."""
    set_options(world.cluster, world.node, force_command="internal-sftp")
    direct = shlex.join(["ssh", *world.options, "127.0.0.1", "echo hello"])
    batch = f"put {world.here}/file {world.there}/a\n".encode()
    world.run("sftp", "-b", "-", "-D", direct, stdin=batch)
    assert ("write", "upload", 300_000, "0640", SHA256, "ok") in world.told(*KEYS)


def test_many_commands_of_one_master(world: World) -> None:
    """Each channel of a ControlMaster is recorded and told, with its end (attack)."""
    socket = world.here / "s"
    shared = ("-o", "ControlMaster=auto", "-o", f"ControlPath={socket}", "-o", "ControlPersist=60")
    for number in range(3):
        self_words = (*world.options, *shared, "127.0.0.1")
        world.cluster.run("ssh", *self_words, f"echo number {number}; exit {number}")
    copy = ("-o", f"ControlPath={socket}", str(world.here / "file"))
    world.cluster.run("scp", *world.options, *copy, f"127.0.0.1:{world.there}/a")
    world.run("ssh", *world.options, *shared, "-O", "exit", "127.0.0.1")
    assert len(world.recorder.recordings) == 1
    shown = b"".join(f.data for f in world.recorder.frames if f.kind is FrameKind.OUTPUT)
    assert shown == b"number 0\nnumber 1\nnumber 2\n"
    assert ("write", "upload", 300_000, "0640", SHA256, "ok") in world.told(*KEYS)
    ends = world.cluster.wait_event("exec.end", 3)
    assert sorted(e.fields["status"] for e in ends) == [0, 1, 2]
    assert {e.fields["bytes_out"] for e in ends} == {len(b"number 0\n")}


@pytest.mark.skipif(SFTP_SERVER is None, reason="OpenSSH's sftp-server is not installed")
def test_attack_an_upload_in_one_piece(world: World) -> None:
    """Stock ssh, stock sftp-server, all requests at once: the handle is guessed, since servers
    count. The file was reported as empty; now it is told that it cannot be said what was written.
    """

    def packet(kind: int, rest: bytes) -> bytes:
        return struct.pack(">IB", 1 + len(rest), kind) + rest

    def string(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    evil, handle = world.there / "evil", string(bytes(4))
    sent = (
        packet(1, struct.pack(">I", 3)),
        packet(3, struct.pack(">I", 1) + string(bytes(evil)) + struct.pack(">II", 26, 0)),
        packet(6, struct.pack(">I", 2) + handle + bytes(8) + string(b"malware")),
        packet(4, struct.pack(">I", 3) + handle),
        # The server serves one request whenever it reads, and ends when there is nothing to read.
        40 * packet(6, struct.pack(">I", 4) + string(b"none") + bytes(8) + string(bytes(30_000))),
    )
    world.run("ssh", *world.options, "127.0.0.1", str(SFTP_SERVER), stdin=b"".join(sent))
    assert evil.read_bytes() == b"malware"
    assert world.told("op", "path", "bytes", "sha256") == [("write", str(evil), 0, None)]
    assert "a handle before the server gave it" in str(world.frames(FrameKind.GAP))


def test_attack_scp_without_waiting(world: World) -> None:
    """Stock ssh, stock scp on the host, and a client that does not wait for its replies: what it
    downloads is listed, and of what it uploads it is told that it cannot be read.
    """
    (world.there / "secret").write_bytes(CONTENT)
    there = shlex.quote(str(world.there))
    sent = b"C0644 7 evil\nmalware\0"
    world.run("ssh", *world.options, "127.0.0.1", f"scp -t {there}", stdin=sent)
    assert (world.there / "evil").read_bytes() == b"malware"
    assert "the sender did not wait" in str(world.frames(FrameKind.GAP))
    world.run("ssh", *world.options, "127.0.0.1", f"scp -f {there}/secret", stdin=bytes(20_000))
    assert ("read", "download", 300_000, "0644", SHA256, "ok") in world.told(*KEYS)
