"""How do the programs get into the kernel, and how are sessions told to them?

Invariants:

* Standard library and libbpf only.
* A program that this kernel does not take is left out, and what it would have recorded is reported
  as missing; only what a session cannot do without makes all of it unavailable.
* They run only while a session is traced. Nothing is left when they are closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from tele.tracer.libbpf import Library, Object, Ring
from tele.tracer.messages import SESSIONS_LIMIT, Options, Wanted
from tele.tracer.operations import KINDS, table
from tele.tracer.records import COUNTER

OBJECT: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "session.bpf.o")
BTF: Final = "/sys/kernel/btf/vmlinux"
LOCKDOWN: Final = "/sys/kernel/security/lockdown"
#: Without it a child would leave its session.
NEEDED: Final = frozenset({"on_fork"})
#: What each program records.
RECORDED: Final = {
    "on_exec": ("command",),
    "on_exit": ("command",),
    "on_call": ("disk", "network", "syscalls"),
}
#: The first kernel with storage of tasks for such programs.
OLDEST: Final = (5, 11)
_NUMBER: Final = struct.Struct("=Q")
_INDEX: Final = struct.Struct("=I")
_SESSION: Final = struct.Struct("=QQQ16Q2QQ")
_PROGRESS: Final = struct.Struct("=QQ")
_PROCESS: Final = struct.Struct("=QQII")
_COUNTERS: Final = 129
_NAMED: Final = re.compile(r"prog '(\w+)': (?:BPF program load failed|failed to )")


class Unavailable(Exception):
    """Sessions cannot be traced here: ``reason`` is one word, the message a line for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Programs:
    """The loaded programs and their maps. Raises Unavailable."""

    def __init__(self, options: Options, path: str = OBJECT) -> None:
        self._links: list[Callable[[], None]] = []
        self._library, self._object, left_out = _load(options, path)
        try:
            loaded = {name for name, _ in self._object.programs()} - left_out
            self._names = sorted(loaded)
            self.missing = {
                kind: f"this kernel does not take the program {name}"
                for name, kinds in RECORDED.items()
                if name in left_out
                for kind in kinds
            }
            self._tags = self._object.map("tags", 4, _NUMBER.size)
            self._sessions = self._object.map("sessions", _NUMBER.size, _SESSION.size)
            self._counts = self._object.map("counts", _PROCESS.size, COUNTER.size * _COUNTERS)
            self._progresses = self._object.map("progresses", _NUMBER.size, _PROGRESS.size)
            self._ending = self._object.map("ending", _NUMBER.size, _NUMBER.size)
            operations = self._object.map("operations", _INDEX.size, 8)
            for number, operation in table():
                operations.put(_INDEX.pack(number), operation.packed())
        except OSError as error:
            self._object.close()
            raise Unavailable("failed", f"a map cannot be filled: {error}") from None

    @property
    def kinds(self) -> list[str]:
        """What can be recorded."""
        return [kind for kind in KINDS if kind not in self.missing and kind != "handovers"]

    def rings(self) -> list[Ring]:
        """Return readers of all records."""
        return [self._object.ring("commands"), self._object.ring("others")]

    def attach(self) -> None:
        """Have all programs run. Raises OSError, with none running."""
        try:
            for name in self._names:
                self._links.append(self._object.attach(name))
        except OSError:
            self.detach()
            raise

    def detach(self) -> None:
        """Have none run."""
        while self._links:
            self._links.pop()()

    def start(self, wanted: Wanted) -> None:
        """Record what processes of a session do. Raises OSError."""
        named = [0] * 16
        for call in wanted.calls:
            named[call >> 6] |= 1 << (call & 63)
        value = _SESSION.pack(0, 0, wanted.kinds, *named, 0, 0, 0)
        self._sessions.put(_NUMBER.pack(wanted.number), value)

    def join(self, number: int, pidfd: int) -> None:
        """Make a process, and all that it starts from now on, one of a session. Raises OSError."""
        self._tags.put(struct.pack("=i", pidfd), _NUMBER.pack(number))

    def end(self, number: int) -> None:
        """Have each process of a session killed, with its next system call. Raises OSError."""
        self._ending.put(_NUMBER.pack(number), _NUMBER.pack(1))

    def given_and_lost(self, number: int) -> tuple[int, int]:
        """Return how many records of a session were begun, and how many of them are lost."""
        value = self._sessions.get(_NUMBER.pack(number))
        if value is None:
            return 0, 0
        given, lost, *_ = _SESSION.unpack(value)
        return given, lost

    def missed(self) -> int:
        """Return how often the kernel did not run a program, of any session or of none."""
        return self._object.missed(self._names)

    def uncounted(self, number: int) -> int:
        """Return how many system calls of a session are in no counter: too many processes ran."""
        value = self._sessions.get(_NUMBER.pack(number))
        return 0 if value is None else int(_SESSION.unpack(value)[-1])

    def have_read(self, number: int, sizes: Sequence[int]) -> None:
        """Note how many bytes of a session were read from each ring since it began."""
        with contextlib.suppress(OSError):  # then it has less space than it could have
            self._progresses.put(_NUMBER.pack(number), _PROGRESS.pack(*sizes))

    def stop(self, number: int) -> None:
        """Record nothing of a session any more."""
        self._sessions.remove(_NUMBER.pack(number))
        self._progresses.remove(_NUMBER.pack(number))
        self._ending.remove(_NUMBER.pack(number))

    def counters(self, number: int, pid: int, start: int) -> bytes:
        """Return the counters of a process that has ended, and forget them."""
        key = _PROCESS.pack(number, start, pid, 0)
        value = self._counts.get(key)
        if value is None:
            return b""
        self._counts.remove(key)
        return _used(value)

    def all_counters(self, number: int) -> list[tuple[int, bytes]]:
        """Return process and counters of what is left of a session, and forget them."""
        keys = {key for key in self._counts.all_keys() if _NUMBER.unpack_from(key)[0] == number}
        found = []
        for key in sorted(keys):
            _, start, pid, _ = _PROCESS.unpack(key)
            found.append((pid, self.counters(number, pid, start)))
        return found

    def close(self) -> None:
        """Leave nothing in the kernel."""
        self.detach()
        self._object.close()


