"""How do accounts of this machine become as roles want them, and how do they go?

Three requests: ``ensure`` before a login, ``release`` after the last session of an account, and
``recover`` when the node starts, which may follow a crash or a reboot. Each runs in a process of
root's, one at a time for each ledger (:mod:`tele.spawner.account_ledger`).

Invariants:

* Standard library only: the spawner loads it.
* An account, a group, a home or a file that tele did not make is never changed or removed.
* What cannot be made whole is taken back, and the login is refused with the reason.
* An account is not removed while processes of it run: the answer says so, and it is asked again.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tele.spawner.account_homes import (
    DEFAULTS,
    LOGIN_DEFAULTS,
    make_home,
    remove_home,
    settings_of,
)
from tele.spawner.account_ledger import Entry, Ledger, LedgerFile, new_mark
from tele.spawner.account_sudoers import (
    names_group,
    remove_all_sudoers,
    remove_sudoers,
    set_sudoers,
)
from tele.spawner.account_tools import check_unlocked, must, run_tool
from tele.spawner.account_traces import remove_jobs, remove_traces
from tele.spawner.accounts import Refused, read_file
from tele.spawner.host_account import (
    Wanted,
    check_login,
    check_new_group,
    sudoers_name,
    wanted_from,
)
from tele.spawner.shells import SHELLS

#: Exit statuses of useradd(8) and userdel(8).
NUMBER_IN_USE: Final = 4
NAME_IN_USE: Final = 9
LOGGED_IN: Final = 8
NO_SUCH: Final = 6
TRIES: Final = 3
#: Logins in one list of an answer.
MOST: Final = 3000


class Switches(NamedTuple):
    """What the node's owner leaves to roles, and ``folder``, where the ledger is."""

    folder: str
    home: bool = True
    shell: bool = True
    sudoers: bool = True


