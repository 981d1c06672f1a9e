"""What of a session is, or may be, done by processes that are not its own?

A service that acts for others, a table of commands that a daemon runs, a file that the next login
reads: what happens then has another session, or none. It is not recorded; that it was
handed over is.

Invariants:

* Standard library only. Nothing is looked up: a name is what the record says.
* A file counts where it was changed, or opened so that it can be; one that was only read does not.
* A path of an open file is the kernel's. One of a changed name is as given: what may hide the real
  one (a link to a folder of such files, a mount, a path through ``/proc``) counts itself.
"""

from __future__ import annotations

import posixpath
import re
import stat
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
    ("ssh_agent", rb".*/ssh-[^/]+/agent\.\d+|.*/(?:keyring/ssh|S\.gpg-agent\.ssh)|.*/\.ssh/.*"),
    ("editor", rb".*/emacs\d*/server|.*/\.vim/.*\.sock|/run/user/\d+/(?:vscode-|nvim\.).*"),
    ("display", rb"@?/tmp/\.X11-unix/X\d+|/run/user/\d+/wayland-\d+"),
    ("terminals", rb".*/zellij(?:-\d+)?/.*|.*/(?:\.dtach|\.abduco|abduco)/.*"),
    ("snap", rb"/run/snapd(?:-snap)?\.socket"),
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
    # proc and others may be mounted elsewhere, too.
    ("kernel_helper", rb".*/sys/kernel/(?:core_pattern|modprobe|hotplug|poweroff_cmd)"),
    ("kernel_helper", rb".*/binfmt_misc/.*|.*/sys/kernel/uevent_helper|.*/release_agent"),
    ("process_memory", rb".*/\d+/(?:task/\d+/)?mem"),
    ("cgroup", rb".*/(?:cgroup\.procs|cgroup\.threads)|/sys/fs/cgroup/.*/tasks"),
    ("device", rb"/dev/(?:mem|kmem|port|kvm|uinput|uhid|vhost-.*|net/tun)"),
)  # fmt: skip
#: Folders of such files: who puts another in their place, or links to them, changes what is below.
_FOLDERS: Final = (
    ("authorized_keys", rb".*/\.ssh|/etc/ssh"),
    ("user_unit", rb".*/\.(?:config|local/share)(?:/systemd(?:/user)?)?|.*/\.local"),
    ("autostart", rb".*/\.config/autostart|/etc/xdg(?:/autostart)?"),
    ("shell_start", rb".*/\.config/fish|/etc/profile\.d"),
    ("cron", rb"/var/spool(?:/cron(?:/crontabs)?)?|/etc/cron\.[^/]*"),
    ("at", rb"/var/spool/(?:cron/)?(?:atjobs|atspool|at)"),
    ("unit", rb"/(?:etc|run|usr/lib|usr/local/lib|lib)/systemd(?:/.*)?|/etc/init\.d"),
    ("accounts", rb"/etc/(?:sudoers|pam)\.d|/etc|/var|/"),
    ("loader", rb"/etc/ld\.so\.conf\.d"),
    ("kernel_helper", rb"/proc(?:/sys(?:/kernel|/fs(?:/binfmt_misc)?)?)?|/sys(?:/.*)?"),
)
#: Paths through what a process has open, which say nothing of where they lead.
_HIDDEN: Final = re.compile(
    rb"(?:.*/)?(?:proc/(?:self|thread-self|\d+)/(?:task/\d+/)?(?:cwd|root|fd/\d+)|dev/fd/\d+)/.*",
    re.DOTALL,
)
#: Calls that reach into another process, or leave what the machine looks like to this one.
_CALLS: Final = {
    "process_vm_writev": "process_memory",
    "pidfd_getfd": "process_memory",
    "setns": "namespace",
    "fsmount": "mount",
    "ioctl": "terminal",
    "request_key": "kernel_helper",
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
    "create", "rename", "link", "symlink", "mkdir", "mknod", "chmod", "chown", "truncate", "unlink",
})  # fmt: skip
_MOUNTS: Final = frozenset({"mount", "move_mount", "open_tree"})
_REPLACES: Final = frozenset({"rename", "link", "symlink"})
#: Flags of mount(2): MS_REMOUNT, MS_BIND; MS_UNBINDABLE, _PRIVATE, _SLAVE and _SHARED.
_REMOUNT, _BIND, _PROPAGATION = 0x20, 0x1000, 0x1E0000
_CLONE_TREE: Final = 1
_LOAD_PROGRAM: Final = 5


def _table(rows: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((way, re.compile(pattern, re.DOTALL)) for way, pattern in rows)


_SOCKET_TABLE: Final = _table(_SOCKETS)
_FILE_TABLE: Final = _table(_FILES)
_FOLDER_TABLE: Final = _table(_FOLDERS)


def hand_over(record: Record) -> HandOver | None:
    """Return what ``record`` hands over, if it does. One that failed hands nothing over."""
    if isinstance(record, RingAction):
        about = b" ".join(filter(None, (record.action.encode(), record.path)))
        return HandOver(record.origin, "io_uring", about)
    if isinstance(record, SocketAction):
        if record.family != "unix" or record.action not in ("connect", "send"):
            return None
        if record.result < 0 and record.result != -115:
            return None
        return _first(_SOCKET_TABLE, record, record.address)
    if isinstance(record, FileAction):
        return _file(record) if record.result >= 0 else None
    if isinstance(record, Action) and record.result >= 0:
        way = _CALLS.get(record.action)
        if record.action == "ptrace" and record.arguments[0] in _PTRACE:
            way = "process_memory"
        if record.action == "bpf" and record.arguments[0] == _LOAD_PROGRAM:
            way = "kernel"
        return HandOver(record.origin, way, b"") if way else None
    return None


def _file(record: FileAction) -> HandOver | None:
    action = record.action
    opened = action in ("open", "create")
    if action in _MOUNTS:
        return HandOver(record.origin, "mount", record.path) if _is_mount(record) else None
    if action not in _CHANGES and not (opened and record.flags & _O_ACCMODE):
        return None
    if (opened and stat.S_ISBLK(record.mode)) or (
        action == "mknod" and (stat.S_ISBLK(record.mode) or stat.S_ISCHR(record.mode))
    ):
        return HandOver(record.origin, "device", record.path)
    paths = (record.path, record.target)
    if action == "symlink":  # its text may begin at its folder
        paths = (record.path, posixpath.join(posixpath.dirname(record.path), record.target))
    for path in filter(None, paths):
        found = _first(_FILE_TABLE, record, path)
        if found is None and action in _REPLACES:
            found = _first(_FOLDER_TABLE, record, path)
        if found is not None:
            return found
        if not opened and _HIDDEN.fullmatch(path):
            return HandOver(record.origin, "hidden_path", path)
    if record.cut and not opened:
        return HandOver(record.origin, "hidden_path", record.path)
    return None


def _is_mount(record: FileAction) -> bool:
    """Whether files are elsewhere from now on."""
    flags = record.flags
    if record.action == "open_tree":
        return bool(flags & _CLONE_TREE)
    if record.action == "mount":
        return not flags & _REMOUNT and (bool(flags & _BIND) or not flags & _PROPAGATION)
    return True


def _first(
    table: tuple[tuple[str, re.Pattern[bytes]], ...], record: SocketAction | FileAction, path: bytes
) -> HandOver | None:
    # /var/run is a link to /run, and what a program gives may go through it.
    named = posixpath.normpath(path) if not path.startswith(b"@") else path
    named = named.removeprefix(b"/var") if named.startswith(b"/var/run/") else named
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
