"""What does a record of the kernel say, as a value that recordings and the audit take?

Invariants:

* Texts of processes are bytes of their choice: what is not UTF-8 is escaped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from errno import errorcode
from typing import Any, Final

from tele.model.trace import Traced, TraceEvent, TraceLost
from tele.tracer import records
from tele.tracer.records import Record

_NANOSECONDS: Final = 1e9
_FLAGS: Final = tuple(
    (getattr(os, name), name)
    for name in (
        "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW",
        "O_CLOEXEC", "O_PATH", "O_TMPFILE",
    )
)  # fmt: skip
_ACCESS: Final = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
_OPENED: Final = frozenset(("open", "create"))


def text_of(data: bytes) -> str:
    """Return what a process gave as text."""
    return data.decode("utf-8", "backslashreplace")


def traced(record: Record, boot: int) -> Traced | TraceLost:
    """Return the value of a record; ``boot`` is when the machine was started, in nanoseconds."""
    if isinstance(record, records.Lost):
        return TraceLost(record.first, record.last)
    event, action, result, details = _what(record)
    origin = record.origin
    if result < 0:
        details = {**details, "failed": errorcode.get(-result, str(-result))}
    if origin.cgroup:
        details = {**details, "cgroup": origin.cgroup}
    return Traced(
        event, origin.sequence, boot + origin.time, action, origin.pid, origin.parent, origin.uid,
        text_of(origin.program), result,
        {key: value for key, value in details.items() if value not in ("", None, (), 0, False)},
    )  # fmt: skip


def _what(record: Any) -> tuple[TraceEvent, str, int, Mapping[str, Any]]:
    """Return event, action, result and details; empty ones are left out later."""
    if isinstance(record, records.Executed):
        return TraceEvent.COMMAND, "exec", record.result, {
            "path": text_of(record.path),
            "executable": text_of(record.executable),
            "directory": text_of(record.directory),
            "argv": [text_of(each) for each in record.arguments],
            "argv_cut": record.cut,
        }  # fmt: skip
    if isinstance(record, records.Exited):
        return TraceEvent.COMMAND, "exit", 0, _exit(record)
    if isinstance(record, records.FileAction):
        opened = record.action in _OPENED
        return TraceEvent.DISK, record.action, record.result, {
            "path": text_of(record.path),
            "to": text_of(record.target),
            "flags": flags_of(record.flags) if opened else record.flags,
            "mode": f"{record.mode & 0o7777:04o}" if record.mode else "",
            "times": record.times if record.times > 1 else 0,
            "path_cut": record.cut,
        }  # fmt: skip
    if isinstance(record, records.SocketAction):
        return TraceEvent.NETWORK, record.action, record.result, {
            "family": record.family,
            "socket": record.kind,
            "address": _address(record.family, record.address, record.port),
            "local": _address(record.family, record.local, record.local_port),
        }  # fmt: skip
    if isinstance(record, records.SystemCalls):
        counts = [{"name": n or "others", "calls": c, "errors": e} for n, c, e in record.counts]
        return TraceEvent.SYSCALLS, "counts", 0, {"counts": counts}
    if isinstance(record, records.HandOver):
        return TraceEvent.HANDOVER, record.way, 0, {"path": text_of(record.path)}
    if isinstance(record, records.RingAction):
        return TraceEvent.COMMAND, "io_uring", 0, {
            "operation": record.action,
            "path": text_of(record.path),
        }  # fmt: skip
    event = TraceEvent.SYSCALLS if record.named else TraceEvent.COMMAND
    details = {"arguments": list(record.arguments), "text": text_of(record.text)}
    return event, record.action, record.result, details


def _exit(record: records.Exited) -> dict[str, Any]:
    number = record.status & 0x7F
    how: dict[str, Any] = {"status": str(record.status >> 8)}
    if number:
        known = number in signal.valid_signals()
        how = {"signal": signal.Signals(number).name if known else str(number)}
    return {
        **how,
        "user_seconds": round(record.user / _NANOSECONDS, 6),
        "system_seconds": round(record.system / _NANOSECONDS, 6),
        "memory": record.memory,
    }


def flags_of(flags: int) -> str:
    """Return flags of open(2) as they are written: ``O_WRONLY|O_CREAT``."""
    names = [_ACCESS.get(flags & os.O_ACCMODE, "")]
    names += [name for bits, name in _FLAGS if flags & bits == bits]
    if "O_TMPFILE" in names:  # which has the bits of another one in it
        names.remove("O_DIRECTORY")
    return "|".join(filter(None, names))


def _address(family: str, host: bytes, port: int) -> str:
    if not host and not port:
        return ""
    text = text_of(host)
    if family == "inet6":
        return f"[{text}]:{port}"
    return f"{text}:{port}" if family == "inet" else text
