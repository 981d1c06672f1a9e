"""What do the programs in the kernel have to read of a system call?

Invariants:

* Standard library only: the tracer loads it.
* The numbers are those of ``session.bpf.c``; a test compares them.
* A call that is not here is recorded only where its session names it, with plain arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from tele.tracer.call_names import COMPAT, NATIVE

#: Bits of what a session asks for.
KINDS: Final = {"command": 1, "disk": 2, "network": 4, "syscalls": 8, "handovers": 16}
_COMMAND, _DISK, _NETWORK, _, _HANDOVERS = KINDS.values()
#: A session that may be told to end.
MAY_END: Final = 32
#: Of a session that asks for hand-overs only, what may be one.
_CHANGE: Final = _DISK | _HANDOVERS
_ACT: Final = _COMMAND | _HANDOVERS

OPEN, PATHS, DESCRIPTOR, SOCKET, ACTION, EXECUTE = range(1, 7)
OPEN_HOW, SEND_MESSAGE, SOCKET_CALL, ACCEPT, LISTEN, SEND_MESSAGES, CONTROL = range(7, 14)

#: Numbers of 32-bit programs begin here.
COMPAT_FIRST: Final = 1024
_PACKED: Final = struct.Struct("=8B")


class Operation(NamedTuple):
    """Which arguments of a call are paths, and of which folders: numbers from 1, 0 for none."""

    kind: int
    asked: int
    path: int = 0
    directory: int = 0
    path2: int = 0
    directory2: int = 0

    def packed(self) -> bytes:
        """Return ``struct operation``."""
        return _PACKED.pack(*self, 0, 0)


def _of(kind: int, asked: int, names: str, *places: int) -> dict[str, Operation]:
    return {name: Operation(kind, asked, *places) for name in names.split()}


#: By name.
OPERATIONS: Final[dict[str, Operation]] = {
    **_of(OPEN, _CHANGE, "open creat", 1),
    **_of(OPEN, _CHANGE, "openat", 2, 1),
    **_of(OPEN, _CHANGE, "open_by_handle_at"),
    **_of(OPEN_HOW, _CHANGE, "openat2", 2, 1),
    **_of(PATHS, _CHANGE, "unlink rmdir mkdir mknod chmod chown lchown truncate umount umount2", 1),
    **_of(PATHS, _CHANGE, "setxattr lsetxattr removexattr lremovexattr acct chroot", 1),
    **_of(PATHS, _CHANGE, "unlinkat mkdirat mknodat fchmodat fchmodat2 fchownat", 2, 1),
    **_of(PATHS, _CHANGE, "setxattrat removexattrat open_tree", 2, 1),
    **_of(PATHS, _CHANGE, "rename link", 1, 0, 2, 0),
    **_of(PATHS, _CHANGE, "renameat renameat2 linkat", 2, 1, 4, 3),
    **_of(PATHS, _CHANGE, "symlink mount pivot_root", 2, 0, 1, 0),
    **_of(PATHS, _CHANGE, "symlinkat", 3, 2, 1, 0),
    **_of(PATHS, _CHANGE, "move_mount", 4, 3, 2, 1),
    **_of(DESCRIPTOR, _CHANGE, "fchmod fchown ftruncate fsetxattr fremovexattr", 1),
    # To sockets of programs that may act for the session, whatever is asked for.
    **_of(SOCKET, _NETWORK | _ACT | _DISK, "connect", 2),
    **_of(SOCKET, _NETWORK, "bind", 2),
    **_of(SOCKET, _NETWORK | _ACT | _DISK, "sendto", 5),
    **_of(SEND_MESSAGE, _NETWORK | _ACT | _DISK, "sendmsg"),
    **_of(SEND_MESSAGES, _NETWORK | _ACT | _DISK, "sendmmsg"),
    **_of(SOCKET_CALL, _NETWORK | _ACT | _DISK, "socketcall"),
    **_of(ACCEPT, _NETWORK, "accept accept4"),
    **_of(LISTEN, _NETWORK, "listen"),
    **_of(EXECUTE, _COMMAND, "execve", 1, 0, 2),
    **_of(EXECUTE, _COMMAND, "execveat", 2, 1, 3),
    **_of(DESCRIPTOR, _ACT, "finit_module", 1),
    **_of(ACTION, _COMMAND, "delete_module memfd_create", 1),
    **_of(ACTION, _ACT, "ptrace process_vm_writev pidfd_getfd setns io_uring_setup fsmount"),
    **_of(ACTION, _ACT, "init_module bpf kexec_load kexec_file_load request_key"),
    **_of(ACTION, _COMMAND, "process_vm_readv perf_event_open reboot unshare mount_setattr"),
    **_of(ACTION, _COMMAND, "setuid setgid setreuid setregid setresuid setresgid setgroups"),
    **_of(ACTION, _COMMAND, "setfsuid setfsgid capset fsopen fspick"),
    **_of(CONTROL, _ACT, "ioctl"),
}


def name_of(call: int) -> str:
    """Return the name of a call in a record; one that is not known has its number."""
    if call >= COMPAT_FIRST:
        name = COMPAT.get(call - COMPAT_FIRST)
        # Those of 32-bit programs with wider arguments do the same.
        return f"compat_{call - COMPAT_FIRST}" if name is None else name.removesuffix("32")
    return NATIVE.get(call, f"call_{call}")


def table() -> Iterator[tuple[int, Operation]]:
    """Return the number of each call and what it does."""
    for first, names in ((0, NATIVE), (COMPAT_FIRST, COMPAT)):
        for number in names:
            operation = OPERATIONS.get(name_of(first + number))
            if operation is not None:
                yield first + number, operation
