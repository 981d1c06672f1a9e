"""Programs of a session, from the node's side to a real spawner and real processes."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import define, field

from grants import one_role
from own_reactor import OwnReactor, own_reactor
from tele.capacity.descriptors import DescriptorBudget, shares_of
from tele.conch.session.programs import Exit, ProgramRequest, PtyRequest
from tele.errors import AccessDenied, InvalidInput, Unavailable
from tele.model.access import Grant
from tele.model.identity import UserIdentity
from tele.node.labels import LabelCommand, Labels
from tele.node.programs import NodePrograms, Program
from tele.node.spawning import Launch, Spawning
from tele.sessions.context import ConnectionContext

ME = pwd.getpwuid(os.geteuid()).pw_name
LATER = datetime(2099, 1, 1, tzinfo=UTC)


def grant(**options: Any) -> Grant:
    return one_role(UserIdentity("alice", "c", LATER), options.pop("login", ME), **options)


@define
class Node:
    """A node without network: a reactor and a spawner."""

    reactor: OwnReactor
    spawning: Spawning
    budget: DescriptorBudget = field(factory=lambda: DescriptorBudget(shares_of(1024)))

    def start(self, request: ProgramRequest, **options: Any) -> Program:
        """Start a program for a visit with these options of a grant."""
        visit = ConnectionContext(
            grant(**options), "session-1", ("192.0.2.7", 50000), ("192.0.2.1", 3022)
        )
        account = self.budget.account("u")
        started = NodePrograms(self.spawning, visit, account, self.reactor).start(request, 0)
        program = self.reactor.wait(started)
        assert isinstance(program, Program)
        return program

    def run(self, command: bytes, stdin: bytes = b"", **options: Any) -> tuple[bytes, bytes, Exit]:
        """Run a command to its end; return output, errors and how it ended."""
        return self.finish(self.start(ProgramRequest("exec", command), **options), stdin)

    def finish(self, program: Program, stdin: bytes = b"") -> tuple[bytes, bytes, Exit]:
        """Feed a program and collect what it says."""
        assert program.stdin is not None
        os.write(program.stdin, stdin)
        os.close(program.stdin)
        how = self.reactor.wait(program.exited)
        return drain(program.stdout), drain(program.stderr), how


def drain(descriptor: int | None) -> bytes:
    """Read what is left, and close."""
    assert descriptor is not None
    os.set_blocking(descriptor, True)
    with open(descriptor, "rb") as file:
        return file.read()


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose spawner runs."""
    with own_reactor() as reactor:
        spawning = Spawning(reactor)
        spawning.open()
        try:
            yield Node(reactor, spawning)
        finally:
            reactor.wait(spawning.close())


def test_three_pipes_and_a_status(node: Node) -> None:
    """Input, output and errors each have their pipe; the status is returned."""
    output, errors, how = node.run(b"cat; echo bad >&2; exit 3", b"given")
    assert (output, errors, how) == (b"given", b"bad\n", Exit(3))


def test_environment(node: Node) -> None:
    """A session knows its connection as under sshd, its login and its session."""
    request = ProgramRequest(
        "exec",
        b'echo "$SSH_CLIENT|$SSH_CONNECTION|$LANG|$LD_PRELOAD|$TELE_USER|$TELE_SESSION_ID|$USER"',
        {"LANG": "C.UTF-8", "LD_PRELOAD": "/tmp/x.so", "LC_ALL": "a\0LD_PRELOAD=/x"},
    )
    output, _, _ = node.finish(node.start(request))
    assert output.decode().strip() == (
        "192.0.2.7 50000 3022|192.0.2.7 50000 192.0.2.1 3022|C.UTF-8||alice|session-1|" + ME
    )


def test_forced_command(node: Node) -> None:
    """A forced command runs instead, has the requested one in its environment, and takes no
    signals.
    """
    output, _, _ = node.run(b"rm -rf /", force_command="echo [$SSH_ORIGINAL_COMMAND]")
    assert output == b"[rm -rf /]\n"
    program = node.start(ProgramRequest("exec", b"x"), force_command="sleep 60")
    assert not program.signal("KILL")
    program.hang_up()
    assert node.finish(program)[2].signal == "HUP"


