"""The spawner as root: privileges are dropped for good, for accounts that really exist."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from private_machine import remove_account
from tele.spawner import program as spawner
from tele.spawner import session_child, sftp_server
from tele.spawner.accounts import Refused, check_open, check_sessions
from tele.spawner.spawn_messages import MAX_MESSAGE, pack, unpack

pytestmark = pytest.mark.root

PROGRAM = Path(spawner.__file__)
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


@contextmanager
def account(shell: str = "/bin/sh") -> Iterator[pwd.struct_passwd]:
    """Make an account with a home and a second group, and remove both."""
    if shutil.which("useradd") is None:
        pytest.skip("useradd is not installed")
    name = f"tele{uuid.uuid4().hex[:10]}"
    extra = f"g{name}"
    subprocess.run(["groupadd", extra], check=True)
    try:
        made = ["useradd", "-m", "-s", shell, "-G", extra, name]
        subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
        try:
            yield pwd.getpwnam(name)
        finally:
            remove_account(name)
    finally:
        subprocess.run(["groupdel", extra], check=True)


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """An account of its own."""
    with account() as made:
        yield made


class Talk:
    """A spawner and the node's end."""

    def __init__(self, program: Path = PROGRAM) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={},
                cwd="/",
            )

    def ask(self, header: dict[str, Any], words: list[bytes], fds: list[int]) -> None:
        socket.send_fds(self.socket, [pack({"id": 1, **header}, words)], fds)

    def report(self) -> dict[str, Any]:
        return unpack(self.socket.recv(MAX_MESSAGE))[0]

    def run(
        self, login: str, *words: bytes, kind: str = "exec", stdin: bytes = b""
    ) -> tuple[str, dict[str, Any]]:
        """Run a command as ``login``; return its output and the last report."""
        reading, feed = os.pipe()
        output, writing = os.pipe()
        header = {"op": "start", "kind": kind, "login": login, "pty": False, "words": len(words)}
        self.ask(header, list(words), [reading, writing, writing])
        os.close(reading)
        os.close(writing)
        os.write(feed, stdin)
        os.close(feed)
        with open(output, "rb") as file:
            text = file.read().decode(errors="replace")
        report = self.report()
        return text, self.report() if report["event"] == "started" else report

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A fresh spawner."""
    made = Talk()
    try:
        yield made
    finally:
        made.close()


REGAIN = b"""
import os, sys
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))
for name, arguments in (("setuid", (0,)), ("seteuid", (0,)), ("setresuid", (0, 0, 0)),
        ("setreuid", (-1, 0)), ("setgid", (0,)), ("setegid", (0,)), ("setresgid", (0, 0, 0)),
        ("setgroups", ([0],)), ("initgroups", ("root", 0))):
    try:
        getattr(os, name)(*arguments)
    except PermissionError:
        continue
    print("REGAINED", name)
for line in open("/proc/self/status"):
    if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb")):
        print("CAP", int(line.split()[1], 16))
print(os.getcwd(), os.environ["HOME"])
"""


def test_privileges_are_gone_for_good(talk: Talk, user: pwd.struct_passwd) -> None:
    """The session has the account's ids and groups, no capability, and no way back (attack)."""
    text, report = talk.run(user.pw_name, PYTHON.encode() + b" -", stdin=REGAIN)
    assert report["status"] == 0, text
    assert "REGAINED" not in text
    uid, gid = user.pw_uid, user.pw_gid
    groups = sorted({gid, grp.getgrnam(f"g{user.pw_name}").gr_gid})
    assert text.splitlines()[0] == f"{(uid,) * 3} {(gid,) * 3} {groups}"
    assert [line for line in text.splitlines() if line.startswith("CAP")] == ["CAP 0"] * 4
    assert f"{user.pw_dir} {user.pw_dir}" in text


def test_root_is_served_as_root(talk: Talk) -> None:
    """A certificate may be for root; then it is root."""
    assert talk.run("root", b"id -u")[0] == "0\n"


def test_files_are_created_as_the_account(talk: Talk, user: pwd.struct_passwd) -> None:
    """What a session creates is its account's, and root's files are out of its reach."""
    talk.run(user.pw_name, b"touch mine")
    found = (Path(user.pw_dir) / "mine").stat()
    assert (found.st_uid, found.st_gid) == (user.pw_uid, user.pw_gid)
    text, report = talk.run(user.pw_name, b"cat /etc/shadow 2>&1")
    assert report["status"] != 0
    assert "root:" not in text


