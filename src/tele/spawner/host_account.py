"""Which OS account does a login want, and is that a safe thing to make?

Invariants:

* Standard library only: the spawner loads it.
* What comes in is checked to the last character, whatever its source: names of accounts and groups
  are portable ones, numbers are those of ordinary users, a line of sudoers is one line about one
  login.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tele.spawner.accounts import Refused

#: Names of accounts that are made: what useradd(8) calls portable, and a dot inside. No name is an
#: option, a number, a path, or a word of sudoers(5); ``_`` begins names of systems' accounts.
_ACCOUNT: Final = re.compile(r"[a-z](?:[a-z0-9_.-]{0,30}[a-z0-9_-])?", re.ASCII)
#: Names of groups that an account is put into; those that are missing are made.
_GROUP: Final = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_.-]{0,30}[A-Za-z0-9_-])?", re.ASCII)
#: A shell that a role names: no word of a command line, no way up.
_SHELL: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_.+-]{1,64}){1,16}", re.ASCII)
#: Accounts and groups that packages make on many systems: not for people.
SYSTEM_NAMES: Final = frozenset({
    "root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp",
    "proxy", "www-data", "backup", "list", "irc", "gnats", "nobody", "nogroup", "adm", "tty",
    "disk", "shadow", "utmp", "kmem", "sudo", "wheel", "staff", "users", "audio", "video",
    "cdrom", "floppy", "tape", "dialout", "fax", "voice", "dip", "plugdev", "netdev", "operator",
    "src", "sasl", "crontab", "input", "kvm", "render", "sgx", "ssh", "sshd", "messagebus",
    "polkitd", "uuidd", "tcpdump", "docker", "lxd", "libvirt", "halt", "shutdown", "ftp", "http",
    "dbus", "rpc", "ntp", "chrony", "postgres", "mysql", "redis", "mongodb", "nginx", "apache",
    "etcd", "ceph", "haproxy", "named", "bind", "admin", "lpadmin", "incus", "incus-admin", "lxc",
    "microk8s", "podman", "vboxusers", "wireshark", "pcap", "sambashare", "tss", "nfsnobody",
})  # fmt: skip
MAX_GROUPS: Final = 64
MAX_SUDOERS: Final = 128
MAX_SUDOERS_LINE: Final = 1024


class Wanted(NamedTuple):
    """An account as roles want it.

    ``make``: whether it is made if it is missing. ``drop``: whether it is removed with its last
    session. ``shell`` empty is the system's default; ``uid`` and ``gid`` None are chosen here.
    """

    login: str
    make: bool = True
    drop: bool = False
    groups: tuple[str, ...] = ()
    sudoers: tuple[str, ...] = ()
    shell: str = ""
    uid: int | None = None
    gid: int | None = None


def wanted_from(header: Mapping[str, Any]) -> Wanted:
    """Return what a message asks for. Raises ValueError if it is malformed, Refused if unsafe."""
    login, shell = header.get("login"), header.get("shell", "")
    make, drop = header.get("make", False), header.get("drop", False)
    groups, sudoers = header.get("groups", []), header.get("sudoers", [])
    numbers = [header.get("uid"), header.get("gid")]
    if type(login) is not str or type(shell) is not str:
        raise ValueError("login or shell is not a text")
    if type(make) is not bool or type(drop) is not bool:
        raise ValueError("make or drop is not true or false")
    for listed, most in ((groups, MAX_GROUPS), (sudoers, MAX_SUDOERS)):
        if type(listed) is not list or not all(type(each) is str for each in listed):
            raise ValueError("groups or sudoers is not a list of texts")
        if len(listed) > most:
            raise Refused(f"{len(listed)} groups or lines of sudoers are too many: {most} at most")
    if not all(each is None or type(each) is int for each in numbers):
        raise ValueError("uid or gid is not a number")
    if shell:
        check_shell(shell)
    for group in groups:
        check_group(group)
    for line in sudoers:
        check_sudoers(line)
    lists = tuple(dict.fromkeys(groups)), tuple(dict.fromkeys(sudoers))
    return Wanted(login, make, drop, *lists, shell, *numbers)


def check_login(login: str) -> None:
    """Raise Refused unless an account may be made that has this name."""
    if not _ACCOUNT.fullmatch(login):
        raise Refused(
            f"no account can be made for {login[:64]!r}: its name has to begin with a-z and have"
            " at most 32 of a-z, 0-9, '_', '-' and '.'"
        )
    if login in SYSTEM_NAMES or login.startswith("systemd-"):
        raise Refused(f"no account is made for {login!r}: that is a system's account or group")


def check_shell(path: str) -> None:
    """Raise Refused unless ``path`` can be that of a shell."""
    if not _SHELL.fullmatch(path):
        raise Refused(f"{path[:80]!r} is not the path of a shell, such as /bin/bash")


def check_group(name: str) -> None:
    """Raise Refused unless ``name`` can be that of a group."""
    if not _GROUP.fullmatch(name):
        raise Refused(
            f"{name[:64]!r} is not a group: a letter or '_', then at most 31 of A-Z, a-z, 0-9, '_',"
            " '-' and '.'"
        )


def check_new_group(name: str) -> None:
    """Raise Refused unless a group may be made that has this name."""
    if not _ACCOUNT.fullmatch(name):
        raise Refused(
            f"there is no group {name!r} on this machine, and none is made with such a name: a-z,"
            " then at most 32 of a-z, 0-9, '_', '-' and '.'"
        )


def check_sudoers(line: str) -> None:
    """Raise Refused unless ``line``, after a login, is one rule of sudoers(5) for it alone."""
    wrong = ""
    if len(line) > MAX_SUDOERS_LINE:
        wrong = f"is longer than {MAX_SUDOERS_LINE} characters"
    elif not line.isprintable():
        wrong = "has a line break or another control character"
    elif not re.match(r"[A-Za-z0-9_+!]", line, re.ASCII) or "=" not in line:
        wrong = "does not begin with a host and '=', such as ALL=(ALL) NOPASSWD: /usr/bin/id"
    elif line.endswith("\\"):
        wrong = "ends with a backslash, which would join it with the next line"
    if wrong:
        raise Refused(f"the line of sudoers {line[:80]!r} {wrong}")


def sudoers_text(login: str, lines: tuple[str, ...]) -> str:
    """Return the file of sudoers for a login."""
    made = "".join(f"{login} {line}\n" for line in lines)
    return f"# Made by tele from its roles, for as long as {login} has sessions.\n{made}"


def sudoers_name(ledger: str, login: str) -> str:
    """Return the name of that file: sudo leaves out names with a dot, or with ``~`` at the end."""
    return f"tele-{ledger}-{login.replace('%', '%25').replace('.', '%2e')}"
