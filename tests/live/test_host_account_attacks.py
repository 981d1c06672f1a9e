"""Attacks on the accounts that a node makes, on a machine of its own (its /etc, /home and /run)."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from made_accounts import needs_sudo
from private_machine import Machine, machine, make_machine, wait_until
from tele.spawner import account_requests

pytestmark = needs_sudo

LOGIN = "newhire"
#: Numbers of accounts are from here; another run has others.
FIRST = 100_000 + 1000 * (os.getpid() % 1_000_000)
ID = "ALL=(ALL) NOPASSWD: /usr/bin/id"


class Accounts:
    """A machine whose spawner makes accounts."""

    def __init__(self, root: Path, made: Machine) -> None:
        self.root = root
        self.machine = made
        self.before = self.files()

    def ask(self, do: str, login: str = LOGIN, **wanted: Any) -> dict[str, Any]:
        """Ask for something, and return the answer."""
        self.send(do, login, **wanted)
        return self.machine.report()

    def send(self, do: str, login: str = LOGIN, **wanted: Any) -> None:
        self.machine.number += 1
        if do == "ensure":
            wanted = {"make": True, "drop": True, **wanted}
        self.machine.ask({"op": "account", "do": do, "login": login, **wanted}, [], [])

    def made(self, login: str = LOGIN, **wanted: Any) -> dict[str, Any]:
        """Have an account made, which has to succeed."""
        answer = self.ask("ensure", login, **wanted)
        assert answer["ok"], answer["message"]
        assert answer["managed"]
        return answer

    def refused(self, login: str = LOGIN, **wanted: Any) -> str:
        """Ask for an account that is not made; return the reason. Nothing is left of it."""
        answer = self.ask("ensure", login, **wanted)
        assert not answer["ok"]
        assert self.files() == self.before
        return str(answer["message"])

    def line(self, file: str, name: str = LOGIN) -> list[str]:
        """The fields of a name in /etc/passwd or /etc/group."""
        lines = (self.root / "etc" / file).read_text().splitlines()
        return next((each.split(":") for each in lines if each.startswith(f"{name}:")), [])

    @property
    def home(self) -> Path:
        return self.root / "home" / LOGIN

    def files(self) -> dict[str, Any]:
        """What accounts are made of."""
        texts = {
            name: sorted((self.root / "etc" / name).read_text().splitlines())
            for name in ("passwd", "group", "shadow", "gshadow")
        }
        homes = self.root / "home"
        found: list[str] = sorted(os.listdir(homes)) if homes.exists() else []
        return {**texts, "sudoers": sorted(os.listdir(self.root / "etc/sudoers.d")), "homes": found}


@contextmanager
def accounts_of(root: Path, folder: str = "ledger") -> Iterator[Accounts]:
    with machine(root, accounts=str(root / folder)) as made:
        # The mounts are there once it answers.
        accounts = Accounts(root, made)
        assert accounts.ask("recover")["ok"]
        yield accounts


def lay_out(root: Path) -> None:
    """Make the files of a machine. Its accounts have numbers that no process of ours has."""
    root.mkdir(exist_ok=True)
    make_machine(root)
    root.chmod(0o755)
    defaults = root / "etc/login.defs"
    text = re.sub(r"(?m)^([UG]ID_M(IN|AX))\s.*$", "", defaults.read_text())
    limits = "".join(f"{what}ID_MIN {FIRST}\n{what}ID_MAX {FIRST + 999}\n" for what in "UG")
    defaults.write_text(text + limits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay_out(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.fixture
def accounts(root: Path) -> Iterator[Accounts]:
    with accounts_of(root) as made:
        yield made


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    """A machine of tests that leave nothing on it."""
    root = tmp_path_factory.mktemp("machine")
    lay_out(root)
    (root / "home").mkdir()
    with accounts_of(root) as made:
        yield made


# -- names and texts ------------------------------------------------------------------
@pytest.mark.parametrize(
    "login",
    [
        "-o", "--root=/tmp", "a b", "a,b", "a:b", "a/b", "../x", "a;id", "$(id)", "`id`", "a\nb",
        "root:x", "%sudo", "#0", "+", "4711", "ALL", "Defaults", "Bob", "bob$", "b\0b", "é",
        ".", "a.", "x" * 33, "", "a\\b", "a=b", "a!b", "_apt2", "systemd-x",
    ],
)  # fmt: skip
def test_a_login_that_is_no_plain_name(common: Accounts, login: str) -> None:
    """Options, numbers, paths, and the syntax of shells and of sudoers make no account (attack)."""
    common.refused(login, groups=["audio"], sudoers=[ID])


@pytest.mark.parametrize("login", ["docker", "sudo", "wheel", "admin", "shadow", "systemd-net"])
def test_a_login_named_like_a_system_account_or_group(common: Accounts, login: str) -> None:
    """It would have the rights of that group, or be taken by a package later (attack)."""
    common.refused(login)


def test_a_login_named_like_a_group(accounts: Accounts) -> None:
    """An account does not become a member of a group by its name (attack)."""
    accounts.machine.inside("groupadd", "admins")
    accounts.before = accounts.files()
    assert "there is a group 'admins'" in accounts.refused("admins")


def test_a_login_named_like_a_group_of_sudoers(accounts: Accounts) -> None:
    """Sudoers may name a group that is not there: an account's own group does not become it, and a
    name that begins or ends like it is another (attack).
    """
    sudoers = accounts.root / "etc/sudoers.d/site"
    sudoers.write_text("# %other ALL=(ALL) ALL\nUser_Alias OPS = root, %crew\nOPS ALL=(ALL) ALL\n")
    accounts.before = accounts.files()
    assert "sudoers of this machine names a group 'crew'" in accounts.refused("crew")
    for login in ("crew2", "cre", "other"):
        accounts.made(login)


def test_an_account_of_the_system_is_not_changed(accounts: Accounts) -> None:
    """Root and others that exist are used as they are (attack)."""
    for login in ("root", "daemon", "www-data"):
        answer = accounts.ask("ensure", login, groups=["sudo"], sudoers=[ID], shell="/bin/bash")
        assert (answer["ok"], answer["managed"]) == (True, False)
        assert accounts.ask("release", login)["removed"] is False
    assert accounts.files() == accounts.before


@pytest.mark.parametrize(
    "line",
    [
        "ALL=(ALL) NOPASSWD: ALL\nroot2 ALL=(ALL) ALL", "ALL=(ALL) ALL\r", "ALL=(ALL) ALL \\",
        ", daemon ALL=(ALL) NOPASSWD: ALL", "#include /tmp/x", "@include /tmp/x", "", "ALL",
        "=(ALL) ALL", "ALL=(ALL) ALL\u2028x ALL=ALL", "ALL=(ALL) " + "x" * 2000, "ALL=(ALL) \0",
        "ALL=(ALL", "ALL=(ALL) NOPASSWD:", "ALL = ALL : : ALL", 'ALL=(ALL) "x',
    ],
)  # fmt: skip
def test_a_line_of_sudoers_that_is_more_than_one_rule(common: Accounts, line: str) -> None:
    """No text of a role gets another line, another account or an error into force (attack)."""
    common.refused(sudoers=[ID, line])


def test_sudoers_that_are_refused_leave_none(accounts: Accounts) -> None:
    """What was in force before is not kept when visudo does not accept what is wanted now."""
    accounts.made(sudoers=[ID])
    assert len(accounts.files()["sudoers"]) == 2
    answer = accounts.ask("ensure", sudoers=[ID, "ALL=(ALL"])
    assert (answer["ok"], answer["reason"]) == (False, "account")
    assert "visudo does not accept" in answer["message"]
    assert accounts.files()["sudoers"] == accounts.before["sudoers"]


def test_a_name_with_a_dot_has_its_sudoers(accounts: Accounts) -> None:
    """Sudo leaves out files with a dot in their names; all are whole, and root's."""
    accounts.made("new.hire", sudoers=[ID])
    (file,) = (each for each in (accounts.root / "etc/sudoers.d").iterdir() if "hire" in each.name)
    found = file.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o440, 0)
    listed = accounts.machine.inside("sudo", "-l", "-U", "new.hire")
    assert "NOPASSWD: /usr/bin/id" in listed


