"""Which system calls has a process that reads a recording? A filter of the kernel (seccomp(2)).

What has no files and no network can still attack the processes of its own account: read and change
their memory (ptrace), send them signals, or set their limits. Where auth does not run as root, that
account is auth's; for ``tele play FILE`` it is the user's.

Invariants:

* Only the calls that reading, drawing and writing need are allowed, on what is open already. All
  others fail with EPERM, those of another architecture end the process.
* It cannot be taken back, and holds before the first byte of a recording is read.
* On architectures without a list here there is no filter; the other limits hold there, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
#: Instructions of a filter (linux/bpf_common.h), and what it returns (linux/seccomp.h).
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_KILL: Final = 0x80000000
#: Where number and architecture of a call are in what a filter reads (struct seccomp_data).
_NUMBER, _ARCHITECTURE = 0, 4
#: Numbers of x86-64 from here on are of x32.
_X32: Final = 0x40000000

#: The calls, with their numbers on x86-64 and ARM64 (asm/unistd.h).
_CALLS: Final = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "sched_yield": (24, 124),
    "mremap": (25, 216), "madvise": (28, 233), "nanosleep": (35, 101), "getpid": (39, 172),
    "exit": (60, 93), "uname": (63, 160), "gettimeofday": (96, 169), "getrusage": (98, 165),
    "sysinfo": (99, 179), "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "restart_syscall": (219, 128), "clock_gettime": (228, 113), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "set_robust_list": (273, 99), "getrandom": (318, 278),
    "membarrier": (324, 283), "rseq": (334, 293),
}  # fmt: skip
#: By machine: its number as an architecture (linux/audit.h), and its column above.
_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


class _Program(ctypes.Structure):
    """The ``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_for(machine: str) -> bytes:
    """Return the filter for a machine as ``uname`` calls it; empty if there is none."""
    if machine not in _MACHINES:
        return b""
    architecture, column = _MACHINES[machine]
    numbers = sorted(each[column] for each in _CALLS.values())
    refuse = len(numbers)  # instructions from the first comparison of a number to the refusal
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, refuse, 0, _X32),
        *((_IF_EQUAL, refuse - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)


def restrict() -> None:
    """Refuse all other calls from now on; needs ``PR_SET_NO_NEW_PRIVS``. May raise OSError."""
    made = filter_for(os.uname().machine)
    if not made:
        return
    program = _Program(len(made) // 8, made)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
