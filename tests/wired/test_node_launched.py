"""What is recorded follows from what is launched, whatever OpenSSH's client requests."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from small_cluster import ME, SmallCluster, SmallNode, set_options, small_cluster
from tele.interfaces import ISubsystem, SubsystemSession
from tele.model.frame import Frame, FrameKind
from tele.plugins.commanding import CommandSubsystem
from tele.testing.recorder import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

INIT = b"\0\0\0\5\1\0\0\0\3"
VERSION = b"\2\0\0\0\3"
OUT = b"echo out\n"


class Saying(Protocol):
    """Says one thing."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"out\n")
        self.transport.loseConnection()


@implementer(ISubsystem)
@frozen
class Spoken:
    """A subsystem that the node speaks itself."""

    name: str = "spoken"

    def start(self, session: SubsystemSession) -> Deferred[Any]:
        """See :class:`ISubsystem`."""
        return succeed(Saying())


@define
class Recorded:
    """A node whose recorder keeps all frames."""

    cluster: SmallCluster
    node: SmallNode
    recorder: MemoryRecorder

    def run(
        self, *words: str, stdin: bytes = b"", options: tuple[str, ...] = ()
    ) -> tuple[bytes, dict[str, Any], dict[FrameKind, bytes]]:
        """Run ssh to its end; return what it showed, the channel's OPEN and its other frames."""
        ssh = self.cluster.ssh_words("alice", self.node, *options, "127.0.0.1", *words)
        return self._listen("ssh", *ssh, stdin=stdin)

    def sftp(
        self, *words: str, options: tuple[str, ...] = ()
    ) -> tuple[bytes, dict[str, Any], dict[FrameKind, bytes]]:
        """Have OpenSSH's sftp speak with whatever answers that request; list a folder."""
        ssh = self.cluster.ssh_words("alice", self.node, *options, "127.0.0.1", *words)
        direct = shlex.join(["ssh", *ssh])
        return self._listen("sftp", "-b", "-", "-D", direct, stdin=b"ls -1d /etc/passwd\n")

    def _listen(
        self, *words: str, stdin: bytes
    ) -> tuple[bytes, dict[str, Any], dict[FrameKind, bytes]]:
        before = len(self.recorder.recordings)
        ended = len(self.cluster.events("session.end"))
        done = self.cluster.run(*words, stdin=stdin)
        self.cluster.wait_event("session.end", ended + 1)
        (recording,) = self.recorder.recordings[before:]
        opened, *rest = recording.frames
        assert opened.kind is FrameKind.OPEN
        return done.stdout, json.loads(opened.data), joined(rest)


def joined(frames: list[Frame]) -> dict[FrameKind, bytes]:
    """Return what there is of each kind."""
    found: dict[FrameKind, bytes] = {}
    for frame in frames:
        found[frame.kind] = found.get(frame.kind, b"") + frame.data
    return found


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """A cluster with one user, and a node with subsystems."""
    with small_cluster(tmp_path) as cluster:
        cluster.person("alice", ME)
        recorder = MemoryRecorder()
        subsystems = [CommandSubsystem("listed", "cat; echo out"), Spoken()]
        node = cluster.node(recorder=recorder, subsystems=subsystems)
        yield Recorded(cluster, node, recorder)


ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...], bytes, dict[str, str]]] = {
    "command": (("echo out",), (), b"", {"kind": "exec", "command": "echo out"}),
    "command-T": (("echo out",), ("-T",), b"", {"kind": "exec", "command": "echo out"}),
    "command-tt": (("echo out",), ("-tt",), b"", {"kind": "exec", "command": "echo out"}),
    "shell": ((), ("-T",), OUT + b"exit\n", {"kind": "shell", "command": ""}),
    "shell-tt": ((), ("-tt",), OUT + b"exit\n", {"kind": "shell", "command": ""}),
    "sftp": (("sftp",), ("-s",), INIT, {"kind": "subsystem", "command": "sftp"}),
    "listed": (("listed",), ("-s",), b"", {"kind": "subsystem", "command": "listed"}),
    "listed-tt": (("listed",), ("-s", "-tt"), b"\4", {"kind": "subsystem", "command": "listed"}),
    "spoken": (("spoken",), ("-s",), b"", {"kind": "subsystem", "command": "spoken"}),
}