@pytest.mark.parametrize(
    "wanted",
    [
        {"groups": ["a,b"]}, {"groups": ["-x"]}, {"groups": ["sudo\n"]}, {"groups": ["NewGroup"]},
        {"shell": "/bin/bash -c id"}, {"shell": "bash"}, {"shell": "/bin/../bin/bash"},
        {"shell": "/bin/true"}, {"shell": "/no/such/shell"}, {"uid": 0}, {"uid": 33}, {"uid": -1},
        {"uid": 1 << 31}, {"gid": 0}, {"gid": 27}, {"gid": -1}, {"groups": ["g"] * 65},
    ],
    ids=str,
)  # fmt: skip
def test_groups_shells_and_numbers_of_no_ordinary_account(
    common: Accounts, wanted: dict[str, Any]
) -> None:
    """Nothing of a role or of a trait is an option, root's, or a system account's (attack)."""
    common.refused(**wanted)


def test_a_number_of_a_group_that_no_role_gives(accounts: Accounts) -> None:
    """A trait does not put an account into a group; a role that gives the group may (attack)."""
    accounts.machine.inside("groupadd", "-g", str(FIRST + 200), "admins")
    accounts.before = accounts.files()
    assert "which no role gives" in accounts.refused(gid=FIRST + 200)
    accounts.made(gid=FIRST + 200, groups=["admins"], uid=FIRST + 100)
    assert accounts.line("passwd")[2:4] == [str(FIRST + 100), str(FIRST + 200)]
    assert accounts.ask("release")["removed"]
    assert accounts.files() == accounts.before