def test_terminal_belongs_to_the_account(talk: Talk, user: pwd.struct_passwd) -> None:
    """The terminal is the account's, of group tty, writable by that group only."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": True, "words": 1}
    talk.ask(header, [b"sleep 60"], [slave])
    os.close(slave)
    assert talk.report()["event"] == "started"
    found = Path(name).stat()
    assert (found.st_uid, found.st_gid) == (user.pw_uid, grp.getgrnam("tty").gr_gid)
    assert stat.S_IMODE(found.st_mode) == 0o620
    talk.ask({"op": "hangup"}, [], [])
    assert talk.report()["signal"] == "HUP"
    os.close(master)


def test_signals_are_sent_as_the_account(talk: Talk, user: pwd.struct_passwd) -> None:
    """Signals come from the account, not from root: what sudo started is not theirs to end."""
    output, writing = os.pipe()
    with open(os.devnull, "r+b") as null:
        header = {
            "op": "start", "kind": "exec", "login": user.pw_name, "pty": False, "words": 1,
        }  # fmt: skip
        script = (
            "import signal as s; wanted = {s.SIGUSR1}; s.pthread_sigmask(s.SIG_BLOCK, wanted);"
            "print(flush=True); print(s.sigwaitinfo(wanted).si_uid)"
        )
        command = f"exec {PYTHON} -c '{script}'".encode()
        talk.ask(header, [command], [null.fileno(), writing, null.fileno()])
    os.close(writing)
    assert talk.report()["event"] == "started"
    assert os.read(output, 100) == b"\n"
    talk.ask({"op": "signal", "signal": "USR1"}, [], [])
    with open(output, "rb") as file:
        assert int(file.read()) == user.pw_uid
    assert talk.report()["status"] == 0


def test_account_without_login_shell(talk: Talk) -> None:
    """An account whose shell is nologin or false is refused with its name and shell."""
    with account("/usr/sbin/nologin") as made:
        text, report = talk.run(made.pw_name, b"echo in")
        assert text == ""
        assert "not for logging in" in report["message"]
        assert talk.run(made.pw_name, kind="sftp")[1]["event"] == "failed"


def test_account_with_missing_shell(talk: Talk) -> None:
    """A shell that is not there is named."""
    with account("/no/such/shell") as made:
        assert "/no/such/shell" in talk.run(made.pw_name, b"echo in")[1]["message"]


def test_expired_account(talk: Talk, user: pwd.struct_passwd) -> None:
    """An account that has expired (chage -E) is refused."""
    subprocess.run(["chage", "-E", "2001-01-01", user.pw_name], check=True)
    text, report = talk.run(user.pw_name, b"echo in")
    assert text == ""
    assert (report["reason"], "expired" in report["message"]) == ("expired", True)


def test_missing_home(talk: Talk, user: pwd.struct_passwd) -> None:
    """Without a home directory the session starts in /, with a notice."""
    subprocess.run(["usermod", "-d", "/no/such/home", user.pw_name], check=True)
    text, report = talk.run(user.pw_name, b"pwd")
    subprocess.run(["usermod", "-d", user.pw_dir, user.pw_name], check=True)
    assert text.endswith("/\n")
    assert "/no/such/home" in text
    assert report["status"] == 0


def test_nologin_file(tmp_path: Path, user: pwd.struct_passwd) -> None:
    """/etc/nologin refuses every account but root, with its text, which is made printable."""
    file = tmp_path / "nologin"
    file.write_text("Maintenance \033[2Jtill noon\n")
    with pytest.raises(Refused, match=r"^Maintenance \x1b\[2Jtill noon$"):
        check_sessions(user, [str(file)])
    check_sessions(pwd.getpwnam("root"), [str(file)])


def test_shadow_without_expiry(tmp_path: Path, user: pwd.struct_passwd) -> None:
    """Only the field of expiry counts: a locked or missing password is no matter."""
    file = tmp_path / "shadow"
    file.write_text(f"{user.pw_name}:!:1:0:99999:7:::\n")
    check_open(user, str(file))
    file.write_text(f"{user.pw_name}:!:1:0:99999:7::1:\n")
    with pytest.raises(Refused):
        check_open(user, str(file))


def test_own_sftp_runs_as_the_account(tmp_path: Path, user: pwd.struct_passwd) -> None:
    """Without OpenSSH's server ours serves, as the account, from where it cannot read us."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for file in PROGRAM.parent.glob("*.py"):
        text = file.read_text()
        for server in session_child.SFTP_SERVERS:
            text = text.replace(server, "/no/such/server")
        (hidden / file.name).write_text(text)
    talk = Talk(hidden / "program.py")
    path = f"{user.pw_dir}/made".encode()
    init = b"\0\0\0\5\1\0\0\0\3"
    body = b"\x0e\0\0\0\1" + len(path).to_bytes(4, "big") + path + b"\0\0\0\0"
    text, report = talk.run(
        user.pw_name, kind="sftp", stdin=init + len(body).to_bytes(4, "big") + body
    )
    talk.close()
    assert report["status"] == 0, (text, report)
    found = (Path(user.pw_dir) / "made").stat()
    assert (found.st_uid, stat.S_ISDIR(found.st_mode)) == (user.pw_uid, True)


