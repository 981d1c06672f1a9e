"""Sessions that a process of their login starts: the same as those that the spawner forks."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from private_machine import (
    Machine,
    account,
    become,
    machine,
    make_machine,
    numbers_can_be_chosen,
    stopped,
    wait_until,
)
from tele.spawner.control_groups import FOLDER, own_group
from tele.spawner.login_hosts import MAX_HOSTS

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(own_group() is None, reason="this system has no cgroup v2"),
]
SESSIONS = Path(own_group() or "/", FOLDER)
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
FACTS = b"""
import os
print(os.getppid(), os.getresuid(), os.getresgid(), sorted(os.getgroups()))
print(*sorted(map(int, os.listdir("/proc/self/fd"))))
print(os.getsid(0) == os.getpid() == os.getpgrp(), os.umask(0), os.getcwd())
print(open("/proc/self/cgroup").read().rpartition("0::")[2].strip())
print(open("/proc/self/loginuid").read(), open("/proc/self/oom_score_adj").read())
print(*sorted(os.environ.items()))
for line in open("/proc/self/status"):
    if line.startswith("SigIgn"):  # glibc ignores two of its own (32, 33) where it spawns
        print(hex(int(line.split()[1], 16) & ~(0b11 << 31)))
    elif line.startswith(("Cap", "SigBlk", "SigCgt", "Umask", "NoNewPrivs")):
        print(line.strip())
