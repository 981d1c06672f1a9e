"""What a record of the kernel says, as recordings and the audit have it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tele.model.trace import Traced, TraceEvent, TraceLost
from tele.plugins.kernel_records import flags_of, traced
from tele.tracer import records
from tele.tracer.records import Origin

BOOT = 1_000_000_000_000


def origin(sequence: int = 4) -> Origin:
    return Origin(9, sequence, 77, 100, 100, 99, 1000, 5, 1234, b"sh")


def value(record: Any) -> Traced:
    """Return what a record says."""
    found = traced(record, BOOT)
    assert isinstance(found, Traced)
    json.dumps(found.fields)
    return found


def test_an_executed_program() -> None:
    """Its arguments, the file that runs, and who did it, when."""
    args = (b"ls", b"-l", b"\xff")
    found = value(records.Executed(origin(), b"./ls", b"/bin/ls", b"/bin", args, 9, True, 0))
    assert (found.event, found.action, found.number) == (TraceEvent.COMMAND, "exec", 4)
    assert (found.time, found.pid, found.parent, found.uid) == (BOOT + 77, 100, 99, 1000)
    assert found.details == {
        "path": "./ls", "executable": "/bin/ls", "directory": "/bin", "argv": ["ls", "-l", "\\xff"],
        "argv_cut": True, "cgroup": 1234,
    }  # fmt: skip


def test_a_failure_has_the_name_of_its_error() -> None:
    """For those who do not know the numbers, and for numbers that have no name."""
    found = value(records.Executed(origin(), b"/x", b"", b"", (b"x",), 2, False, -2))
    assert (found.result, found.details["failed"]) == (-2, "ENOENT")
    found = value(records.Executed(origin(), b"/x", b"", b"", (b"x",), 2, False, -9999))
    assert found.details["failed"] == "9999"


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (0, {"status": "0"}),
        (3 << 8, {"status": "3"}),
        (9, {"signal": "SIGKILL"}),
        (127, {"signal": "127"}),
    ],
)
def test_an_exit(status: int, how: dict[str, str]) -> None:
    """By a status or a signal, with what it took."""
    found = value(records.Exited(origin(), status, 1_500_000_000, 2_000_000, 4096))
    took = {"user_seconds": 1.5, "system_seconds": 0.002, "memory": 4096}
    assert found.details == {**how, **took, "cgroup": 1234}


def test_files_and_sockets() -> None:
    """Flags as they are written, modes in octal, addresses as tele prints them."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    found = value(records.FileAction(origin(), "create", b"/a", b"", flags, 0o640, 3, False))
    assert found.details == {
        "path": "/a", "flags": "O_WRONLY|O_CREAT|O_TRUNC", "mode": "0640", "cgroup": 1234,
    }  # fmt: skip
    assert found.event is TraceEvent.DISK
    for family, host, port, shown in (
        ("inet", b"192.0.2.1", 80, "192.0.2.1:80"),
        ("inet6", b"::1", 53, "[::1]:53"),
        ("unix", b"/run/x", 0, "/run/x"),
    ):
        found = value(
            records.SocketAction(origin(), "connect", family, "stream", host, port, b"", 0, -111)
        )
        assert (found.event, found.details["address"]) == (TraceEvent.NETWORK, shown)
        assert found.details["failed"] == "ECONNREFUSED"


def test_the_rest() -> None:
    """Counters, hand-overs, other calls, and what is lost."""
    found = value(records.SystemCalls(origin(0), (("read", 5, 1), ("", 2, 0))))
    assert found.details["counts"] == [
        {"name": "read", "calls": 5, "errors": 1}, {"name": "others", "calls": 2, "errors": 0},
    ]  # fmt: skip
    found = value(records.HandOver(origin(), "docker", b"/run/docker.sock"))
    assert (found.event, found.action) == (TraceEvent.HANDOVER, "docker")
    for named, event in ((True, TraceEvent.SYSCALLS), (False, TraceEvent.COMMAND)):
        found = value(records.Action(origin(), "ptrace", (16, 7), b"", 0, named))
        assert (found.event, found.details["arguments"]) == (event, [16, 7])
    assert traced(records.Lost(9, 3, 7), BOOT) == TraceLost(3, 7)


def test_a_temporary_file_is_no_folder() -> None:
    """O_TMPFILE has the bits of O_DIRECTORY in it."""
    assert flags_of(os.O_RDWR | os.O_TMPFILE) == "O_RDWR|O_TMPFILE"
    assert flags_of(os.O_RDONLY | os.O_DIRECTORY) == "O_RDONLY|O_DIRECTORY"
