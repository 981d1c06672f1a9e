"""The spawner as a program, spoken to directly: what it starts, reports and refuses."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from tele.spawner import program as spawner
from tele.spawner.accounts import Refused
from tele.spawner.children import Child
from tele.spawner.spawn_messages import MAX_MESSAGE, pack, unpack

PROGRAM = Path(spawner.__file__)
ME = pwd.getpwuid(os.geteuid()).pw_name


@define
class Talk:
    """A running spawner and the node's end of its socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    waiting: list[dict[str, Any]] = field(factory=list)

    def ask(self, number: int, *strings: bytes, fds: tuple[int, ...] = (), **header: Any) -> None:
        """Send one request."""
        socket.send_fds(self.socket, [pack({"id": number, **header}, strings)], fds)

    def start(
        self, number: int, command: bytes, *environment: bytes, login: str = ME, **rest: Any
    ) -> tuple[int, int]:
        """Start a command with pipes; return what reads its output, and writes its input."""
        stdin, feed = os.pipe()
        output, stdout = os.pipe()
        header = {"op": "start", "kind": "exec", "login": login, "pty": False, "words": 1, **rest}
        self.ask(number, command, *environment, fds=(stdin, stdout, stdout), **header)
        os.close(stdin)
        os.close(stdout)
        return output, feed

    def report(self) -> dict[str, Any]:
        """Wait for one report."""
        value = json.loads(self.socket.recv(MAX_MESSAGE))
        assert isinstance(value, dict)
        return value

    def run(self, command: bytes, *environment: bytes, **rest: Any) -> tuple[bytes, dict[str, Any]]:
        """Run a command to its end; return its output and the last report."""
        output, feed = self.start(7, command, *environment, **rest)
        os.close(feed)
        with open(output, "rb") as file:
            text = file.read()
        report = self.report()
        return text, self.report() if report["event"] == "started" else report


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A fresh spawner."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env={},
            cwd="/",
        )
        theirs.close()
        talk = Talk(process, ours)
        for _ in range(2):  # from now on, a process of the login starts commands
            assert talk.run(b"echo ready")[0] == b"ready\n"
        yield talk
        ours.close()
        assert process.wait(20) == 0


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_exit_status(talk: Talk) -> None:
    """A command runs in the account's shell; its output and status come back."""
    text, report = talk.run(b"echo hello; exit 7")
    assert text == b"hello\n"
    assert report == {"id": 7, "event": "exited", "status": 7, "signal": None, "core": False}


def test_death_by_signal(talk: Talk) -> None:
    """A command that dies of a signal is reported by the signal's name."""
    _, report = talk.run(b"kill -TERM $$")
    assert (report["status"], report["signal"]) == (None, "TERM")