@pytest.mark.parametrize("how", [name for name in ASKED if name != "sftp"])
def test_what_is_no_file_transfer_is_recorded(recorded: Recorded, how: str) -> None:
    """Output of everything but the file server is on the recording, subsystem or not (attack)."""
    words, options, stdin, asked = ASKED[how]
    shown, opened, frames = recorded.run(*words, stdin=stdin, options=options)
    assert b"out" in shown
    assert b"out" in frames[FrameKind.OUTPUT]
    assert FrameKind.GAP not in frames
    if asked["command"] == "listed":
        assert (opened["kind"], opened["command"]) == ("exec", "cat; echo out")
        assert opened["asked"] == asked
        (event,) = recorded.cluster.wait_event("subsystem")
        assert (event.fields["command"], event.fields["runs"]) == ("listed", "cat; echo out")
    else:
        assert {"kind": opened["kind"], "command": opened["command"]} == asked
        assert "asked" not in opened
    assert (opened["pty"] is not None) is ("-tt" in options)


def test_files_are_counted_and_not_copied(recorded: Recorded) -> None:
    """What the file server sends is a count on the recording."""
    shown, opened, frames = recorded.sftp("sftp", options=("-s",))
    assert b"/etc/passwd" in shown
    assert (opened["kind"], opened["command"]) == ("subsystem", "sftp")
    assert FrameKind.OUTPUT not in frames
    assert json.loads(frames[FrameKind.GAP])["lost"]["output"] > 0


def test_a_file_server_takes_no_terminal(recorded: Recorded) -> None:
    """On a terminal all would be recorded: it is refused, and the error says what to use."""
    shown, _, frames = recorded.run("sftp", stdin=INIT, options=("-s", "-tt"))
    assert VERSION not in shown
    assert "use sftp or scp" in json.loads(frames[FrameKind.CLOSE])["error"]
    assert FrameKind.EXIT not in frames


@pytest.mark.parametrize("how", list(ASKED))
def test_a_forced_command_is_recorded_as_a_command(recorded: Recorded, how: str) -> None:
    """It is launched whatever was requested, so its output is recorded, under its name (attack)."""
    words, options, _, asked = ASKED[how]
    command = 'echo "forced [$SSH_ORIGINAL_COMMAND]"'
    set_options(recorded.cluster, recorded.node, force_command=command)
    shown, opened, frames = recorded.run(*words, options=options)
    expected = f"forced [{asked['command']}]".encode()
    assert expected in shown
    assert expected in frames[FrameKind.OUTPUT]
    assert FrameKind.GAP not in frames
    assert (opened["kind"], opened["command"], opened["asked"]) == ("exec", command, asked)


@pytest.mark.parametrize("how", list(ASKED))
def test_internal_sftp_is_all_that_there_is(recorded: Recorded, how: str) -> None:
    """Whatever is requested, the file server is what answers, and what is recorded (attack)."""
    words, options, _, asked = ASKED[how]
    set_options(recorded.cluster, recorded.node, force_command="internal-sftp")
    if "-tt" in options:
        shown, _, frames = recorded.run(*words, stdin=INIT, options=options)
        assert VERSION not in shown
        assert "use sftp or scp" in json.loads(frames[FrameKind.CLOSE])["error"]
        return
    shown, opened, frames = recorded.sftp(*words, options=options)
    assert b"/etc/passwd" in shown
    assert (opened["kind"], opened["command"]) == ("subsystem", "sftp")
    assert opened.get("asked", asked) == asked
    assert FrameKind.OUTPUT not in frames
