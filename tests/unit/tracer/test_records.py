"""What programs in the kernel wrote is read to values, or is ValueError."""

from __future__ import annotations

import struct

import pytest

from tele.tracer import records
from tele.tracer.call_names import NUMBERS
from tele.tracer.hand_overs import Witnesses, hand_over
from tele.tracer.operations import COMPAT_FIRST, DESCRIPTOR, EXECUTE, OPEN, PATHS, SOCKET
from tele.tracer.records import (
    CALLED,
    CUT,
    EXECUTED,
    EXITED,
    Action,
    Executed,
    Exited,
    FileAction,
    HandOver,
    Lost,
    Record,
    RingAction,
    SocketAction,
    SystemCalls,
    kind_of,
    parse,
)


def made(
    kind: int, text: bytes = b"", *values: int, form: int = 0, result: int = 0, flags: int = 0,
    cgroup: int = 5, audit_session: int = 3,
) -> bytes:  # fmt: skip
    """A record as a program writes it."""
    padded = [*values, *[0] * (8 - len(values))]
    head = records.HEAD.pack(
        7, 9, 1000, cgroup, 42, 43, 41, 1000, audit_session, len(text), kind, flags, form, result,
        *padded, b"bash",
    )  # fmt: skip
    return head + text


def call(name: str, text: bytes = b"", *values: int, form: int, result: int = 0) -> Record:
    return parse(made(CALLED, text, NUMBERS[name], *values, form=form, result=result))


def file_info(mode: int = 0o100644, flags: int = 0, opened: int = 0) -> bytes:
    return struct.pack("=QIIII", 1, 2, mode, flags, opened)


def socket_info(
    family: int, given: bytes = b"", remote: bytes = b"", ports: tuple[int, int] = (0, 0)
) -> bytes:
    return struct.pack("=HHHHHH16s16s", family, 1, 6, *ports, len(given), b"", remote) + given


def test_a_program() -> None:
    """Path, folder, file and arguments; the folder's names come last first."""
    text = b"./run\0" + b"work\0home\0\0" + b"dash\0bin\0usr\0\0"
    read = parse(made(EXECUTED, text + b"run\0-x\0\0", 8, len(text)))
    assert isinstance(read, Executed)
    assert read[1:] == (
        b"./run", b"/usr/bin/dash", b"/home/work", (b"run", b"-x", b""), 8, False, 0,
    )  # fmt: skip
    assert read.origin == (7, 9, 1000, 42, 43, 41, 1000, 3, 5, b"bash")
    assert kind_of(read) == "command"


def test_a_program_that_is_not_there() -> None:
    """Its path is joined to where it begins, and it has an error."""
    read = call("execve", b"x\0b\0\0x\0-a\0", form=EXECUTE, result=-2)
    assert isinstance(read, Executed)
    assert (read.path, read.executable, read.arguments, read.result) == (
        b"/b/x",
        b"",
        (b"x", b"-a"),
        -2,
    )


def test_cut_arguments() -> None:
    """What does not fit is marked, and its size is known."""
    read = parse(made(EXECUTED, b"p\0\0\0ab", 5000, 4, flags=CUT))
    assert isinstance(read, Executed)
    assert (read.arguments, read.size, read.cut) == ((b"ab",), 5000, True)


def test_an_exit() -> None:
    """The status is that of the process, also if a thread ended it."""
    read = parse(made(EXITED, b"", 10, 20, 3, 0x100))
    assert isinstance(read, Exited)
    assert read[1:] == (0x100, 10, 20, 12288)
    assert parse(made(EXITED, result=9))[1] == 9