def test_nothing_of_the_spawner_in_a_session(talk: Talk) -> None:
    """A session has descriptors 0 to 2, default signals, no mask, umask 022, own group."""
    text, _ = talk.run(
        b"exec "
        + sys.executable.encode()
        + b' -I -S -c \'import os;print(*sorted(map(int,os.listdir("/proc/self/fd"))));'
        b'print(open("/proc/self/status").read());print(os.getsid(0)==os.getpid()==os.getpgrp())\''
    )
    numbers, *status, leads = text.decode().strip().splitlines()
    assert numbers.split()[:3] == ["0", "1", "2"]
    assert len(numbers.split()) == 4, "only the listing's own descriptor beside them"
    facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert int(facts["SigBlk"], 16) == 0
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25), and glibc two of its own (32, 33).
    assert int(facts["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 0b11 << 31) == 0
    assert facts["Umask"] == "0022"
    assert leads == "True"


def test_pipe_signal_is_not_ignored(talk: Talk) -> None:
    """``yes | head`` ends: SIGPIPE has its default action, although Python ignores it."""
    text, report = talk.run(b"yes | head -n 1; trap")
    assert text == b"y\n"
    assert report["status"] == 0


def test_environment_is_made_here(talk: Talk) -> None:
    """The environment is that of the account, with what the node may add, and nothing else."""
    # Without a shell in between: its start-up files may set anything.
    text, _ = talk.run(b"/usr/bin/env", b"LANG=C.UTF-8", b"SSH_CLIENT=1.2.3.4 5 6", kind="program")
    names = dict(line.split("=", 1) for line in text.decode().splitlines())
    account = pwd.getpwnam(ME)
    assert names.pop("LANG") == "C.UTF-8"
    assert names.pop("SSH_CLIENT") == "1.2.3.4 5 6"
    assert (names["HOME"], names["USER"], names["LOGNAME"]) == (account.pw_dir, ME, ME)
    assert names["SHELL"] == account.pw_shell
    assert "/usr/bin" in names["PATH"].split(":")
    assert set(names) <= {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "MAIL", "TZ"}


@pytest.mark.parametrize(
    "variable",
    [
        b"LD_PRELOAD=/tmp/evil.so",
        b"LD_LIBRARY_PATH=/tmp",
        b"BASH_ENV=/tmp/x",
        b"PATH=/tmp",
        b"HOME=/tmp",
        b"IFS=x",
        b"PYTHONPATH=/tmp",
        b"LC_ALL",
        b"=x",
        b"LC_\xc3\xa4=x",
        b"LANG\nLD_PRELOAD=x",
        b"SSH_ASKPASS=/x",
    ],
)
def test_no_dangerous_variable(talk: Talk, variable: bytes) -> None:
    """A variable that could change what runs never reaches a session (attack)."""
    text, report = talk.run(b"echo started", variable)
    assert text == b""
    assert report["event"] == "refused"


@pytest.mark.parametrize(
    "login",
    [
        "",
        "no-such-account",
        "$(id)",
        "a;id",
        "../root",
        "root:0",
        "-x",
        "a\nb",
        "x" * 300,
        "\udc80",
    ],
)
def test_invalid_logins(talk: Talk, login: str) -> None:
    """A login is looked up as it is and is never a word, a path or a pattern (attack)."""
    text, report = talk.run(b"echo started", login=login)
    assert text == b""
    assert (report["event"], report["reason"]) == ("failed", "account")


MALFORMED = [
    b"\0",
    b"{",
    b"[]",
    b"null",
    b"{}" * 50000,
    b'{"id":' + b"9" * 5000 + b"}",
    b"[" * 100000,
    b'{"id":1}',
    b'{"id":"1","op":"start"}',
    b'{"id":true,"op":"start"}',
    b'{"id":1,"op":["start"]}',
    b'{"id":1,"op":"signal","signal":["TERM"]}',
    b'{"id":1,"op":"signal","signal":"STOP"}',
    b'{"id":1,"op":"start","kind":["exec"],"login":"root","pty":false,"words":0}',
    b'{"id":1,"op":"start","kind":"exec","login":"root","pty":false,"words":-1}',
    b'{"id":1,"op":"start","kind":"exec","login":"root","pty":false,"words":2}\0a\0b',
    b'{"id":1,"op":"start","kind":"exec","login":7,"pty":false,"words":1}\0a',
    b'{"id":1,"op":"start","kind":"exec","login":"root","pty":false,"words":1,"trace":-1}\0a',
    b'{"id":1,"op":"start","kind":"program","login":"root","pty":false,"words":1,"trace":1}\0a',
    b'{"id":1,"op":"start","kind":"shell","login":"root","pty":true,"words":0}',
    b'{"id":1,"op":"start","kind":"shell","login":"root","pty":false,"words":0}',
    b"\xff\xfe{",
    b"x" * MAX_MESSAGE,
]


@pytest.mark.parametrize("message", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_requests(talk: Talk, message: bytes) -> None:
    """A malformed request is refused, its descriptors are closed, and work goes on (attack)."""
    before = len(os.listdir(f"/proc/{talk.process.pid}/fd"))
    with open(os.devnull, "rb") as null:
        socket.send_fds(talk.socket, [message], [null.fileno()])
    assert talk.report()["event"] == "refused"
    assert talk.run(b"echo on")[0] == b"on\n"
    _wait_until(lambda: len(os.listdir(f"/proc/{talk.process.pid}/fd")) == before)


def test_too_many_descriptors(talk: Talk) -> None:
    """Descriptors beyond those that a request has are neither kept nor given to a session."""
    with open(os.devnull, "rb") as null:
        socket.send_fds(talk.socket, [b"{}"], [null.fileno()] * 60)
    assert talk.report()["event"] == "refused"
    assert talk.run(b"echo on")[0] == b"on\n"


def test_signals_reach_only_own_children(talk: Talk) -> None:
    """Signals go by session number: another process and another session stay (attack)."""
    with subprocess.Popen(["sleep", "60"]) as other:
        first, _ = talk.start(1, b"sleep 60")
        second, _ = talk.start(2, b"sleep 60")
        assert {talk.report()["event"], talk.report()["event"]} == {"started"}
        talk.ask(other.pid, op="signal", signal="KILL")
        talk.ask(1, op="signal", signal="TERM")
        assert talk.report() == {
            "id": 1, "event": "exited", "status": None, "signal": "TERM", "core": False,
        }  # fmt: skip
        talk.ask(1, op="signal", signal="KILL")  # it has ended: nothing happens
        assert other.poll() is None
        talk.ask(2, op="hangup")
        assert talk.report()["signal"] == "HUP"
        other.kill()
    os.close(first)
    os.close(second)


def test_numbers_in_use_are_refused(talk: Talk) -> None:
    """A second session cannot take the number, and so the signals, of a running one."""
    talk.start(1, b"sleep 60")
    assert talk.report()["event"] == "started"
    talk.start(1, b"echo other")
    assert talk.report()["event"] == "refused"
    talk.ask(1, op="kill")
    assert talk.report()["signal"] == "KILL"


def test_sessions_are_hung_up_with_the_node() -> None:
    """When the node goes away every session's process group gets SIGHUP."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        theirs,
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env={},
        ) as process,
    ):
        theirs.close()
        talk = Talk(process, ours)
        output, _ = talk.start(1, b"trap 'echo gone; exit' HUP; echo ready; sleep 60 & wait")
        assert os.read(output, 100) == b"ready\n"
        ours.close()
        assert process.wait(20) == 0
        deadline = time.monotonic() + 20
        seen = b""
        while b"gone" not in seen and time.monotonic() < deadline:
            seen += os.read(output, 100)
        assert seen == b"gone\n"
        os.close(output)


def test_terminal(talk: Talk) -> None:
    """With a terminal the shell is a login shell whose controlling terminal it is."""
    master, slave = os.openpty()
    talk.ask(3, b"TERM=dumb", fds=(slave,), op="start", kind="shell", login=ME, pty=True, words=0)
    name = os.ttyname(slave)
    os.close(slave)
    assert talk.report()["event"] == "started"
    os.write(master, b"echo [$0] [$SSH_TTY] [$TERM]; tty; exit 4\n")
    seen = b""
    while (report := _report_or_none(talk)) is None:
        seen += _read(master)
    os.set_blocking(master, True)
    with suppress(OSError):  # the end: no process has the terminal any more
        while more := os.read(master, 65536):
            seen += more
    os.close(master)
    shell = os.path.basename(pwd.getpwnam(ME).pw_shell)
    assert f"[-{shell}] [{name}] [dumb]".encode() in seen
    assert b"\n" + name.encode() in seen.replace(b"\r", b"")
    assert report["status"] == 4


def _read(master: int) -> bytes:
    os.set_blocking(master, False)
    time.sleep(0.01)
    try:
        return os.read(master, 65536)
    except (BlockingIOError, OSError):
        return b""


def _report_or_none(talk: Talk) -> dict[str, Any] | None:
    try:
        return dict(json.loads(talk.socket.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)))
    except BlockingIOError:
        return None


def test_not_a_terminal(talk: Talk) -> None:
    """What is no pseudo terminal is not taken, and not given away, as one (attack)."""
    with open(os.devnull, "r+b") as null:
        talk.ask(3, fds=(null.fileno(),), op="start", kind="shell", login=ME, pty=True, words=0)
    assert talk.report()["event"] == "refused"


def test_missing_program(talk: Talk) -> None:
    """What cannot be executed is reported, with its name and the reason."""
    output, feed = talk.start(5, b"/no/such/program", kind="program")
    report = talk.report()
    assert (report["event"], report["reason"]) == ("failed", "exec")
    assert "/no/such/program" in report["message"]
    os.close(output)
    os.close(feed)


def test_bytes_survive(talk: Talk) -> None:
    """A command line is bytes: what is no UTF-8 arrives as it was."""
    text, _ = talk.run(b"printf %s '\xff\xfe\xc3'")
    assert text == b"\xff\xfe\xc3"


def test_nul_is_refused_before_it_is_sent() -> None:
    """NUL in a command would end it early, so it is refused."""
    with pytest.raises(Refused):
        pack({}, [b"a\0b"])
    with pytest.raises(Refused):
        pack({}, [b"a" * MAX_MESSAGE])
    assert unpack(pack({"a": 1}, [b"x", b""])) == ({"a": 1}, [b"x", b""])


def test_start_is_independent_of_the_nodes_descriptors(talk: Talk) -> None:
    """The spawner holds as many descriptors after many sessions as before."""
    before = len(os.listdir(f"/proc/{talk.process.pid}/fd"))
    for _ in range(20):
        talk.run(b"true")
    _wait_until(lambda: len(os.listdir(f"/proc/{talk.process.pid}/fd")) == before)


def test_interrupt_is_the_nodes(talk: Talk) -> None:
    """Ctrl-C and a hang-up of the node's own terminal do not end the spawner."""
    talk.process.send_signal(signal.SIGINT)
    talk.process.send_signal(signal.SIGHUP)
    assert talk.run(b"echo on")[0] == b"on\n"


def test_why_a_session_did_not_start_is_reported_after_its_end() -> None:
    """A child may be reaped before its last message has arrived: that message is still reported."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with ours, theirs:
        serving = spawner.Spawner(theirs)
        process = subprocess.Popen(["false"])
        child = Child(3, process.pid, reading)
        serving.add(child)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        serving.reap(process.pid)
        process.returncode = 1  # reaped: its number is free now
        with pytest.raises(BlockingIOError):
            ours.recv(MAX_MESSAGE)
        os.write(writing, b"\nshell\0not for logging in")
        os.close(writing)
        serving.read_report(child)
        report = json.loads(ours.recv(MAX_MESSAGE))
    assert (report["event"], report["message"]) == ("failed", "not for logging in")


def test_nothing_is_remembered_of_a_session_that_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who is expelled while the session fails leaves nothing that is to be killed."""
    monkeypatch.setattr(spawner, "own_group", lambda: str(tmp_path))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with ours, theirs, subprocess.Popen(["sleep", "1000"]) as process:
        serving = spawner.Spawner(theirs)
        serving.add(Child(3, process.pid, reading, "group"))
        os.write(writing, b"\nshell\0not for logging in")
        os.close(writing)
        serving._perform(3, {"op": "hangup", "expelled": True}, [], b"", [])
        assert json.loads(ours.recv(MAX_MESSAGE))["event"] == "failed"
        assert serving._groups.pause is None
        assert process.poll() is None
        process.kill()