def test_own_sftp_does_not_write_its_own_memory(user: pwd.struct_passwd) -> None:
    """A client that wrote /proc/self/mem as a file could run any code: it cannot be opened
    (attack).
    """
    program = Path(user.pw_dir) / "sftp_server.py"
    for file in PROGRAM.parent.glob("*.py"):
        shutil.copy(file, program.with_name(file.name))
        os.chown(program.with_name(file.name), user.pw_uid, user.pw_gid)
    request = b"\0\0\0\5\1\0\0\0\3"
    for number, path in enumerate((b"/proc/self/mem", b"sftp_server.py")):
        body = struct.pack(">BII", 3, number, len(path)) + path + struct.pack(">II", 3, 0)
        request += struct.pack(">I", len(body)) + body
    done = subprocess.run(
        [PYTHON, "-I", "-S", program],
        input=request,
        capture_output=True,
        cwd=user.pw_dir,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        env={},
        check=True,
    )
    answers = []
    data = done.stdout
    while data:
        (size,) = struct.unpack(">I", data[:4])
        answers.append((data[4], data[9:13] if data[4] == sftp_server.STATUS else b""))
        data = data[4 + size :]
    denied = (sftp_server.STATUS, struct.pack(">I", sftp_server.PERMISSION_DENIED))
    assert answers[1:] == [denied, (sftp_server.HANDLE, b"")]


def test_as_an_ordinary_user(user: pwd.struct_passwd) -> None:
    """A spawner of an ordinary user serves that account only, and reports that."""
    program = Path(user.pw_dir) / "node"
    program.mkdir()
    for file in PROGRAM.parent.glob("*.py"):
        shutil.copy(file, program)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    talk = Talk.__new__(Talk)
    talk.socket = ours
    with theirs:
        talk.process = subprocess.Popen(
            [PYTHON, "-I", "-S", str(program / "program.py"), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env={},
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )
    text, _ = talk.run(user.pw_name, b"id -un")
    assert text == f"{user.pw_name}\n"
    for login in ("root", "nobody"):
        text, report = talk.run(login, b"id -un")
        assert text == ""
        assert "serves only that account" in report["message"]
    talk.close()


def test_too_many_processes(talk: Talk, user: pwd.struct_passwd) -> None:
    """A limit of the account's processes is reported as such; the spawner continues."""
    output, writing = os.pipe()
    with open(os.devnull, "r+b") as null:
        header = {
            "id": 2, "op": "start", "kind": "exec", "login": user.pw_name, "pty": False,
            "words": 1,
        }  # fmt: skip
        command = b"sleep 1000 & echo both run; exec sleep 1000"
        talk.ask(header, [command], [null.fileno(), writing, null.fileno()])
    os.close(writing)
    first = talk.report()
    assert first["event"] == "started"
    assert os.read(output, 100) == b"both run\n"
    children = Path(f"/proc/{talk.process.pid}/task/{talk.process.pid}/children").read_text()
    for pid in {str(talk.process.pid), *children.split()} - {str(first["pid"])}:
        subprocess.run(["prlimit", f"--pid={pid}", "--nproc=1:1"], check=True)
    text, report = talk.run(user.pw_name, b"echo in; true | cat")
    assert "in" not in text
    assert report["event"] == "failed", report
    assert "Resource temporarily unavailable" in report["message"]
    assert talk.run("root", b"echo on")[0] == "on\n"
    os.killpg(first["pid"], 9)
    os.close(output)


def test_account_that_is_deleted_meanwhile(talk: Talk) -> None:
    """A session goes on and is signalled though its account is gone; another does not start."""
    with account() as made:
        output, writing = os.pipe()
        with open(os.devnull, "r+b") as null:
            header = {
                "op": "start", "kind": "exec", "login": made.pw_name, "pty": False, "words": 1,
            }  # fmt: skip
            talk.ask(header, [b"exec sleep 1000"], [null.fileno(), writing, null.fileno()])
        os.close(writing)
        assert talk.report()["event"] == "started"
        subprocess.run(["userdel", "-f", made.pw_name], check=True, capture_output=True)
        talk.ask({"op": "signal", "signal": "TERM"}, [], [])
        assert talk.report()["signal"] == "TERM"
        os.close(output)
        assert "no account" in talk.run(made.pw_name, b"echo in")[1]["message"]
        subprocess.run(["useradd", "-M", "-d", made.pw_dir, made.pw_name], check=True)