# -- numbers and identities ------------------------------------------------------------
def test_a_number_is_given_to_no_other_login(accounts: Accounts) -> None:
    """Files that a dropped account left do not become another user's (attack)."""
    accounts.made()
    number = accounts.line("passwd")[2]
    assert accounts.ask("release")["removed"]
    accounts.made("other")
    assert accounts.line("passwd", "other")[2] != number
    answer = accounts.ask("ensure", "third", uid=int(number))
    assert "whose files may be left" in answer["message"]
    accounts.made()
    assert accounts.line("passwd")[2] == number


def test_a_number_that_changes(accounts: Accounts) -> None:
    """An account that is kept does not go on with a number that the user's trait does not have any
    more; with a trait as before, or without one, it does.
    """
    accounts.made(drop=False, sudoers=[ID])
    number = int(accounts.line("passwd")[2])
    others: tuple[dict[str, Any], ...] = ({"uid": number + 1}, {"gid": number + 1})
    for trait in others:
        answer = accounts.ask("ensure", drop=False, sudoers=[ID], **trait)
        assert not answer["ok"]
        assert f"id {number} on this machine" in answer["message"]
        assert not list((accounts.root / "etc/sudoers.d").glob("tele-*"))
    fitting: tuple[dict[str, Any], ...] = ({"uid": number}, {})
    for same in fitting:
        assert accounts.ask("ensure", drop=False, **same)["ok"]


def test_jobs_of_a_dropped_account_end_with_it(root: Path) -> None:
    """Who leaves jobs of cron or at does not run commands as the next user of the login, and those
    of others stay (attack).
    """
    tabs, jobs = root / "spool/cron/crontabs", root / "spool/cron/atjobs"
    for folder in (tabs, jobs):
        folder.mkdir(parents=True)
    with accounts_of(root) as accounts:
        accounts.made()
        uid = int(accounts.line("passwd")[2])
        for path, owner in (
            (tabs / LOGIN, uid), (tabs / "other", uid + 1),
            (jobs / "a0001", uid), (jobs / "a0002", uid + 1),
        ):  # fmt: skip
            path.write_text("* * * * * sudo id\n")
            os.chown(path, owner, owner)
        assert accounts.ask("release")["removed"]
        assert [each.name for each in (*tabs.iterdir(), *jobs.iterdir())] == ["other", "a0002"]


def test_jobs_of_an_account_that_is_busy_end(root: Path) -> None:
    """While a process keeps the account, no job begins another one (attack)."""
    tabs = root / "spool/cron/crontabs"
    tabs.mkdir(parents=True)
    with accounts_of(root) as accounts:
        accounts.made()
        uid = int(accounts.line("passwd")[2])
        (tabs / LOGIN).write_text("* * * * * sleep 61\n")
        with subprocess.Popen(["sleep", "600"], user=uid, group=uid, extra_groups=[]) as sleeper:
            try:
                assert accounts.ask("release")["busy"]
            finally:
                sleeper.kill()
        assert not (tabs / LOGIN).exists()
        assert accounts.ask("release")["removed"]


def test_an_account_that_was_made_anew_by_hand_is_left_alone(accounts: Accounts) -> None:
    """The mark decides, not the name and the number."""
    accounts.made(sudoers=[ID])
    number = accounts.line("passwd")[2]
    accounts.machine.inside("userdel", LOGIN)
    accounts.machine.inside("useradd", "-M", "-u", number, "-c", "a person", LOGIN)
    answer = accounts.ask("ensure", groups=["audio"], sudoers=[ID])
    assert (answer["ok"], answer["managed"]) == (True, False)
    assert accounts.ask("release") | {"id": 0} == {
        "id": 0, "event": "account", "ok": True, "removed": False, "busy": False,
    }  # fmt: skip
    assert accounts.line("passwd")[4] == "a person"
    assert accounts.files()["sudoers"] == accounts.before["sudoers"]
    assert LOGIN not in accounts.line("group", "audio")[3]