def test_forced_command_of_a_shell_and_of_sftp(node: Node) -> None:
    """There is no way around a forced command: neither a shell nor sftp."""
    for request in (ProgramRequest("shell"), ProgramRequest("subsystem", b"sftp")):
        output, _, _ = node.finish(node.start(request, force_command="echo forced"))
        assert output == b"forced\n"


def test_sftp(node: Node) -> None:
    """The sftp subsystem answers INIT with VERSION 3."""
    program = node.start(ProgramRequest("subsystem", b"sftp"))
    assert program.stdin is not None
    assert program.stdout is not None
    os.write(program.stdin, b"\0\0\0\5\1\0\0\0\3")
    assert read_until(node, program.stdout, b"\2\0\0\0\3")
    node.finish(program)


def test_unknown_subsystem(node: Node) -> None:
    """Another subsystem is refused by its name, made safe."""
    with pytest.raises(InvalidInput, match=r"'\\x1b\[2Jx'"):
        node.start(ProgramRequest("subsystem", b"\x1b[2Jx"))


def test_shell_without_terminal(node: Node) -> None:
    """A shell without a terminal is a login shell that reads its commands."""
    output, _, how = node.finish(node.start(ProgramRequest("shell")), b"echo $0\nexit 5\n")
    assert output.startswith(b"-")
    assert how.status == 5


def test_terminal(node: Node) -> None:
    """A terminal has the size and the modes that were requested, and can be resized."""
    modes = ((53, 0), (3, 8), (128, 9600), (200, 1), (1, 999999))
    request = ProgramRequest(
        "exec",
        b"stty size; stty -a; read x; stty size",
        pty=PtyRequest("xterm", 91, 37, modes=modes),
    )
    program = node.start(request)
    assert program.stdout is not None
    assert program.stdin is not None
    output = read_until(node, program.stdout, b"-echo ")
    assert b"37 91" in output
    assert b"erase = ^H" in output
    program.resize(100, 50, 0, 0)
    os.write(program.stdin, b"\n")
    output = read_until(node, program.stdout, b"50 100")
    assert node.reactor.wait(program.exited) == Exit(0)
    os.close(program.stdin)
    os.close(program.stdout)
    program.resize(1, 1, 0, 0)


def test_invalid_terminal_name(node: Node) -> None:
    """What libraries would take for a path is no terminal's name (attack)."""
    request = ProgramRequest("exec", b"echo [$TERM]", pty=PtyRequest("../../tmp/x", 1 << 31, 0))
    program = node.start(request)
    assert program.stdout is not None
    assert program.stdin is not None
    assert b"[dumb]" in read_until(node, program.stdout, b"]")
    node.reactor.wait(program.exited)
    os.close(program.stdin)
    os.close(program.stdout)


def read_until(node: Node, descriptor: int, wanted: bytes) -> bytes:
    """Collect output until ``wanted`` is in it."""
    output = bytearray()

    def found() -> bool:
        try:
            output.extend(os.read(descriptor, 65536))
        except (BlockingIOError, OSError):
            time.sleep(0.005)
        return wanted in output

    node.reactor.until(found)
    return bytes(output)


def test_signals_reach_the_group(node: Node) -> None:
    """A signal reaches the whole process group, by its name; an unknown one is ignored."""
    program = node.start(ProgramRequest("exec", b"sleep 60 | sleep 60"))
    assert not program.signal("STOP")
    assert not program.signal("../KILL")
    assert program.signal("TERM")
    assert node.finish(program)[2] == Exit(None, "TERM")


def test_unknown_login(node: Node) -> None:
    """An account that does not exist is named in the refusal."""
    with pytest.raises(AccessDenied, match="no-such-account"):
        node.run(b"true", login="no-such-account")