def test_files() -> None:
    """An open file has its real path, and a new one was created; others are joined to a folder."""
    opened = call("openat", file_info() + b"b\0a\0\0", form=OPEN, result=3)
    assert isinstance(opened, FileAction)
    assert (opened.action, opened.path, opened.result) == ("open", b"/a/b", 3)
    created = call("open", file_info(opened=0x100000) + b"b\0\0", form=OPEN, result=4)
    assert created[1:3] == ("create", b"/b")
    missing = call("openat", b"x\0home\0\0", form=OPEN, result=-2)
    assert missing[1:3] == ("open", b"/home/x")
    renamed = call("renameat2", b"a\0h\0\0/b\0\0", form=PATHS)
    assert renamed[1:4] == ("rename", b"/h/a", b"/b")
    linked = call("symlink", b"l\0h\0\0../t\0h\0\0", form=PATHS)
    assert linked[1:4] == ("symlink", b"/h/l", b"../t")
    removed = call("unlinkat", b"d\0\0", 0, 0, 0x200, form=PATHS)
    assert removed[1:3] == ("rmdir", b"/d")
    changed = call("fchmod", file_info() + b"f\0\0", 3, 0o600, form=DESCRIPTOR)
    assert isinstance(changed, FileAction)
    assert (changed.action, changed.path, changed.mode) == ("chmod", b"/f", 0o600)
    jailed = call("unlink", b"/etc/x\0jail\0\0", form=PATHS)
    assert jailed[1:3] == ("unlink", b"/jail/etc/x")
    assert kind_of(jailed) == "disk"
    pinned = call("mkdir", b"\1proc/self/fd/7/x\0home\0\0", form=PATHS)
    assert pinned[1:3] == ("mkdir", b"/home/x")
    itself = call("chmod", b"\1proc/self/fd/7\0f\0home\0\0", form=PATHS)
    assert itself[1:3] == ("chmod", b"/home/f")


@pytest.mark.parametrize(
    ("text", "result", "expected"),
    [
        (socket_info(2, b"\2\0\0\x50\1\2\3\4" + bytes(8)), -111, ("inet", b"1.2.3.4", 80)),
        # What the program's memory says afterwards does not count where the kernel knows better.
        (
            socket_info(2, b"\2\0\0\x50\1\2\3\4", bytes([9, 9, 9, 9]), (1, 22)),
            0,
            ("inet", b"9.9.9.9", 22),
        ),
        (socket_info(10, b"\x0a\0\0\x50" + bytes(19) + b"\1"), -101, ("inet6", b"::1", 80)),
        (socket_info(1, b"\1\0/run/x\0") + b"\0\0", -2, ("unix", b"/run/x", 0)),
        (socket_info(1, b"\1\0x\0") + b"\0" + b"w\0\0", -2, ("unix", b"/w/x", 0)),
        (socket_info(1, b"\1\0link\0") + b"s\0run\0\0" + b"w\0\0", 0, ("unix", b"/run/s", 0)),
        (socket_info(1, b"\1\0\0name") + b"\0\0", 0, ("unix", b"@name", 0)),
        (socket_info(0, b"\2\0"), -9, ("", b"", 0)),
    ],
)  # fmt: skip
def test_sockets(text: bytes, result: int, expected: tuple[str, bytes, int]) -> None:
    """Addresses of each family, of what was given or of what is connected."""
    read = call("connect", text, form=SOCKET, result=result)
    assert isinstance(read, SocketAction)
    assert (read.family, read.address, read.port) == expected
    assert (read.action, read.result, kind_of(read)) == ("connect", result, "network")


def test_other_records() -> None:
    """Counters, losses, operations of io_uring, and calls of 32-bit programs."""
    counters = struct.pack("=IIIIII", 1, 5, 2, 0, 1, 0)
    exited = made(EXITED)
    assert parse(records.counted(exited, counters))[1] == (("read", 5, 2), ("", 1, 0))
    at = parse(records.counted_at(7, 42, 5, counters))
    assert isinstance(at, SystemCalls)
    assert (at.origin.session, at.origin.pid) == (7, 42)
    assert parse(records.lost(7, 3, 5)) == Lost(7, 3, 5)
    assert parse(made(records.RING_SUBMITTED, b"", 16))[1] == "connect"
    assert parse(made(records.RING_SUBMITTED, b"", 200))[1] == "operation_200"
    old = parse(made(CALLED, b"", COMPAT_FIRST + 26, 16, 1, result=-513))
    assert isinstance(old, Action)
    assert (old.action, old.arguments[:2], old.result) == ("ptrace", (16, 1), -4)


def test_batches() -> None:
    """What is joined is split again; what is cut is refused."""
    parts = [made(EXITED), made(EXECUTED, b"p\0\0\0", 0, 4), records.lost(1, 2, 3)]
    data = records.join(parts)
    assert list(records.split(data)) == parts
    assert [type(each) for each in records.decode(data)] == [Exited, Executed, Lost]
    for bad in (b"", b"X", data[:-1], data[:3]):
        with pytest.raises(ValueError, match="record"):
            list(records.split(bad))


