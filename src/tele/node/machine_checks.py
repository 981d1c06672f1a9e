"""What can a node on this machine do, what is missing, and how is it installed?

Invariants:

* A check changes nothing on the machine, and takes seconds at most.
* What the node's configuration needs and the machine does not have is a failure; what the node
  does without is a limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from attrs import frozen

from tele.data_dir import check_unlocked
from tele.errors import Conflict, TeleError
from tele.model.addresses import Address
from tele.model.identity import HostRole
from tele.node.kernel_checks import traced_kinds, tracing_problem
from tele.spawner.account_tools import find_tool
from tele.spawner.accounts import Refused
from tele.spawner.control_groups import own_group
from tele.spawner.login_records import Records
from tele.spawner.pam import LIBRARY
from tele.spawner.session_child import sftp_server

#: Where the services of PAM are described.
PAM_FOLDERS: Final = ("/etc/pam.d", "/usr/lib/pam.d")
SUDOERS: Final = "/etc/sudoers"
#: Descriptors of a node for some hundred sessions, each of which has four.
FEW_FILES: Final = 4096
#: Seconds for one connection.
CONNECT_SECONDS: Final = 3.0
#: ``struct timex`` (adjtimex(2)): its size with padding, the place of ``status``, and the flag of a
#: clock that nothing sets.
_TIMEX_SIZE, _TIMEX_STATUS, _UNSYNCHRONIZED = 256, 40, 0x0040


class Outcome(str, Enum):
    """``limited``: the node runs and does without. ``failed``: what is configured cannot work."""

    OK = "ok"
    LIMITED = "limited"
    FAILED = "failed"


@frozen
class Check:
    """What was found about one thing. ``advice`` is what to do about it, or empty."""

    name: str
    outcome: Outcome
    found: str
    advice: str = ""


@frozen
class Wanted:
    """What the configuration of a node asks of the machine.

    ``pam`` is the service of PAM, or ``off``; ``accounts`` whether roles have accounts made,
    ``sudoers`` whether with lines of sudoers. ``listen`` is where it serves, None nowhere.
    ``dials`` are what it connects to, by name. ``data_dir`` None is not known.
    """

    pam: str = "off"
    kill_leftovers: bool = False
    accounts: bool = False
    sudoers: bool = False
    listen: Address | None = None
    dials: tuple[tuple[str, Address], ...] = ()
    data_dir: Path | None = None


def check_machine(wanted: Wanted) -> list[Check]:
    """Return what this machine has and lacks for a node that is configured so."""
    checks: Sequence[Callable[[Wanted], Check]] = (
        _account, _pam, _cgroups, _sudo, _utmp, _files, _sftp, _x11, _clock, _tracing,
    )  # fmt: skip
    return [*(check(wanted) for check in checks), *_ports(wanted)]


def _account(wanted: Wanted) -> Check:
    if os.geteuid() == 0:
        return Check("account", Outcome.OK, "root: users log in to any account")
    outcome = Outcome.FAILED if wanted.accounts else Outcome.LIMITED
    return Check(
        "account",
        outcome,
        "not root: users log in to the node's own account only",
        "run the check, and the node, as root",
    )


def _pam(wanted: Wanted) -> Check:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        outcome = Outcome.LIMITED if wanted.pam == "off" else Outcome.FAILED
        return Check("PAM", outcome, f"{LIBRARY} cannot be loaded", "install PAM (libpam0g)")
    if wanted.pam == "off":
        return Check("PAM", Outcome.OK, "installed; node.pam is off, it takes no part in sessions")
    if not any(os.path.exists(os.path.join(folder, wanted.pam)) for folder in PAM_FOLDERS):
        return Check(
            "PAM",
            Outcome.FAILED,
            f"there is no service {wanted.pam} in {PAM_FOLDERS[0]}",
            f"write {PAM_FOLDERS[0]}/{wanted.pam}, or set node.pam to the name of another service",
        )
    return Check("PAM", Outcome.OK, f"service {wanted.pam}")


def _cgroups(wanted: Wanted) -> Check:
    own = own_group()
    lacking = Outcome.FAILED if wanted.kill_leftovers else Outcome.LIMITED
    if own is None:
        return Check(
            "cgroups",
            lacking,
            "there is no cgroup v2 here: what a session leaves running cannot be ended with it",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup",
        )
    if not os.access(own, os.W_OK):
        return Check(
            "cgroups",
            lacking,
            f"{own} cannot be written: sessions have no groups of their own",
            "run as root, or set Delegate=yes in the unit of the node",
        )
    return Check("cgroups", Outcome.OK, f"each session has a group of its own below {own}")


def _sudo(wanted: Wanted) -> Check:
    needed = wanted.accounts and wanted.sudoers
    lacking = Outcome.FAILED if needed else Outcome.LIMITED
    try:
        find_tool("sudo")
        find_tool("visudo")
        if wanted.accounts:
            find_tool("useradd")
    except Refused as refused:
        use = "roles cannot give host_sudoers" if needed else "only roles with host_sudoers need it"
        return Check("sudo", lacking, f"{refused}; {use}", "install sudo and passwd")
    try:
        text = Path(SUDOERS).read_text("utf-8", "replace")
    except OSError:
        return Check("sudo", Outcome.OK, f"installed; {SUDOERS} cannot be read by this account")
    words = [line.split() for line in text.splitlines()]
    included = any(
        line[:1] in (["@includedir"], ["#includedir"]) and line[1:2] == ["/etc/sudoers.d"]
        for line in words
    )
    if not included:
        return Check(
            "sudo",
            lacking,
            f"{SUDOERS} does not include /etc/sudoers.d: host_sudoers of roles has no effect",
            f"add the line @includedir /etc/sudoers.d to {SUDOERS}, with visudo",
        )
    return Check("sudo", Outcome.OK, "installed, and reads /etc/sudoers.d")


def _utmp(_: Wanted) -> Check:
    if Records().available:
        return Check("utmp", Outcome.OK, "who and last show sessions")
    return Check(
        "utmp",
        Outcome.LIMITED,
        "/run/utmp and /var/log/wtmp are missing or cannot be written: who and last do not show"
        " sessions",
        "as root: touch /run/utmp /var/log/wtmp",
    )


def _files(_: Wanted) -> Check:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        return Check(
            "file limit",
            Outcome.LIMITED,
            f"a process may open {hard} files: enough for few sessions",
            "set LimitNOFILE=524288 in the unit, or raise ulimit -n",
        )
    shown = "any number of" if hard == resource.RLIM_INFINITY else str(hard)
    return Check("file limit", Outcome.OK, f"a process may open {shown} files")


def _sftp(_: Wanted) -> Check:
    found = sftp_server()
    by = "tele's own server" if found is None else found
    return Check("sftp", Outcome.OK, f"served by {by}")


def _x11(_: Wanted) -> Check:
    try:
        return Check("X11", Outcome.OK, f"forwarded with {find_tool('xauth')}")
    except Refused:
        return Check(
            "X11",
            Outcome.LIMITED,
            "xauth is not installed: X11 cannot be forwarded",
            "install xauth if roles allow x11_forwarding",
        )


def _clock(_: Wanted) -> Check:
    synchronized = clock_synchronized()
    if synchronized:
        return Check("clock", Outcome.OK, "synchronized")
    if synchronized is None:
        return Check("clock", Outcome.LIMITED, "the kernel does not say whether it is synchronized")
    return Check(
        "clock",
        Outcome.LIMITED,
        "nothing synchronizes it: certificates are refused once it is minutes wrong",
        "run an NTP client, such as chrony or systemd-timesyncd",
    )


def clock_synchronized() -> bool | None:
    """Return whether a program keeps the clock right (adjtimex(2)); None if that is not known."""
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[_TIMEX_STATUS : _TIMEX_STATUS + 4], "little")
    return not status & _UNSYNCHRONIZED


def _tracing(_: Wanted) -> Check:
    problem, advice = tracing_problem()
    if problem:
        text = f"what sessions run, open and connect to cannot be traced: {problem}"
        return Check("BPF", Outcome.LIMITED, text, advice)
    kinds = traced_kinds()
    able = ", ".join(kind for kind, why in kinds.items() if not why) or "nothing"
    lacking = "; ".join(f"{kind}: {why}" for kind, why in kinds.items() if why)
    if lacking:
        text = f"the kernel {os.uname().release} traces {able} of sessions; {lacking}"
        return Check("BPF", Outcome.LIMITED, text, "run a newer kernel, built with BPF and BTF")
    return Check("BPF", Outcome.OK, f"the kernel {os.uname().release} traces {able}")


def _ports(wanted: Wanted) -> Iterable[Check]:
    if wanted.listen is not None:
        yield _listens(wanted.listen, wanted.data_dir)
    for name, address in wanted.dials:
        yield _dials(name, address)


def _listens(address: Address, data_dir: Path | None) -> Check:
    name = f"port {address.port}"
    if data_dir is not None and _runs(data_dir):
        return Check(name, Outcome.OK, f"the node of {data_dir} runs")
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        return Check(
            name,
            Outcome.FAILED,
            f"the node cannot listen on {address}: {error.strerror}",
            "end what listens there, or set node.listen to another address",
        )
    return Check(name, Outcome.OK, f"the node can listen on {address}")


def _runs(data_dir: Path) -> bool:
    """Whether a process runs the node of ``data_dir``."""
    try:
        check_unlocked(data_dir, (HostRole.NODE.value,))
    except Conflict:
        return True
    except TeleError:
        return False
    return False


def _dials(name: str, address: Address) -> Check:
    try:
        with contextlib.closing(
            socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        ):
            return Check(name, Outcome.OK, f"{address} accepts connections")
    except OSError as error:
        reason = error.strerror or str(error)
        return Check(
            name,
            Outcome.FAILED,
            f"cannot connect to {address}: {reason}",
            f"check the address in node.join.{name}, routes and firewalls",
        )