class HostAccounts:
    """Performs requests. Each raises Refused or OSError."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._file = LedgerFile(switches.folder)
        self._owner = os.urandom(8).hex()

    def perform(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a message; ValueError if it is malformed."""
        if not self._switches.folder:
            raise Refused("this node makes no accounts", "spawner")
        request = header.get("do")
        if request == "recover":
            return self.recover()
        wanted = wanted_from(header)
        if request == "ensure":
            return self.ensure(wanted)
        if request == "release":
            return self.release(wanted.login)
        raise ValueError("no such request for an account")

    # -- before a login ---------------------------------------------------------------
    def ensure(self, wanted: Wanted) -> dict[str, Any]:
        """Make or change an account; answer whether it is tele's, is new, and has other rights."""
        with self._file.locked() as ledger:
            ledger.owner = self._owner
            for _ in range(TRIES):
                account = _account(wanted.login)
                entry = ledger.accounts.get(wanted.login)
                if account is not None and (entry is None or not entry.is_of(account)):
                    self._forget(ledger, wanted.login)
                    return {"managed": False, "made": False, "changed": False}
                if account is None and not wanted.make:
                    self._forget(ledger, wanted.login)
                    return {"managed": False, "made": False, "changed": False}
                made = account is None
                if made and not self._make(ledger, wanted):
                    continue
                try:
                    changed = self._update(ledger, wanted)
                except BaseException:
                    if made:
                        self._take_back(ledger, wanted.login)
                    else:
                        remove_sudoers(sudoers_name(ledger.id, wanted.login))
                    raise
                return {"managed": True, "made": made, "changed": changed}
        raise Refused(
            f"the account {wanted.login!r} cannot be made: others make accounts at the same time",
            "spawner",
        )

    def _make(self, ledger: Ledger, wanted: Wanted) -> bool:
        """Make an account; False if another program was faster with its name or number."""
        login = wanted.login
        check_login(login)
        self._forget(ledger, login)
        uid = self._uid(ledger, wanted)
        gid = self._gid(ledger, wanted, uid)
        defaults = settings_of(DEFAULTS)
        home = os.path.join(defaults.get("HOME", "/home"), login)
        shell = self._shell(wanted) or defaults.get("SHELL", "/bin/sh")
        entry = Entry(new_mark(), uid, gid, wanted.drop, home=home)
        check_unlocked()
        ledger.accounts[login] = entry
        ledger.uids[login] = uid
        own_group = _group_of(gid) is None
        if own_group:
            ledger.groups[login] = gid
        self._file.write(ledger)
        try:
            if own_group:
                must(run_tool("groupadd", "-g", str(gid), login), f"the group {login!r}")
            done = run_tool(
                "useradd", "-M", "-N", "-u", str(uid), "-g", str(gid), "-d", home, "-s", shell,
                "-c", entry.mark, login,
            )  # fmt: skip
            if done.status in (NUMBER_IN_USE, NAME_IN_USE):
                self._take_back(ledger, login)
                return False
            must(done, f"the account {login!r} cannot be made")
        except BaseException:
            self._take_back(ledger, login)
            raise
        return True

    def _update(self, ledger: Ledger, wanted: Wanted) -> bool:
        """Change what is not as roles want it; whether groups, shell or sudoers were not."""
        login, entry = wanted.login, ledger.accounts[wanted.login]
        account = pwd.getpwnam(login)
        for what, has, number in (("uid", entry.uid, wanted.uid), ("gid", entry.gid, wanted.gid)):
            if number not in (None, has):
                raise Refused(
                    f"the account {login!r} has the {what} {has} on this machine, and the user's"
                    f" trait host_user_{what} is {number}: its files would be another's. Remove it"
                    f" (userdel {login}) when it has no sessions, and move its home away"
                )
        if wanted.make:
            # What was made to be kept is kept: its home has work in it.
            entry.drop = entry.drop and wanted.drop
        missing = [name for name in wanted.groups if _group(name) is None]
        for name in missing:
            check_new_group(name)
            ledger.groups[name] = _free("GID", set(ledger.groups.values()), _gids())
        entry.groups = list(wanted.groups)
        self._file.write(ledger)
        for name in missing:
            done = run_tool("groupadd", "-g", str(ledger.groups[name]), name)
            must(done, f"the group {name!r} cannot be made")
        changes: list[str] = []
        current = {g.gr_name for g in grp.getgrall() if login in g.gr_mem}
        if current != set(wanted.groups):
            changes += ["-G", ",".join(wanted.groups)]
        shell = self._shell(wanted)
        if shell and shell != account.pw_shell:
            changes += ["-s", shell]
        if changes:
            check_unlocked()
            done = run_tool("usermod", *changes, login)
            must(done, f"the account {login!r} cannot be changed")
        changed = bool(changes)
        if self._switches.sudoers:
            changed |= set_sudoers(ledger.id, login, wanted.sudoers)
        if self._switches.home:
            make_home(entry, login, ledger.id, settings_of(DEFAULTS).get("SKEL", "/etc/skel"))
        self._remove_groups(ledger)
        self._file.write(ledger)
        return changed

    def _shell(self, wanted: Wanted) -> str:
        """Return the shell that a role names. Raises Refused if it is none of this machine."""
        if not wanted.shell or not self._switches.shell:
            return ""
        listed = (read_file(SHELLS) or b"").splitlines()
        if not os.access(wanted.shell, os.X_OK) or os.fsencode(wanted.shell) not in listed:
            raise Refused(
                f"the shell {wanted.shell} of {wanted.login!r} is not installed on this machine, or"
                f" not listed in {SHELLS}"
            )
        return wanted.shell

    def _uid(self, ledger: Ledger, wanted: Wanted) -> int:
        login = wanted.login
        used = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
        if wanted.uid is None:
            former = ledger.uids.get(login)
            if former is not None and former not in used:
                return former
            return _free("UID", set(ledger.uids.values()) | _gids(), set(used))
        _check_range("UID", wanted.uid, login)
        if wanted.uid in used:
            raise Refused(
                f"the number {wanted.uid} that the user's trait host_user_uid has is that of the"
                f" account {used[wanted.uid]!r} on this machine"
            )
        others = {uid: name for name, uid in ledger.uids.items() if name != login}
        if wanted.uid in others:
            raise Refused(
                f"the number {wanted.uid} that the user's trait host_user_uid has was that of the"
                f" account {others[wanted.uid]!r} on this machine, whose files may be left"
            )
        return wanted.uid

    def _gid(self, ledger: Ledger, wanted: Wanted, uid: int) -> int:
        """Return the number of the primary group: one of its own, unless roles give that group."""
        login = wanted.login
        named = _group(login)
        if named is not None and (ledger.groups.get(login) != named.gr_gid or named.gr_mem):
            raise Refused(
                f"there is a group {login!r} on this machine: an account with its name would have"
                " its rights"
            )
        if named is None and names_group(login):
            raise Refused(
                f"sudoers of this machine names a group {login!r}: an account with its name would"
                " have its rights"
            )
        if wanted.gid is None:
            if named is not None:
                return named.gr_gid
            gids = _gids()
            return uid if uid not in gids else _free("GID", set(), gids)
        _check_range("GID", wanted.gid, login)
        group = _group_of(wanted.gid)
        if group is not None and group.gr_name not in (login, *wanted.groups):
            raise Refused(
                f"the number {wanted.gid} that the user's trait host_user_gid has is that of the"
                f" group {group.gr_name!r} on this machine, which no role gives to {login!r}"
            )
        if named is not None and named.gr_gid != wanted.gid:
            raise Refused(f"the group {login!r} has the number {named.gr_gid} on this machine")
        return wanted.gid

    # -- after the last session -------------------------------------------------------
    def release(self, login: str) -> dict[str, Any]:
        """No session needs the account: end its rights, and remove it if it is to be dropped."""
        with self._file.locked() as ledger:
            entry = ledger.accounts.get(login)
            if entry is None:
                return {"removed": False, "busy": False}
            remove_sudoers(sudoers_name(ledger.id, login))
            if not entry.drop:
                return {"removed": False, "busy": False}
            busy = not self._drop(ledger, login)
            return {"removed": not busy, "busy": busy}

    def _drop(self, ledger: Ledger, login: str) -> bool:
        """Remove all of an account; False if processes of it run."""
        entry, account = ledger.accounts[login], _account(login)
        if account is not None and entry.is_of(account):
            remove_jobs(login, entry.uid)
            check_unlocked()
            done = run_tool("userdel", login)
            if done.status == LOGGED_IN:
                return False
            if done.status != NO_SUCH:
                must(done, f"the account {login!r} cannot be removed")
            remove_traces(login, entry.uid)
        remove_home(entry, login, ledger.id)
        self._forget(ledger, login)
        return True

    def _forget(self, ledger: Ledger, login: str) -> None:
        """The account is gone, or not tele's any more: so is what was made for it."""
        if ledger.accounts.pop(login, None) is not None:
            remove_sudoers(sudoers_name(ledger.id, login))
            self._remove_groups(ledger)
            self._file.write(ledger)

    def _take_back(self, ledger: Ledger, login: str) -> None:
        """An account could not be made whole; what is left now is removed at the next start."""
        entry = ledger.accounts[login]
        entry.drop = True
        with contextlib.suppress(Refused, OSError):
            self._drop(ledger, login)

    def _remove_groups(self, ledger: Ledger) -> None:
        """Remove the groups that were made and that no account of the ledger is in."""
        wanted = {name for each in ledger.accounts.values() for name in each.groups}
        gids = {each.gid for each in ledger.accounts.values()}
        for name, gid in list(ledger.groups.items()):
            if name in wanted or gid in gids:
                continue
            group = _group(name)
            if group is not None and group.gr_gid == gid and not group.gr_mem:
                # It fails for the primary group of another account, which stays then.
                run_tool("groupdel", name)
            del ledger.groups[name]

    # -- after a crash or a reboot ------------------------------------------------------
    def recover(self) -> dict[str, Any]:
        """No session runs yet: end all rights; answer which accounts are tele's, and which of them
        are to be dropped.
        """
        if not self._file.exists:
            return {"kept": [], "dropped": []}
        with self._file.locked() as ledger:
            ledger.owner = self._owner
            self._file.write(ledger)
            remove_all_sudoers(ledger.id)
            for login, entry in list(ledger.accounts.items()):
                account = _account(login)
                if not entry.drop and (account is None or not entry.is_of(account)):
                    self._forget(ledger, login)
            entries = ledger.accounts.items()
            # A message has its limit: of more accounts than that the rest waits for another start.
            return {
                "kept": sorted(login for login, entry in entries if not entry.drop)[:MOST],
                "dropped": sorted(login for login, entry in entries if entry.drop)[:MOST],
            }

    def end(self) -> None:
        """The node is gone: end all rights, and remove what can be, unless it has another spawner
        already. What is left is removed at its next start.
        """
        if not self._switches.folder or not self._file.exists:
            return
        with self._file.locked() as ledger:
            if ledger.owner != self._owner:
                return
            remove_all_sudoers(ledger.id)
            for login in [login for login, entry in ledger.accounts.items() if entry.drop]:
                with contextlib.suppress(Refused, OSError):
                    self._drop(ledger, login)


