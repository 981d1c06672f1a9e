"""Control groups of sessions: what is in them, what outlives them, what ends with them."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from private_machine import Machine, account, machine, make_machine, wait_until
from tele.spawner.control_groups import FOLDER, Groups, find_group, own_group

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(own_group() is None, reason="this system has no cgroup v2"),
]
SESSIONS = Path(own_group() or "/", FOLDER)


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


def group_of(it: Machine, number: int) -> Path:
    """The folder of a session's group; the spawner has started one after another."""
    (found,) = SESSIONS.glob(f"{it.process.pid}.*.{number}")
    return found


def members(group: Path) -> set[int]:
    return {int(line) for line in (group / "cgroup.procs").read_text().split()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_with_leftover(it: Machine, login: str) -> tuple[int, int, int]:
    """Start a session that leaves a process in a session of its own; return its output and pids."""
    command = b"setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exec sleep 1000"
    output, report = it.start(login, command)
    other = int(os.read(output, 100))
    wait_until(lambda: os.getsid(other) == other)
    return output, report["pid"], other


def test_all_of_a_session_is_in_its_group(root: Path, user: pwd.struct_passwd) -> None:
    """Also what left its process group; the id is the inode; what is empty is removed."""
    with machine(root) as it:
        output, report = it.start(user.pw_name, b"setsid sleep 1000 & echo $!; exec sleep 1000")
        other = int(os.read(output, 100))
        group = group_of(it, 1)
        assert group.stat().st_ino == report["cgroup"]
        wait_until(lambda: {report["pid"], other} <= members(group))
        assert it.process.pid not in members(group)
        os.kill(other, signal.SIGKILL)
        it.ask({"op": "hangup"}, [], [])
        assert it.report()["signal"] == "HUP"
        wait_until(lambda: not group.exists())
        os.close(output)


def test_no_process_leaves_its_group(root: Path, user: pwd.struct_passwd) -> None:
    """A user cannot move their processes out, nor end the group's record (attack)."""
    with machine(root) as it:
        procs = SESSIONS.parent / "cgroup.procs"
        attack = f"echo $$ > {procs}; rmdir {SESSIONS}/*; mkdir {SESSIONS}/mine"
        command = f"({attack}) 2>/dev/null; grep 0:: /proc/self/cgroup"
        text, _ = it.run(user.pw_name, command.encode())
    assert text.startswith("0::")
    assert f"/{FOLDER}/" in text
    assert not (SESSIONS / "mine").exists()


def test_a_group_is_found_when_its_first_process_has_ended() -> None:
    """What it left running is traced on: a program that ends at once is no escape (attack). A
    number that is another process's by now misleads nobody.
    """
    groups = Groups(own_group())
    name = groups.name(1)
    try:
        for descriptor in groups.make(name) or ():
            os.close(descriptor)
        number = groups.id_of(name)
        ended = subprocess.Popen(["/bin/true"])
        ended.wait()
        for process in (ended.pid, os.getpid()):
            assert find_group(process, number) == str(SESSIONS / name)
    finally:
        groups.session_ended(name)
    assert find_group(ended.pid, number) is None


def test_leftovers_live_on(root: Path, user: pwd.struct_passwd) -> None:
    """By default what a session leaves behind goes on, in its group, which ends with it."""
    with machine(root) as it:
        output, _, other = start_with_leftover(it, user.pw_name)
        group = group_of(it, 1)
        it.ask({"op": "hangup"}, [], [])
        assert it.report()["signal"] == "HUP"
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        assert members(group) == {other}
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: not group.exists())
        os.close(output)


@pytest.mark.parametrize("pam", ["", "tele-permit"])
def test_leftovers_are_killed(root: Path, user: pwd.struct_passwd, pam: str) -> None:
    """With kill_leftovers nothing of a session outlives it."""
    rules = "account required pam_permit.so\nsession required pam_permit.so\n"
    (root / "etc/pam.d/tele-permit").write_text(rules)
    with machine(root, kill_leftovers=True, pam=pam) as it:
        output, _, other = start_with_leftover(it, user.pw_name)
        group = group_of(it, 1)
        it.ask({"op": "hangup"}, [], [])
        assert it.report()["signal"] == "HUP"
        wait_until(lambda: not is_running(other))
        wait_until(lambda: not group.exists())
        os.close(output)


def test_nothing_of_an_expelled_user_stays(root: Path, user: pwd.struct_passwd) -> None:
    """An expelled user leaves no process running, whatever is configured and whatever the program
    ignores.
    """
    with machine(root) as it:
        output, _, other = start_with_leftover(it, user.pw_name)
        it.ask({"op": "hangup", "expelled": True}, [], [])
        assert it.report()["signal"] == "HUP"
        wait_until(lambda: not is_running(other))
        os.close(output)
        stays = b"trap '' HUP; setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; sleep 1000"
        output, report = it.start(user.pw_name, b"trap '' HUP; " + stays)
        other = int(os.read(output, 100))
        it.ask({"op": "hangup", "expelled": True}, [], [])
        wait_until(lambda: not is_running(report["pid"]) and not is_running(other))
        os.close(output)


def test_others_do_not_put_it_off(root: Path, user: pwd.struct_passwd) -> None:
    """Who may not be on the machine any more does not stay for as long as others use it."""
    with machine(root) as it:
        output, report = it.start(user.pw_name, b"trap '' HUP; echo on; exec sleep 1000")
        assert os.read(output, 100) == b"on\n"
        it.ask({"op": "hangup", "expelled": True}, [], [])

        def is_killed() -> bool:
            it.ask({"op": "hangup", "id": 99}, [], [])
            time.sleep(0.5)
            return not is_running(report["pid"])

        wait_until(is_killed)
        os.close(output)


def test_what_ignores_the_hang_up_is_killed(root: Path, user: pwd.struct_passwd) -> None:
    """With kill_leftovers a program that ignores SIGHUP ends too, when the node does."""
    with machine(root, kill_leftovers=True) as it:
        command = b"trap '' HUP; echo ready; sleep 1000; sleep 1000"
        output, report = it.start(user.pw_name, command)
        assert os.read(output, 100) == b"ready\n"
        group = group_of(it, 1)
        it.ask({"op": "hangup"}, [], [])
    wait_until(lambda: not is_running(report["pid"]))
    os.close(output)
    with machine(root):
        wait_until(lambda: not group.exists())


def test_the_next_spawner_cleans_up(root: Path, user: pwd.struct_passwd) -> None:
    """Groups of a spawner that was killed stay while something lives in them."""
    with machine(root) as it:
        output, report = it.start(user.pw_name, b"exec sleep 1000")
        group = group_of(it, 1)
        it.process.kill()
        it.process.wait(30)
    with machine(root) as it:
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        assert members(group) == {report["pid"]}
        os.kill(report["pid"], signal.SIGKILL)
        wait_until(lambda: not group.exists())
    os.close(output)