@pytest.mark.parametrize(
    "bad",
    [b"", made(EXITED)[:-1], made(EXITED) + b"x", made(55), made(records.LOST, b"x")],
)
def test_malformed(bad: bytes) -> None:
    """A record that is not whole, or of no kind, is refused."""
    with pytest.raises(ValueError, match="record"):
        parse(bad)


ORIGIN = records.Origin(1, 1, 0, 2, 2, 1, 0, 0, 0, b"sh")


def file_record(action: str, path: bytes, target: bytes = b"", flags: int = 0) -> FileAction:
    return FileAction(ORIGIN, action, path, target, flags, 0, 3, False)


def unix(path: bytes, result: int = 0) -> SocketAction:
    return SocketAction(ORIGIN, "connect", "unix", "stream", path, 0, b"", 0, result)


@pytest.mark.parametrize(
    ("record", "way"),
    [
        (unix(b"/run/systemd/private"), "systemd"),
        (unix(b"/var/run/dbus/system_bus_socket"), "dbus"),
        (unix(b"/run/user/1000/bus"), "dbus"),
        (unix(b"/var/run/docker.sock"), "docker"),
        (unix(b"/run/containerd/containerd.sock"), "containers"),
        (unix(b"/tmp/tmux-1000/default"), "tmux"),
        (unix(b"/run/screen/S-root/1.pts-0.vm"), "screen"),
        (unix(b"/tmp/ssh-XXXX/agent.12"), "ssh_agent"),
        (unix(b"/var/run/docker.sock", -111), ""),
        (unix(b"/run/systemd/journal/socket"), ""),
        (file_record("create", b"/var/spool/cron/crontabs/root"), "cron"),
        (file_record("rename", b"/tmp/x", b"/etc/cron.d/x"), "cron"),
        (file_record("create", b"/var/spool/cron/atjobs/a1"), "at"),
        (file_record("create", b"/home/a/.config/systemd/user/x.service"), "user_unit"),
        (file_record("link", b"/etc/systemd/system/x.service"), "unit"),
        (file_record("open", b"/home/a/.ssh/authorized_keys", flags=1), "authorized_keys"),
        (file_record("open", b"/home/a/.ssh/authorized_keys"), ""),
        (file_record("open", b"/home/a/.bashrc", flags=2), "shell_start"),
        (file_record("open", b"/proc/sys/kernel/core_pattern", flags=1), "kernel_helper"),
        (file_record("open", b"/proc/12/mem", flags=2), "process_memory"),
        (file_record("open", b"/sys/fs/cgroup/x/cgroup.procs", flags=1), "cgroup"),
        (file_record("create", b"/etc/sudoers.d/me"), "accounts"),
        (RingAction(ORIGIN, "openat"), "io_uring"),
        (Action(ORIGIN, "ptrace", (16, 1, 0, 0, 0, 0), b"", 0, False), "process_memory"),
        (Action(ORIGIN, "ptrace", (0, 1, 0, 0, 0, 0), b"", 0, False), ""),
        (Action(ORIGIN, "setns", (3, 0, 0, 0, 0, 0), b"", 0, False), "namespace"),
        (Action(ORIGIN, "setns", (3, 0, 0, 0, 0, 0), b"", -1, False), ""),
        (Exited(ORIGIN, 0, 0, 0, 0), ""),
    ],
)
def test_hand_overs(record: Record, way: str) -> None:
    """What others do for a session is named by the way in which they are asked."""
    found = hand_over(record)
    assert (found.way if found else "") == way


def test_witnesses() -> None:
    """A process in another control group, or with another number in the audit, is told once."""
    witnesses = Witnesses()
    text = b"p\0\0\0"
    plain = parse(made(EXECUTED, text, 0, 4))
    moved = parse(made(EXECUTED, text, 0, 4, cgroup=6))
    renumbered = parse(made(EXECUTED, text, 0, 4, audit_session=8))
    assert witnesses.look(plain) is None
    found = witnesses.look(moved)
    assert isinstance(found, HandOver)
    assert found.way == "cgroup"
    assert witnesses.look(moved) is None
    other = witnesses.look(renumbered)
    assert isinstance(other, HandOver)
    assert other.way == "audit_session"
    witnesses.forget(7)
    assert witnesses.look(moved) is None
