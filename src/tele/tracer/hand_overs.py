"""What of a session is, or may be, done by processes that are not its own?

A service that acts for others, a table of commands that a daemon runs, a file that the next login
reads: what happens then has another session, or none. It is not recorded; that it was
handed over is.

Invariants:

* Standard library only. Nothing is looked up: a name is what the record says.
* A file counts where it was changed, or opened so that it can be; one that was only read does not.
"""

from __future__ import annotations

import re
from typing import Final

from tele.tracer.records import (
    Action,
    Executed,
    FileAction,
    HandOver,
    Record,
    RingAction,
    SocketAction,
)

#: Sockets of services that act for a client, by path: the first that fits.
_SOCKETS: Final = (
    (
        "systemd",
        rb"/run/systemd/private|/run/user/\d+/systemd/private|/run/systemd/io\.systemd\..*",
    ),
    ("dbus", rb"/run/dbus/system_bus_socket|/run/user/\d+/bus|@?/tmp/dbus-.*"),
    ("docker", rb"/run/docker\.sock|/run/user/\d+/docker\.sock"),
    ("containers", rb"/run/(?:containerd|podman|crio|lxd|incus|libvirt)/.*"),
    ("containers", rb"/run/user/\d+/(?:podman|libvirt)/.*|/var/lib/(?:lxd|incus)/unix\.socket"),
    ("tmux", rb".*/tmux-\d+/[^/]+"),
    ("screen", rb".*/S-[^/]+/\d+\.[^/]+|.*/\.screen/\d+\.[^/]+"),
    ("ssh_agent", rb".*/ssh-[^/]+/agent\.\d+|.*/(?:keyring/ssh|S\.gpg-agent\.ssh|\.ssh/agent/.*)"),
    ("editor", rb".*/emacs\d*/server|.*/\.vim/.*\.sock"),
    ("at", rb"/run/atd(?:\.sock)?"),
)
#: Files that other processes act on, or the next login, by path: the first that fits.
_FILES: Final = (
    ("cron", rb"/var/spool/cron/(?!atjobs|atspool).*|/etc/cron[^/]*(?:/.*)?|/etc/anacrontab"),
    ("at", rb"/var/spool/(?:cron/atjobs|cron/atspool|at|atjobs)/.*"),
    ("user_unit", rb".*/(?:\.config|\.local/share)/systemd/user/.*"),
    ("unit", rb"/(?:etc|run|usr/lib|usr/local/lib|lib)/systemd/.*|/etc/init\.d/.*|/etc/rc\.local"),
    ("autostart", rb".*/\.config/autostart/.*|/etc/xdg/autostart/.*"),
    ("authorized_keys", rb".*/\.ssh/(?:authorized_keys2?|rc|environment)|/etc/ssh/.*"),
    ("shell_start", rb".*/\.(?:bashrc|bash_profile|bash_login|bash_logout|profile|kshrc|inputrc)"),
    ("shell_start", rb".*/\.(?:zshrc|zshenv|zprofile|zlogin|cshrc|tcshrc|login|pam_environment)"),
    ("shell_start", rb".*/\.config/fish/.*|/etc/(?:profile|bash\.bashrc|environment)"),
    ("shell_start", rb"/etc/profile\.d/.*"),
    ("accounts", rb"/etc/(?:passwd|shadow|group|gshadow|sudoers|doas\.conf)"),
    ("accounts", rb"/etc/(?:sudoers|pam)\.d/.*"),
    ("loader", rb"/etc/ld\.so\.(?:preload|conf)|/etc/ld\.so\.conf\.d/.*"),
    ("kernel_helper", rb"/proc/sys/kernel/(?:core_pattern|modprobe|hotplug|poweroff_cmd)"),
    ("kernel_helper", rb"/proc/sys/fs/binfmt_misc/.*|/sys/kernel/uevent_helper|.*/release_agent"),
    ("process_memory", rb"/proc/\d+/(?:task/\d+/)?mem"),
    ("cgroup", rb"/sys/fs/cgroup/.*/(?:cgroup\.procs|cgroup\.threads|tasks)"),
)  # fmt: skip
#: Calls that reach into another process, or leave what the machine looks like to this one.
_CALLS: Final = {
    "process_vm_writev": "process_memory",
    "pidfd_getfd": "process_memory",
    "setns": "namespace",
    "kexec_load": "kernel",
    "kexec_file_load": "kernel",
    "init_module": "kernel",
    "finit_module": "kernel",
    "io_uring_setup": "io_uring",
}
#: Requests of ptrace(2) that change or take over a process: POKE*, SET*, ATTACH, SEIZE.
_PTRACE: Final = frozenset({4, 5, 6, 13, 15, 16, 0x4206, 0x4205, 0x4203})
_O_ACCMODE: Final = 3
_CHANGES: Final = frozenset({
    "create", "rename", "link", "symlink", "mkdir", "mknod", "chmod", "chown", "truncate", "mount",
    "move_mount", "unlink",
})  # fmt: skip


def _table(rows: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((way, re.compile(pattern, re.DOTALL)) for way, pattern in rows)


_SOCKET_TABLE: Final = _table(_SOCKETS)
_FILE_TABLE: Final = _table(_FILES)


def hand_over(record: Record) -> HandOver | None:
    """Return what ``record`` hands over, if it does. One that failed hands nothing over."""
    if isinstance(record, RingAction):
        return HandOver(record.origin, "io_uring", record.action.encode())
    if isinstance(record, SocketAction):
        if record.family != "unix" or record.action not in ("connect", "send"):
            return None
        if record.result < 0 and record.result != -115:
            return None
        return _first(_SOCKET_TABLE, record, record.address)
    if isinstance(record, FileAction) and record.result >= 0:
        if record.action in _CHANGES or (record.action == "open" and record.flags & _O_ACCMODE):
            found = _first(_FILE_TABLE, record, record.path)
            return found or _first(_FILE_TABLE, record, record.target)
        return None
    if isinstance(record, Action) and record.result >= 0:
        way = _CALLS.get(record.action)
        if record.action == "ptrace" and record.arguments[0] in _PTRACE:
            way = "process_memory"
        return HandOver(record.origin, way, b"") if way else None
    return None


def _first(
    table: tuple[tuple[str, re.Pattern[bytes]], ...], record: SocketAction | FileAction, path: bytes
) -> HandOver | None:
    # /var/run is a link to /run, and what a program gives may go through it.
    named = path.removeprefix(b"/var") if path.startswith(b"/var/run/") else path
    for way, pattern in table:
        if pattern.fullmatch(named):
            return HandOver(record.origin, way, path)
    return None


class Witnesses:
    """What else the kernel says of the processes of a session: its control group and its number in
    the kernel's audit, which its processes had as it began.
    """

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}
        self._told: dict[int, set[tuple[int, int]]] = {}

    def look(self, record: Record) -> HandOver | None:
        """Return that a process has another group or number than its session, once for each."""
        if not isinstance(record, Executed) or record.result < 0:
            return None
        origin = record.origin
        seen = (origin.cgroup, origin.audit_session)
        first = self._first.setdefault(origin.session, seen)
        told = self._told.setdefault(origin.session, set())
        if seen == first or seen in told or len(told) >= 64:
            return None
        told.add(seen)
        way = "cgroup" if seen[0] != first[0] else "audit_session"
        return HandOver(origin, way, record.executable)

    def forget(self, session: int) -> None:
        """The session has ended."""
        self._first.pop(session, None)
        self._told.pop(session, None)