# -- homes ----------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["/etc", "/root", "/nowhere"])
def test_a_home_that_is_a_link(accounts: Accounts, target: str) -> None:
    """No link is taken for a home, nor followed (attack)."""
    accounts.home.symlink_to(target)
    accounts.before = accounts.files()
    owner = os.stat("/etc").st_uid
    assert "is no folder" in accounts.refused()
    assert os.stat("/etc").st_uid == owner


def test_a_home_of_another_number(accounts: Accounts) -> None:
    """A folder that is another's does not become a home (attack)."""
    accounts.home.mkdir()
    os.chown(accounts.home, FIRST + 300, FIRST + 300)
    accounts.before = accounts.files()
    assert f"belongs to the number {FIRST + 300}" in accounts.refused()
    accounts.made(uid=FIRST + 300)
    assert accounts.ask("release")["removed"]
    assert accounts.home.is_dir()  # tele did not make it


def test_homes_in_a_folder_that_others_may_write(accounts: Accounts) -> None:
    """A user who may rename there could exchange a home while it is made (attack)."""
    (accounts.root / "home").chmod(0o777)
    assert "only root may write" in accounts.refused()


def test_links_and_other_files_in_the_skeleton(accounts: Accounts) -> None:
    """Links are copied as links, set-id modes and devices are not, and nothing else changes owner
    (attack).
    """
    skeleton = accounts.root / "etc/skel"
    (skeleton / "link").symlink_to("/etc/shadow")
    (skeleton / "folder").mkdir()
    (skeleton / "folder/tool").write_text("echo hello\n")
    (skeleton / "folder/tool").chmod(0o6755)
    os.mkfifo(skeleton / "pipe")
    accounts.made()
    uid = int(accounts.line("passwd")[2])
    assert os.readlink(accounts.home / "link") == "/etc/shadow"
    assert not (accounts.home / "pipe").exists()
    found = (accounts.home / "folder/tool").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o755, uid)
    assert stat.S_IMODE(accounts.home.stat().st_mode) == 0o700
    assert (accounts.root / "etc/shadow").stat().st_uid == 0


def test_a_skeleton_that_others_may_write(accounts: Accounts) -> None:
    """Only root chooses what is in every new home (attack)."""
    (accounts.root / "etc/skel").chmod(0o777)
    assert "only root may write" in accounts.refused()


def test_links_in_a_home_that_is_removed(accounts: Accounts) -> None:
    """What a home's links lead to stays (attack)."""
    outside = accounts.root / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    accounts.made()
    (accounts.home / "out").symlink_to(outside)
    (accounts.home / "deep").mkdir()
    (accounts.home / "deep/out").symlink_to(outside)
    assert accounts.ask("release")["removed"]
    assert not accounts.home.exists()
    assert (outside / "file").read_text() == "stays"


def test_two_nodes_with_one_home(tmp_path: Path) -> None:
    """A home that two machines share goes with the last of their accounts."""
    homes = tmp_path / "homes"
    homes.mkdir()
    roots = [tmp_path / "one", tmp_path / "two"]
    for each in roots:
        lay_out(each)
        (each / "home").mkdir()
        subprocess.run(["mount", "--bind", homes, each / "home"], check=True)
    tmp_path.chmod(0o755)
    try:
        with accounts_of(roots[0]) as one, accounts_of(roots[1]) as two:
            one.made(uid=FIRST + 100)
            two.made(uid=FIRST + 100)
            (two.home / "work").write_text("of two")
            assert one.ask("release")["removed"]
            assert (two.home / "work").read_text() == "of two"
            assert two.ask("release")["removed"]
            assert list(homes.iterdir()) == []
            # With another number the second machine is refused, with what to do.
            one.made(uid=FIRST + 100)
            assert "host_user_uid" in two.ask("ensure", uid=FIRST + 101)["message"]
            assert two.line("passwd") == []
            assert one.ask("release")["removed"]
            assert list(homes.iterdir()) == []
    finally:
        for each in roots:
            subprocess.run(["umount", "-l", each / "home"], check=True)