def _used(value: bytes) -> bytes:
    size = COUNTER.size
    parts = (value[at : at + size] for at in range(0, len(value), size))
    return b"".join(part for part in parts if COUNTER.unpack(part)[1])


def _load(options: Options, path: str) -> tuple[Library, Object, frozenset[str]]:
    """Load all programs but those that the kernel does not take."""
    check_machine(path)
    try:
        library = Library()
    except (OSError, AttributeError) as error:
        text = f"libbpf.so.1 cannot be loaded ({error}): install libbpf (Debian: libbpf1)"
        raise Unavailable("no_libbpf", text) from None
    left_out: frozenset[str] = frozenset()
    while True:
        library.said = ""
        loaded = None
        try:
            loaded = Object(library, path)
            loaded.leave_out(left_out)
            loaded.resize("commands", options.command_buffer)
            loaded.resize("others", options.event_buffer)
            loaded.resize("sessions", SESSIONS_LIMIT)
            loaded.resize("progresses", SESSIONS_LIMIT)
            loaded.resize("ending", SESSIONS_LIMIT)
            loaded.load()
        except OSError as error:
            if loaded is not None:
                loaded.close()
            refused = frozenset(_NAMED.findall(library.said)) - left_out
            if not refused or refused & NEEDED or error.errno == errno.ENOMEM:
                raise _why(error, library.said) from None
            left_out |= refused
        else:
            library.trim()
            return library, loaded, left_out


def check_machine(path: str) -> None:
    """See whether this machine can do it at all. Raises Unavailable."""
    if platform.machine() != "x86_64":
        text = f"processes cannot be traced on {platform.machine()}: only on x86_64"
        raise Unavailable("machine", text)
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    if release is not None and (int(release[1]), int(release[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        text = f"Linux {platform.release()} is too old: processes are traced from {oldest} on"
        raise Unavailable("old_kernel", text)
    if not os.path.exists(BTF):
        text = f"{BTF} is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF"
        raise Unavailable("no_btf", text)
    if not os.path.exists(path):
        raise Unavailable("no_object", f"{path} is missing: this installation is incomplete")


def _why(error: OSError, said: str) -> Unavailable:
    if error.errno == errno.EPERM:
        try:
            with open(LOCKDOWN, encoding="ascii") as file:
                locked = re.search(r"\[(integrity|confidentiality)\]", file.read())
        except OSError:
            locked = None
        if locked is not None and locked[1] == "confidentiality":
            text = "the kernel is locked down (confidentiality): it runs no BPF programs"
            return Unavailable("lockdown", text)
        text = (
            "the kernel does not permit it: that needs root with CAP_BPF and CAP_PERFMON,"
            " which a container may lack"
        )
        return Unavailable("no_privilege", text)
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    return Unavailable("failed", f"BPF programs cannot be loaded: {error.strerror}: {last[:200]}")