"""


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """An account."""
    with account("/bin/sh") as made:
        yield made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, user: pwd.struct_passwd) -> Path:
    """The files of a machine."""
    made = tmp_path_factory.mktemp("machine")
    make_machine(made)
    return made


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in listed.split()}


def host_of(it: Machine, user: pwd.struct_passwd) -> int:
    """Have a process of the login; return its pid."""
    for _ in range(2):
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"

    def found() -> list[int]:
        owners = {pid: os.stat(f"/proc/{pid}").st_uid for pid in children(it.process.pid)}
        return [pid for pid, owner in owners.items() if owner == user.pw_uid]

    wait_until(found)
    (pid,) = found()
    wait_until(lambda: it.run(user.pw_name, b"echo $PPID")[0] == f"{pid}\n")  # it is ready
    return pid


def parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nPPid:")[1].split()[0])


def start_hosted(
    it: Machine, user: pwd.struct_passwd, command: bytes
) -> tuple[int, dict[str, Any]]:
    """Start a session by a process of its login: on a busy machine it may have had its time."""
    while True:
        host_of(it, user)
        output, report = it.start(user.pw_name, command)
        if report["pid"] not in children(it.process.pid):
            return output, report
        it.ask({"op": "kill"}, [], [])
        assert it.report()["signal"] == "KILL"
        os.close(output)


def facts(it: Machine, user: pwd.struct_passwd) -> list[str]:
    path = Path(user.pw_dir, "facts.py")
    path.write_bytes(FACTS)
    text, report = it.run(user.pw_name, f"exec {PYTHON} -I -S {path}".encode())
    assert report["status"] == 0
    return text.splitlines()


def test_nothing_differs(root: Path, user: pwd.struct_passwd) -> None:
    """Identity, descriptors, signals, environment and limits are those of a forked session."""
    with machine(root) as it:
        forked = facts(it, user)
    with machine(root) as it:
        host = host_of(it, user)
        hosted = facts(it, user)
        groups = {facts(it, user)[3] for _ in range(3)}
    assert hosted[0].startswith(f"{host} ")
    assert not forked[0].startswith(f"{host} ")
    gids = sorted({user.pw_gid, *(g.gr_gid for g in grp.getgrall() if user.pw_name in g.gr_mem)})
    assert hosted[0] == f"{host} {(user.pw_uid,) * 3} {(user.pw_gid,) * 3} {gids}"
    assert [line for n, line in enumerate(hosted) if n not in (0, 3)] == [
        line for n, line in enumerate(forked) if n not in (0, 3)
    ]
    assert len(groups) == 3, "each session is in a control group of its own"
    assert all(f"/{FOLDER}/" in group for group in groups)


def test_how_they_end(root: Path, user: pwd.struct_passwd) -> None:
    """Statuses and signals arrive; a signal is sent as the account."""
    with machine(root) as it:
        host_of(it, user)
        assert it.run(user.pw_name, b"exit 7")[1]["status"] == 7
        assert it.run(user.pw_name, b"kill -TERM $$")[1]["signal"] == "TERM"
        output, report = start_hosted(it, user, b"exec sleep 1000")
        assert os.stat(SESSIONS).st_ino != report["cgroup"] != 0
        it.ask({"op": "signal", "signal": "TERM"}, [], [])
        assert it.report()["signal"] == "TERM"
        os.close(output)
        with open(os.devnull, "r+b") as null:
            header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": False}
            for number in range(50, 60):  # several at once
                it.ask({**header, "words": 1, "id": number}, [b"true"], [null.fileno()] * 3)
        ended = [it.report() for _ in range(20)]
        assert {each["id"] for each in ended if each["event"] == "exited"} == set(range(50, 60))


def test_the_account_cannot_trace_it(root: Path, user: pwd.struct_passwd) -> None:
    """A user who traced it could read what other users of the login send to their sessions
    (attack).
    """
    with machine(root) as it:
        host = host_of(it, user)
        for file in ("mem", "environ", "fd/0", "maps"):
            text, _ = it.run(user.pw_name, f"cat /proc/{host}/{file} 2>&1".encode())
            assert "Permission denied" in text or "Input/output" not in text
            assert "denied" in text
        assert children(it.process.pid) >= {host}


@pytest.mark.parametrize("status", ["kill_leftovers", "expelled"])
def test_a_session_is_ended_without_it(root: Path, user: pwd.struct_passwd, status: str) -> None:
    """Ending all that a session left behind ends neither the process nor other sessions."""
    with machine(root, kill_leftovers=status == "kill_leftovers") as it:
        other, report = start_hosted(it, user, b"exec sleep 1000")
        host = parent(report["pid"])
        command = b"setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exec sleep 1000"
        output, _ = it.start(user.pw_name, command)
        left = int(os.read(output, 100))
        wait_until(lambda: os.getsid(left) == left)
        it.ask({"op": "hangup", "expelled": status == "expelled"}, [], [])
        assert it.report()["signal"] == "HUP"
        wait_until(lambda: not Path(f"/proc/{left}").exists())
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        assert parent(report["pid"]) == host
        os.close(output)
        os.close(other)


def test_when_the_account_kills_it(root: Path, user: pwd.struct_passwd) -> None:
    """Only exit statuses are lost; the next session starts without it."""
    with machine(root) as it:
        output, report = start_hosted(it, user, b"exec sleep 1000")
        os.kill(parent(report["pid"]), signal.SIGKILL)
        ended = it.report()
        assert (ended["event"], ended["status"], ended["signal"]) == ("exited", None, None)
        os.close(output)
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        wait_until(lambda: not Path(f"/proc/{report['pid']}").exists())


def test_when_the_account_stops_it(root: Path, user: pwd.struct_passwd) -> None:
    """A start that is given up is never run, and no other waits behind it (attack)."""
    with machine(root) as it:
        host = host_of(it, user)
        os.kill(host, signal.SIGSTOP)
        marker = Path(user.pw_dir, "marker")
        with open(os.devnull, "r+b") as null:
            header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": False}
            command = f"sleep 0.3; touch {marker}".encode()
            it.ask({**header, "words": 1, "id": 90}, [command], [null.fileno()] * 3)
        it.ask({"op": "kill", "id": 90}, [], [])
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        os.kill(host, signal.SIGCONT)
        assert [it.report()["event"] for _ in range(2)] == ["started", "exited"]
        wait_until(lambda: not Path(f"/proc/{host}").exists())
        assert not marker.exists()


@pytest.mark.parametrize("operation", ["kill", "hangup"])
@numbers_can_be_chosen
def test_a_number_that_is_used_again(root: Path, user: pwd.struct_passwd, operation: str) -> None:
    """The process of a login waits for its sessions, and the account can delay what it reports.
    So the number of a session may be another process's when the session is signalled (attack).
    """
    with machine(root) as it:
        output, report = start_hosted(it, user, b"exec sleep 1000")
        pid = report["pid"]
        for _ in range(3):  # which of the two messages is read first is up to the kernel
            with stopped(it.process.pid):
                it.ask({"op": operation}, [], [])
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
                other = become(pid)
            assert it.report()["signal"] == "KILL"
            assert it.run(user.pw_name, b"echo on")[0] == "on\n"
            if other is not None:
                ended = os.waitpid(other, os.WNOHANG)
                os.kill(other, signal.SIGKILL)
                assert ended == (0, 0)
                os.waitpid(other, 0)
            os.close(output)
            output, report = start_hosted(it, user, b"exec sleep 1000")
            pid = report["pid"]
        it.ask({"op": "hangup"}, [], [])
        assert it.report()["signal"] == "HUP"
        os.close(output)


def test_when_the_account_takes_its_descriptors(root: Path, user: pwd.struct_passwd) -> None:
    """All sessions that were handed over are refused at once; the next starts without it
    (attack).
    """
    with machine(root) as it:
        host = host_of(it, user)
        used = 5  # its standard descriptors and a pipe
        os.kill(host, signal.SIGSTOP)
        limit = f"import resource as r; r.prlimit({host}, r.RLIMIT_NOFILE, ({used}, {used}))"
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run([PYTHON, "-I", "-S", "-c", limit], check=True, cwd="/", **who)  # type: ignore[call-overload]
        with open(os.devnull, "r+b") as null:
            header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": False}
            for number in range(50, 60):
                it.ask({**header, "words": 1, "id": number}, [b"true"], [null.fileno()] * 3)
        os.kill(host, signal.SIGCONT)
        it.socket.settimeout(20)
        ended: dict[int, str] = {}
        while len(ended) < 10:  # which of them were handed over already is up to the kernel
            report = it.report()
            if report["event"] != "started":
                ended[report["id"]] = report["event"]
        assert "failed" in ended.values()
        assert it.run(user.pw_name, b"ulimit -n")[0] != f"{used}\n"


def test_stopped_processes_do_not_add_up(root: Path, user: pwd.struct_passwd) -> None:
    """An account that stops each process of its login uses up nothing of the spawner (attack)."""
    stopped: set[int] = set()
    with machine(root) as it:
        spawner = it.process.pid
        for _ in range(3 * MAX_HOSTS):
            for _ in range(2):
                it.run(user.pw_name, b"true")
            host = int(it.run(user.pw_name, b"echo $PPID")[0])
            if host == spawner:
                continue
            stopped.add(host)
            os.kill(host, signal.SIGSTOP)
            it.number += 1
            header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": False}
            with open(os.devnull, "r+b") as null:
                it.ask({**header, "words": 1}, [b"true"], [null.fileno()] * 3)
            it.ask({"op": "kill"}, [], [])
        assert 1 < len(stopped) <= MAX_HOSTS
        assert len(os.listdir(f"/proc/{spawner}/fd")) <= MAX_HOSTS + 12
    for host in stopped:
        wait_until(lambda host=host: not Path(f"/proc/{host}").exists())  # type: ignore[misc]


def test_users_who_share_a_login(root: Path, user: pwd.struct_passwd) -> None:
    """Each has a process of their own, as each has a connection of their own (attack)."""
    with machine(root) as it:
        users = [b"TELE_USER=alice", b"TELE_USER=bob"]
        parents: list[str] = []

        def have_processes() -> bool:
            parents[:] = [it.run(user.pw_name, b"echo $PPID", who)[0] for who in users]
            return len({*parents, f"{it.process.pid}\n"}) == 3

        wait_until(have_processes)
        os.kill(int(parents[0]), signal.SIGKILL)
        assert it.run(user.pw_name, b"echo $PPID", users[1])[0] == parents[1]


def test_one_whose_shell_is_gone(root: Path, tmp_path: Path) -> None:
    """With kill_leftovers, what a session that did not start leaves is killed: not the process of
    the login, on which others depend.
    """
    tmp_path.chmod(0o755)
    shell = Path(f"/tmp/tele-{uuid.uuid4().hex}")
    shell.symlink_to("/bin/sh")
    try:
        with account(str(shell)) as user:
            make_machine(tmp_path)
            with machine(tmp_path, kill_leftovers=True) as it:
                host = host_of(it, user)
                shell.unlink()
                for _ in range(10):
                    assert it.run(user.pw_name, b"true")[1]["reason"] == "exec"
                shell.symlink_to("/bin/sh")
                assert it.run(user.pw_name, b"echo $PPID")[0] == f"{host}\n"
    finally:
        shell.unlink(missing_ok=True)


@pytest.mark.parametrize("change", ["nologin", "expired", "group", "locale"])
def test_what_changes_counts_at_once(root: Path, user: pwd.struct_passwd, change: str) -> None:
    """No session starts by what a process read before accounts changed (attack)."""
    files = {name: root / "etc" / name for name in ("group", "shadow", "nologin")}
    files["locale"] = root / "etc/default/locale"
    before = {name: file.read_text() for name, file in files.items() if file.exists()}
    try:
        with files["group"].open("a") as file:
            file.write(f"telewheel:x:64999:{user.pw_name}\n")
        with machine(root) as it:
            host_of(it, user)
            assert "64999" in it.run(user.pw_name, b"id -G")[0]
            if change == "nologin":
                files["nologin"].write_text("not now\n")
            elif change == "expired":
                made = f"{user.pw_name}:!:1:::::1:\n"
                lines = before["shadow"].splitlines(keepends=True)
                others = [line for line in lines if not line.startswith(f"{user.pw_name}:")]
                files["shadow"].write_text("".join(others) + made)
            elif change == "locale":
                files["locale"].write_text("LANG=C.UTF-8\nLC_TIME=tlh_KX\n")
            else:
                files["group"].write_text(before["group"])
            text, report = it.run(user.pw_name, b"id -G; echo $LC_TIME")
            if change == "locale":
                assert "tlh_KX" in text
            elif change == "group":
                assert "64999" not in text
            else:
                assert (report["event"], report["reason"]) == ("failed", change)
    finally:
        for name in ("nologin", "locale"):
            files[name].unlink(missing_ok=True)
        for name, content in before.items():
            files[name].write_text(content)


def test_it_ends_with_the_spawner(root: Path, user: pwd.struct_passwd) -> None:
    """Nothing of it is left: neither a process nor a control group."""
    with machine(root) as it:
        host = host_of(it, user)
        pid = it.process.pid
        output, report = it.start(user.pw_name, b"exec sleep 1000")
    os.close(output)
    for each in (host, report["pid"]):
        wait_until(lambda each=each: not Path(f"/proc/{each}").exists())  # type: ignore[misc]
    assert not list(SESSIONS.glob(f"{pid}.*"))


def test_when_the_spawner_dies(root: Path, user: pwd.struct_passwd) -> None:
    """Its sessions continue; it ends, and starts nothing that was asked for."""
    with machine(root) as it:
        host = host_of(it, user)
        output, report = it.start(user.pw_name, b"exec sleep 1000")
        marker = Path(user.pw_dir, "unwanted")
        with stopped(host):
            header = {"op": "start", "kind": "exec", "login": user.pw_name, "pty": False}
            with open(os.devnull, "r+b") as null:
                command = f"touch {marker}".encode()
                it.ask({**header, "words": 1, "id": 90}, [command], [null.fileno()] * 3)
            it.ask({"op": "kill", "id": 90}, [], [])
            it.run("root", b"true")  # both are read
            it.process.kill()
            it.process.wait(30)
        wait_until(lambda: not Path(f"/proc/{host}").exists())
        assert os.getsid(report["pid"]) == report["pid"]
        assert not marker.exists()
        os.kill(report["pid"], signal.SIGKILL)
        os.close(output)


def test_what_ends_with_the_spawner_is_reported(root: Path, user: pwd.struct_passwd) -> None:
    """Also while another session ignores that it is hung up."""
    with machine(root) as it:
        host_of(it, user)
        command = b"trap '' HUP; echo on; sleep 1000; sleep 1000"
        stubborn, started = it.start(user.pw_name, command, pty=True)
        shown = b""
        while not shown.endswith(b"\n"):  # a terminal may give a line out in pieces
            shown += os.read(stubborn, 100)
        assert shown == b"on\r\n"
        output, _ = it.start(user.pw_name, b"exec sleep 1000")
        it.socket.shutdown(socket.SHUT_WR)
        report = it.report()
        assert (report["event"], report["id"], report["signal"]) == ("exited", it.number, "HUP")
        os.close(output)
        it.process.wait(30)
    os.killpg(started["pid"], signal.SIGKILL)
    os.close(stubborn)
