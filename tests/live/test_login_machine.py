"""What a session gets of its machine: environment, greeting, records and PAM."""

from __future__ import annotations

import fcntl
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from private_machine import (
    Machine,
    account,
    become,
    machine,
    make_machine,
    numbers_can_be_chosen,
    read_all,
    stopped,
    wait_until,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """An account with bash."""
    with account("/bin/bash") as made:
        yield made


@pytest.fixture
def root(tmp_path: Path, user: pwd.struct_passwd) -> Path:
    """The files of a machine."""
    make_machine(tmp_path)
    tmp_path.chmod(0o755)
    return tmp_path


def variables(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}


# -- environment ----------------------------------------------------------------------
def test_environment_of_the_machine(root: Path, user: pwd.struct_passwd) -> None:
    """/etc/environment and the locale are read as pam_env does; the connection is not forged."""
    (root / "etc/environment").write_text(
        '# comment\nPATH="/opt/bin:/bin:/usr/bin"\nexport EDITOR=ed # short\nSSH_CLIENT=9.9.9.9\n'
    )
    (root / "etc/default/locale").write_text("LANG=C.UTF-8\n")
    with machine(root) as it:
        text, _ = it.run(user.pw_name, b"env", b"LANG=xx", b"LC_TIME=C")
    found = variables(text)
    assert found["PATH"] == "/opt/bin:/bin:/usr/bin"
    assert (found["EDITOR"], found["LANG"], found["LC_TIME"]) == ("ed", "C.UTF-8", "C")
    assert found["SSH_CLIENT"] == "192.0.2.7 50000 22"


def test_files_of_the_user_change_nothing(root: Path, user: pwd.struct_passwd) -> None:
    """``~/.ssh/environment`` and ``~/.ssh/rc`` are never read (attack)."""
    folder = Path(user.pw_dir) / ".ssh"
    folder.mkdir(exist_ok=True)
    (folder / "environment").write_text("LD_PRELOAD=/tmp/x.so\nBAD=1\n")
    (folder / "rc").write_text("echo rc-was-run\n")
    with machine(root) as it:
        text, _ = it.run(user.pw_name, b"env")
    assert "BAD" not in text
    assert "LD_PRELOAD" not in text
    assert "rc-was-run" not in text


# -- greeting -------------------------------------------------------------------------
def shell(it: Machine, login: str, *commands: str) -> str:
    """Output of an interactive shell up to its exit."""
    terminal, report = it.start(login, b"TERM=dumb", pty=True, kind="shell")
    assert report["event"] == "started", report
    os.write(terminal, "".join(f"{each}\n" for each in (*commands, "exit")).encode())
    text = read_all(terminal)
    assert it.report()["event"] == "exited"
    return text


def test_greeting(root: Path, user: pwd.struct_passwd) -> None:
    """A shell on a terminal shows the last login and the message of the day; commands do not."""
    (root / "etc/motd").write_text("Welcome aboard\n")
    with machine(root) as it:
        first = shell(it, user.pw_name)
        assert "Welcome aboard" in first
        assert "Last login" not in first
        second = shell(it, user.pw_name)
        assert second.index("Last login: ") < second.index("Welcome aboard")
        assert "from 192.0.2.7\r\n" in second
        assert "Welcome" not in it.run(user.pw_name, b"true", pty=True)[0]
        hush = Path(user.pw_dir) / ".hushlogin"
        hush.touch()
        quiet = shell(it, user.pw_name)
        hush.unlink()
        assert "Welcome" not in quiet
        assert "Last login" not in quiet


# -- records --------------------------------------------------------------------------
def test_who_and_last(root: Path, user: pwd.struct_passwd) -> None:
    """``who`` shows a terminal while it is there, ``last`` and ``lastlog`` for good."""
    name = user.pw_name
    with machine(root) as it:
        terminal, report = it.start(name, b"exec sleep 1000", pty=True)
        (shown,) = it.inside("who", "-u", "/run/utmp").splitlines()
        assert shown.split()[0] == name
        assert shown.split()[1].startswith("pts/")
        assert str(report["pid"]) in shown.split()
        assert "(192.0.2.7)" in shown
        it.ask({"op": "hangup"}, [], [])
        assert it.report()["signal"] == "HUP"
        os.close(terminal)
        wait_until(lambda: it.inside("who", "/run/utmp") == "")
        wait_until(lambda: (root / "log/wtmp").stat().st_size == 2 * 384)
        wait_until(lambda: "(00:00)" in it.inside("last", "-w", "-f", "/var/log/wtmp"))
        (shown, *_) = it.inside("last", "-w", "-f", "/var/log/wtmp").splitlines()
        assert shown.split()[0] == name
        assert "192.0.2.7" in shown
        assert "192.0.2.7" in it.inside("lastlog", "-u", name)


def test_no_terminal_no_record(root: Path, user: pwd.struct_passwd) -> None:
    """Commands without a terminal are not in utmp, as under sshd."""
    with machine(root) as it:
        it.run(user.pw_name, b"true")
    assert (root / "run/utmp").stat().st_size == 0


def test_a_locked_utmp_prevents_no_login(root: Path, user: pwd.struct_passwd) -> None:
    """Any user may lock what they can read: logins go on (attack)."""
    with open(root / "run/utmp", "r+b") as file, machine(root) as it:
        fcntl.lockf(file, fcntl.LOCK_SH)
        assert it.run(user.pw_name, b"true", pty=True)[1]["status"] == 0


# -- PAM ------------------------------------------------------------------------------
PERMIT = "account required pam_permit.so\nsession required pam_permit.so\n"


def service(root: Path, text: str) -> None:
    (root / "etc/pam.d/tele-test").write_text(text)


def test_pam_environment_and_limits(root: Path, user: pwd.struct_passwd) -> None:
    """pam_env's variables and pam_limits' limits are the session's."""
    service(
        root,
        PERMIT + "session required pam_limits.so\nsession required pam_env.so\n",
    )
    (root / "etc/environment").write_text("FROM_PAM=yes\n")
    (root / "etc/security/limits.conf").write_text(f"{user.pw_name} hard core 4321\n")
    with machine(root, pam="tele-test") as it:
        text, report = it.run(user.pw_name, b"env; ulimit -H -c; id -u; exit 7")
        assert report["status"] == 7, text
        assert variables(text)["FROM_PAM"] == "yes"
        assert "4321" in text.splitlines()
        assert str(user.pw_uid) in text.splitlines()


@pytest.mark.parametrize("kind", ["exec", "shell"])
def test_pam_s_umask_is_the_session_s(root: Path, user: pwd.struct_passwd, kind: str) -> None:
    """pam_umask applies, from its own line or from login.defs; without it, it is 022."""
    for rule, expected in (
        ("session optional pam_umask.so umask=0027\n", "0027"),
        ("session optional pam_umask.so\n", "0077"),
        ("", "0022"),
    ):
        service(root, PERMIT + rule)
        defs = root / "etc/login.defs"
        defs.write_text("UMASK 077\nUSERGROUPS_ENAB no\n")
        with machine(root, pam="tele-test") as it:
            if kind == "exec":
                assert it.run(user.pw_name, b"umask")[0].strip() == expected
            else:
                assert expected in shell(it, user.pw_name, "umask")


def test_open_files_of_a_session(root: Path, user: pwd.struct_passwd) -> None:
    """A session begins with the limit of the node; limits.conf overrides it."""
    limits = root / "etc/security/limits.conf"
    limits.write_text("")
    (root / "etc/security/limits.d").mkdir(exist_ok=True)
    service(root, PERMIT + "session required pam_limits.so\n")
    for pam in ("", "tele-test"):
        with machine(root, pam=pam, open_files=777) as it:
            assert it.run(user.pw_name, b"ulimit -Sn")[0] == "777\n"
    limits.write_text(f"{user.pw_name} soft nofile 555\n{user.pw_name} hard nofile 5555\n")
    with machine(root, pam="tele-test", open_files=777) as it:
        assert it.run(user.pw_name, b"ulimit -Sn; ulimit -Hn")[0] == "555\n5555\n"
    with machine(root, open_files=1 << 40) as it:
        text = it.run(user.pw_name, b"ulimit -Sn; ulimit -Hn")[0]
        assert len(set(text.split())) == 1, "never more than the hard limit"


def test_pam_denies_with_its_text(root: Path, user: pwd.struct_passwd) -> None:
    """What the account stack denies is refused, with what its modules say."""
    service(root, "account required pam_nologin.so\n" + PERMIT)
    (root / "etc/nologin").unlink(missing_ok=True)
    with machine(root, pam="tele-test") as it:
        assert it.run(user.pw_name, b"echo in")[1]["status"] == 0
        service(root, "account required pam_deny.so\n" + PERMIT)
        text, report = it.run(user.pw_name, b"echo in")
        assert (text, report["event"], report["reason"]) == ("", "failed", "pam")
        assert report["message"] == "PAM denies the session: Authentication failure"
        service(root, "account required pam_echo.so Closed for the day\n"
                      "account required pam_deny.so\n" + PERMIT)  # fmt: skip
        assert it.run(user.pw_name, b"echo in")[1]["message"] == "Closed for the day"
        service(root, "account required pam_permit.so\nsession required pam_deny.so\n")
        assert it.run(user.pw_name, b"echo in")[1]["reason"] == "pam"


def test_pam_message_is_shown(root: Path, user: pwd.struct_passwd) -> None:
    """What modules say is shown on a terminal, and not into the output of a command."""
    service(root, PERMIT + "session optional pam_motd.so motd=/etc/motd.pam noupdate\n")
    (root / "etc/motd.pam").write_text("Hello from PAM\n")
    (root / "etc/motd").write_text("Hello from us\n")
    with machine(root, pam="tele-test") as it:
        text = shell(it, user.pw_name)
        assert "Hello from PAM" in text
        assert "Hello from us" not in text
        assert it.run(user.pw_name, b"echo out")[0] == "out\n"


def hooks(root: Path) -> Path:
    """A service that notes the opening and closing of sessions; return where."""
    notes = root / "notes"
    script = root / "note"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $PAM_RHOST $PAM_TTY" >> {notes}\n')
    script.chmod(0o755)
    service(root, f"account required pam_permit.so\nsession required pam_exec.so {script}\n")
    return notes


def test_pam_session_is_closed(root: Path, user: pwd.struct_passwd) -> None:
    """The session is closed by root when its program has ended, however that ends."""
    notes = hooks(root)
    name = user.pw_name
    with machine(root, pam="tele-test") as it:
        assert it.run(name, b"exit 3")[1]["status"] == 3
        wait_until(lambda: "close_session" in notes.read_text())
        assert notes.read_text().splitlines() == [
            f"open_session {name} 192.0.2.7 ssh",
            f"close_session {name} 192.0.2.7 ssh",
        ]
        notes.unlink()
        output, _ = it.start(name, b"kill -SEGV $$")
        assert it.report()["signal"] == "SEGV"
        os.close(output)
        wait_until(lambda: "close_session" in notes.read_text())
        notes.unlink()
        terminal, report = it.start(name, b"exec sleep 1000", pty=True)
        assert os.getsid(report["pid"]) == report["pid"]
        it.ask({"op": "signal", "signal": "TERM"}, [], [])
        assert it.report()["signal"] == "TERM"
        os.close(terminal)
        wait_until(lambda: "close_session" in notes.read_text())
        assert "/dev/pts/" in notes.read_text()


def test_pam_session_is_closed_without_the_spawner(root: Path, user: pwd.struct_passwd) -> None:
    """A spawner that is killed leaves sessions running, and their PAM sessions are closed at their
    end.
    """
    notes = hooks(root)
    with machine(root, pam="tele-test") as it:
        output, report = it.start(user.pw_name, b"exec sleep 1000")
        it.process.send_signal(signal.SIGKILL)
        it.process.wait(30)
        assert Path(f"/proc/{report['pid']}").exists()
        assert "close_session" not in notes.read_text()
        os.kill(report["pid"], signal.SIGTERM)
        wait_until(lambda: "close_session" in notes.read_text())
        os.close(output)


def test_a_monitor_that_is_killed_is_noticed(root: Path, user: pwd.struct_passwd) -> None:
    """Without its monitor a session is hung up, and its status is unknown."""
    service(root, PERMIT)
    with machine(root, pam="tele-test") as it:
        output, report = it.start(user.pw_name, b"exec sleep 1000")
        status = Path(f"/proc/{report['pid']}/status").read_text()
        (parent,) = (line for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(int(parent.split()[1]), signal.SIGKILL)
        ended = it.report()
        assert (ended["event"], ended["status"], ended["signal"]) == ("exited", None, None)
        wait_until(lambda: not Path(f"/proc/{report['pid']}").exists())
        os.close(output)


@numbers_can_be_chosen
@pytest.mark.parametrize("monitored", [True, False], ids=["monitored", "monitor-killed"])
@pytest.mark.parametrize("operation", ["kill", "hangup"])
def test_a_number_that_is_used_again(
    root: Path, user: pwd.struct_passwd, operation: str, monitored: bool
) -> None:
    """The monitor waits for the program, so the number of that may be another process's when the
    spawner signals it (attack).
    """
    service(root, PERMIT)
    with machine(root, pam="tele-test") as it:
        output, report = it.start(user.pw_name, b"exec sleep 1000")
        pid = report["pid"]
        monitor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        with stopped(it.process.pid):
            it.ask({"op": operation}, [], [])
            if not monitored:
                os.kill(monitor, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not Path(f"/proc/{pid}").exists())
            other = become(pid)
        assert it.report()["signal"] == ("KILL" if monitored else None)
        assert it.run(user.pw_name, b"echo on")[0] == "on\n"
        if other is not None:
            ended = os.waitpid(other, os.WNOHANG)
            os.kill(other, signal.SIGKILL)
            assert ended == (0, 0)
            os.waitpid(other, 0)
        os.close(output)


def test_spawner_never_loads_pam(root: Path, user: pwd.struct_passwd) -> None:
    """The library of PAM is in the monitor, and never in the spawner."""
    service(root, PERMIT)
    with machine(root, pam="tele-test") as it:
        output, _ = it.start(user.pw_name, b"exec sleep 1000")
        maps = Path(f"/proc/{it.process.pid}/maps").read_text()
        assert "libpam" not in maps
        assert "ctypes" not in maps
        it.ask({"op": "hangup"}, [], [])
        it.report()
        os.close(output)


def test_prompts_of_pam_get_no_answer(root: Path, user: pwd.struct_passwd) -> None:
    """A module that wants a password gets none, and that is a denial, not a wait."""
    service(root, "account required pam_permit.so\nsession required pam_exec.so /bin/false\n")
    with machine(root, pam="tele-test") as it:
        assert it.run(user.pw_name, b"echo in")[1]["event"] == "failed"