def test_command_that_cannot_be_one(node: Node) -> None:
    """NUL and endless commands are refused with a reason and leave no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    for command in (b"a\0b", b"x" * 300_000):
        with pytest.raises(InvalidInput):
            node.run(command)
    with pytest.raises(Unavailable, match="too long"):
        node.run(b"x" * 150_000)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_is_left(node: Node) -> None:
    """After sessions of all kinds the node has as many descriptors as before."""
    before = len(os.listdir("/proc/self/fd"))
    node.run(b"true")
    program = node.start(ProgramRequest("exec", b"true", pty=PtyRequest("xterm", 80, 24)))
    node.reactor.wait(program.exited)
    assert program.stdin is not None
    assert program.stdout is not None
    os.close(program.stdin)
    os.close(program.stdout)
    assert len(os.listdir("/proc/self/fd")) == before


def test_giving_up_ends_what_was_started(node: Node) -> None:
    """A client that leaves while its program starts leaves no program behind."""
    launch = Launch("exec", ME, (b"sleep 300.25",))
    null = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    starting = node.spawning.start(launch, null)
    starting.addErrback(lambda _: None)
    starting.cancel()
    node.reactor.until(lambda: not node.spawning._sessions)


def test_sessions_outlive_the_spawner(node: Node) -> None:
    """When the spawner is killed sessions go on, and new ones start in another."""
    program = node.start(ProgramRequest("exec", b"read x; echo still here $x"))
    first = node.spawning.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    node.reactor.until(lambda: node.spawning.pid not in (None, first))
    assert node.run(b"echo new")[0] == b"new\n"
    assert program.stdout is not None
    output, _, how = node.finish(program, b"1\n")
    assert output == b"still here 1\n"
    assert how.status is None
    assert "lost" in how.message


def test_orphans_can_be_hung_up(node: Node) -> None:
    """A session whose spawner died is still ended when its client leaves."""
    program = node.start(ProgramRequest("exec", b"sleep 300.5"))
    first = node.spawning.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    node.reactor.until(lambda: node.spawning.pid not in (None, first))
    assert not program.signal("TERM")
    program.hang_up()
    node.finish(program)


def test_orphans_can_be_killed(node: Node) -> None:
    """A program that ignores the hang-up does not stay with a user who was expelled, though
    its spawner died (attack).
    """
    program = node.start(ProgramRequest("exec", b"trap '' HUP; echo ready; exec sleep 300.5"))
    output = bytearray()

    def is_ready() -> bool:
        assert program.stdout is not None
        with contextlib.suppress(BlockingIOError):
            output.extend(os.read(program.stdout, 100))
        return bool(output)

    node.reactor.until(is_ready)
    first = node.spawning.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    node.reactor.until(lambda: node.spawning.pid not in (None, first))
    program.expel()
    program.kill()
    node.finish(program)


def test_starts_that_the_spawner_had_not_reported_fail(node: Node) -> None:
    """A session that was starting when the spawner died fails clearly."""
    assert node.spawning.pid is not None
    os.kill(node.spawning.pid, signal.SIGSTOP)
    null = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    starting = node.spawning.start(Launch("exec", ME, (b"true",)), null)
    os.kill(node.spawning.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="try again"):
        node.reactor.wait(starting)


def test_label_commands(node: Node) -> None:
    """A label is the trimmed, printable start of what its command prints, without privileges."""
    changes: list[None] = []
    labels = Labels(
        node.reactor,
        node.spawning,
        {"env": "prod"},
        (
            LabelCommand("greeting", ("printf", "  hi\\033[2J there\\n")),
            LabelCommand("id", ("id", "-u")),
            LabelCommand("long", ("head", "-c", "100000", "/dev/zero")),
            LabelCommand("broken", ("false",)),
            LabelCommand("missing", ("/no/such/program",)),
            LabelCommand("env", ("echo", "test")),
        ),
    )
    labels.on_change(lambda: changes.append(None))
    node.reactor.wait(labels.start())
    current = labels.current
    labels.stop()
    expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    assert current == {
        "env": "prod", "greeting": "hi[2J there", "id": str(expected), "long": "",
        "broken": "unknown", "missing": "unknown",
    }  # fmt: skip
    assert changes