def _account(login: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(login)
    except (KeyError, ValueError):
        return None


def _group(name: str) -> grp.struct_group | None:
    try:
        return grp.getgrnam(name)
    except (KeyError, ValueError):
        return None


def _group_of(gid: int) -> grp.struct_group | None:
    try:
        return grp.getgrgid(gid)
    except KeyError:
        return None


def _gids() -> set[int]:
    return {group.gr_gid for group in grp.getgrall()}


def _range(what: str) -> tuple[int, int]:
    found = settings_of(LOGIN_DEFAULTS)
    least, most = found.get(f"{what}_MIN", ""), found.get(f"{what}_MAX", "")
    return (
        int(least) if least.isdecimal() else 1000,
        int(most) if most.isdecimal() else 60000,
    )


def _check_range(what: str, number: int, login: str) -> None:
    least, most = _range(what)
    if not least <= number <= most:
        raise Refused(
            f"{what.lower()} {number} for {login!r} is not one of an ordinary account: from {least}"
            f" to {most} on this machine ({LOGIN_DEFAULTS})"
        )


def _free(what: str, reserved: set[int], used: set[int]) -> int:
    """Return a number that no account has or had."""
    least, most = _range(what)
    taken = {each for each in reserved | used if least <= each <= most}
    number = max(taken, default=least - 1) + 1
    if number > most:
        number = next((each for each in range(least, most + 1) if each not in taken), 0)
    if not number:
        raise Refused(f"this machine has no free {what.lower()} from {least} to {most}", "spawner")
    return number