# -- trouble --------------------------------------------------------------------------
def test_a_full_disk(tmp_path: Path) -> None:
    """An account whose home cannot be made whole is not made, and the reason is told."""
    lay_out(tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "etc/skel/large").write_bytes(b"x" * (1 << 20))
    with accounts_of(tmp_path) as accounts:
        assert "the disk is full" in accounts.refused(sudoers=[ID], groups=["fresh"])
        assert accounts.machine.inside("find", "/home", "-mindepth", "2") == ""
        (tmp_path / "etc/skel/large").unlink()
        accounts.made()


def test_account_files_that_are_locked(accounts: Accounts) -> None:
    """A program that keeps them locked delays a login for seconds, and the reason is told."""
    with open(accounts.root / "etc/.pwd.lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        assert "locked (/etc/.pwd.lock)" in accounts.refused()
    accounts.made()


def test_logins_at_the_same_time(accounts: Accounts) -> None:
    """Many at once get accounts of their own; the same one is made once."""
    logins = [*(f"user{number}" for number in range(6)), *[LOGIN] * 6]
    for login in logins:
        accounts.send("ensure", login, groups=["fresh"], sudoers=[ID])
    answers = [accounts.machine.report() for _ in logins]
    assert [each.get("message") for each in answers if not each["ok"]] == []
    assert sum(each["made"] for each in answers) == 7
    numbers = {accounts.line("passwd", login)[2] for login in logins}
    assert len(numbers) == 7
    for login in set(logins):
        assert accounts.ask("release", login)["removed"]
    assert accounts.files() == accounts.before


def children_of(pid: int) -> list[int]:
    """The processes that ``pid`` has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = each.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(re.sub(r".*\)", "", text).split()[1]) == pid:
            found.append(int(each.parent.name))
    return found


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03, 0.06, 0.1, 0.2])
def test_the_end_of_a_process_at_any_time(accounts: Accounts, pause: float) -> None:
    """Whatever was made when its process was killed is known, and removed at the next start."""
    before = set(children_of(accounts.machine.process.pid))
    accounts.send("ensure", groups=["fresh"], sudoers=[ID], shell="/bin/bash")
    working: set[int] = set()

    def has_begun() -> bool:
        working.update(set(children_of(accounts.machine.process.pid)) - before)
        return bool(working)

    wait_until(has_begun)
    time.sleep(pause)
    for pid in working:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    accounts.machine.report()  # failed, or it was faster
    recovered = accounts.ask("recover")
    assert accounts.files()["sudoers"] == accounts.before["sudoers"]
    for login in recovered["dropped"]:
        assert accounts.ask("release", login)["removed"]
    assert accounts.files() == accounts.before


def test_the_end_of_the_node_ends_all_rights(root: Path) -> None:
    """Its spawner takes them away, and does not wait for the node's next start."""
    with accounts_of(root) as accounts:
        accounts.made(groups=["fresh"], sudoers=[ID])
        accounts.made("keeps", drop=False, sudoers=[ID])
        kept = accounts.line("passwd", "keeps")
    now = accounts.files()
    assert (now["sudoers"], now["homes"]) == (accounts.before["sudoers"], [".tele", "keeps"])
    assert [each for each in now["passwd"] if each not in accounts.before["passwd"]] == [
        ":".join(kept)
    ]


def test_an_old_spawner_leaves_alone_what_a_new_one_serves(root: Path) -> None:
    """The end of the one before a restart does not take rights of sessions after it."""
    with accounts_of(root) as old:
        old.made(sudoers=[ID])
        with accounts_of(root) as new:
            new.made(sudoers=[ID])
            old.machine.close()
            assert len(new.files()["sudoers"]) == 2
            assert new.line("passwd")


def test_a_request_that_is_malformed(accounts: Accounts) -> None:
    """The node's messages are not trusted; the spawner goes on (attack)."""
    for wanted in ({"groups": "sudo"}, {"uid": "0"}, {"make": 1}, {"sudoers": [1]}, {"do": "x"}):
        request = {"op": "account", "do": "ensure", "login": LOGIN, **wanted}
        accounts.machine.number += 1
        accounts.machine.ask(request, [], [])
        assert accounts.machine.report()["ok"] is False
    assert accounts.files() == accounts.before
    accounts.made()


def test_too_many_requests_at_once(accounts: Accounts) -> None:
    """Those that wait are bounded: further ones are answered at once."""
    accounts.made()
    most = account_requests.WAITING + account_requests.RUNNING
    with open(accounts.root / "ledger/accounts.json.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(most + 1):
            accounts.send("release")
        assert "too many" in accounts.machine.report()["message"]
