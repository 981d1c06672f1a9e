"""What happened in a session? Values of what the programs in the kernel wrote.

Invariants:

* Standard library only. Nothing is looked up: what a record does not say is not known.
* Texts are bytes as the kernel has them, of whatever a program likes: make them harmless before
  they are shown.
* A record that is not whole is ValueError, and no other error.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from tele.tracer import operations
from tele.tracer.operations import name_of

#: First byte of a message with records. Each has its length before it.
BATCH: Final = b"R"
LENGTH: Final = struct.Struct("=I")
#: ``struct head`` of session.bpf.c.
HEAD: Final = struct.Struct("=QQQQIIIIIIHHIq8Q16s")
#: What is wanted to put records in order: session and sequence.
PLACE: Final = struct.Struct("=QQ")
EXECUTED, EXITED, CALLED, RING_SUBMITTED = range(1, 5)
#: A path below ``/proc/self/fd`` whose folder is that of the descriptor begins so.
BY_DESCRIPTOR: Final = b"\1proc/self/fd/"
#: Kinds of records that the tracer makes itself.
COUNTED, LOST = 100, 101
#: A counter of calls: number, calls, errors.
COUNTER: Final = struct.Struct("=III")
#: First and last sequence number that is missing.
RANGE: Final = struct.Struct("=QQ")
CUT, NAMED_CALL = 1, 2

_FILE: Final = struct.Struct("=QIIII")
_SOCKET: Final = struct.Struct("=HHHHHH16s16s")
_CREATED: Final = 0x100000
_O_CREAT: Final = 0o100
_KINDS: Final = {1: "stream", 2: "datagram", 3: "raw", 5: "packets"}
_INET, _INET6, _UNIX = int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_UNIX)
_FAMILIES: Final = {
    _UNIX: "unix", _INET: "inet", _INET6: "inet6", 16: "netlink", 17: "packet", 40: "vsock",
    38: "alg", 44: "xdp",
}  # fmt: skip
#: Errors that only the kernel has: a signal came, and the call begins again or fails with EINTR.
_RESTARTED: Final = frozenset({-512, -513, -514, -516})
#: Operations of io_uring (include/uapi/linux/io_uring.h) that calls of their own have, too.
RING_OPERATIONS: Final = {
    9: "sendmsg", 13: "accept", 16: "connect", 18: "openat", 26: "send", 28: "openat2",
    35: "renameat", 36: "unlinkat", 37: "mkdirat", 38: "symlinkat", 39: "linkat", 42: "setxattr",
    45: "socket", 47: "send_zc", 48: "sendmsg_zc", 55: "ftruncate", 56: "bind", 57: "listen",
}  # fmt: skip


class Origin(NamedTuple):
    """Who did something, and when: ``time`` is CLOCK_BOOTTIME in nanoseconds."""

    session: int
    sequence: int
    time: int
    pid: int
    thread: int
    parent: int
    uid: int
    audit_session: int
    cgroup: int
    program: bytes


class Executed(NamedTuple):
    """A program was executed, or could not be: then ``result`` is -errno, ``executable`` and
    ``directory`` are empty.

    ``path`` is as given, ``executable`` the file that runs; ``size`` is that of all arguments in
    bytes, of which ``arguments`` are the first if they are ``cut``.
    """

    origin: Origin
    path: bytes
    executable: bytes
    directory: bytes
    arguments: tuple[bytes, ...]
    size: int
    cut: bool
    result: int


class Exited(NamedTuple):
    """A process ended: ``status`` as of waitpid(2), nanoseconds of CPU, most bytes of memory."""

    origin: Origin
    status: int
    user: int
    system: int
    memory: int


class FileAction(NamedTuple):
    """A file was opened or changed; or not: ``result`` is what the call returned, or -errno.

    ``target`` is the other path, of a rename, link or mount; ``flags`` and ``mode`` are those of
    the call, or the open file's.
    """

    origin: Origin
    action: str
    path: bytes
    target: bytes
    flags: int
    mode: int
    result: int
    cut: bool
    times: int = 1


class SocketAction(NamedTuple):
    """A socket was connected, bound, listened at or accepted from, or sent to with an address."""

    origin: Origin
    action: str
    family: str
    kind: str
    address: bytes
    port: int
    local: bytes
    local_port: int
    result: int


class Action(NamedTuple):
    """Another call with its arguments; ``text`` is the path or the name in it, if it has one."""

    origin: Origin
    action: str
    arguments: tuple[int, ...]
    text: bytes
    result: int
    named: bool


class RingAction(NamedTuple):
    """An operation was given to an io_uring. Its result is not known, nor what it is about but for
    ``path``, as given, of what it opens.
    """

    origin: Origin
    action: str
    path: bytes = b""


class SystemCalls(NamedTuple):
    """Calls of a process: name, how many, and how many of these failed.

    Calls beyond the number of different ones that are counted have no name: ``""``.
    """

    origin: Origin
    counts: tuple[tuple[str, int, int], ...]


class HandOver(NamedTuple):
    """A session had, or may have had, something done by a process that is not its own.

    ``way`` is a word (:mod:`tele.tracer.hand_overs`), ``path`` the file or socket, if there is one.
    """

    origin: Origin
    way: str
    path: bytes


class Lost(NamedTuple):
    """Records of these numbers were lost, all of them."""

    session: int
    first: int
    last: int


Record = (
    Executed
    | Exited
    | FileAction
    | SocketAction
    | Action
    | RingAction
    | SystemCalls
    | HandOver
    | Lost
)


def kind_of(record: Record) -> str:
    """Return what a role has to ask for to have ``record``; empty for what it always has."""
    if isinstance(record, Executed | Exited):
        return "command"
    if isinstance(record, FileAction):
        return "disk"
    if isinstance(record, SocketAction):
        return "network"
    if isinstance(record, SystemCalls) or (isinstance(record, Action) and record.named):
        return "syscalls"
    return "command" if isinstance(record, Action) else ""


def join(parts: list[bytes]) -> bytes:
    """Return the bytes of one message with ``parts``, which are whole records."""
    return BATCH + b"".join(LENGTH.pack(len(part)) + part for part in parts)


def split(data: bytes) -> Iterator[bytes]:
    """Return the records of one message. Raises ValueError."""
    if data[:1] != BATCH:
        raise ValueError("no records")
    at = 1
    while at < len(data):
        try:
            (size,) = LENGTH.unpack_from(data, at)
        except struct.error:
            raise ValueError("a record is cut") from None
        at += LENGTH.size + size
        if at > len(data):
            raise ValueError("a record is cut")
        yield data[at - size : at]


def decode(data: bytes) -> Iterator[Record]:
    """Return what the records of one message say. Raises ValueError."""
    return map(parse, split(data))


def lost(session: int, first: int, last: int) -> bytes:
    """Return the record of a loss."""
    return _own(LOST, session, RANGE.pack(first, last))


def counted(origin: bytes, counters: bytes) -> bytes:
    """Return a record of ``counters`` for the process of the head ``origin``."""
    fields = list(HEAD.unpack(origin[: HEAD.size]))
    fields[9:13] = [len(counters), COUNTED, 0, 0]
    return HEAD.pack(*fields) + counters


def process_of(exited: bytes) -> tuple[int, int, int]:
    """Return session, process and its start time of the record of an exit."""
    fields = HEAD.unpack_from(exited)
    return fields[0], fields[4], fields[18]


def counted_at(session: int, pid: int, time: int, counters: bytes) -> bytes:
    """Return a record of ``counters`` for a process that lives on at ``time``."""
    head = HEAD.pack(
        session, 0, time, 0, pid, pid, 0, 0, 0, len(counters), COUNTED, 0, 0, 0, *[0] * 8, b""
    )
    return head + counters


def _own(kind: int, session: int, content: bytes) -> bytes:
    head = HEAD.pack(session, 0, 0, 0, 0, 0, 0, 0, 0, len(content), kind, 0, 0, 0, *[0] * 8, b"")
    return head + content


def parse(record: bytes) -> Record:
    """Return what one record says. Raises ValueError."""
    try:
        return _parse(record)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a record is cut: {error}") from None


def _parse(record: bytes) -> Record:
    (
        session, sequence, time, cgroup, pid, thread, parent, uid, audit_session, size, kind, flags,
        form, result, *values, program,
    ) = HEAD.unpack_from(record)  # fmt: skip
    text = record[HEAD.size :]
    if len(text) != size:
        raise ValueError("a record is not as long as it says")
    if kind == LOST:
        return Lost(session, *RANGE.unpack(text))
    origin = Origin(
        session, sequence, time, pid, thread, parent, uid, audit_session, cgroup,
        program.partition(b"\0")[0],
    )  # fmt: skip
    cut = bool(flags & CUT)
    if kind == EXECUTED:
        path, rest = _text(text)
        directory, rest = _path(rest)
        executable, rest = _path(rest)
        words = tuple(_words(text[values[1] :]))
        return Executed(origin, path, executable, directory, words, values[0], cut, 0)
    if kind == EXITED:
        # The exit code of a process that exit_group ended is that of all its threads.
        status = values[3] & 0xFFFF if values[3] else result & 0xFFFF
        return Exited(origin, status, values[0], values[1], values[2] * 4096)
    if kind == RING_SUBMITTED:
        action = RING_OPERATIONS.get(values[0], f"operation_{values[0]}")
        return RingAction(origin, action, _text(text)[0])
    if kind == COUNTED:
        return SystemCalls(origin, tuple(_counts(text)))
    if kind != CALLED:
        raise ValueError(f"no such kind of record: {kind}")
    if result in _RESTARTED:
        result = -4
    name = name_of(values[0])
    if name == "socketcall":
        name = _SOCKET_CALLS.get(values[7], name)
    if form in (operations.OPEN, operations.PATHS, operations.DESCRIPTOR) and text:
        return _file_action(origin, name, form, result, values, text, cut)
    if form in _SOCKETS and text:
        return _socket_action(origin, name, result, text)
    if form == operations.EXECUTE and text:
        path, rest = _based_path(text)
        words = tuple(_words(rest))
        total = sum(len(word) + 1 for word in words)
        return Executed(origin, path, b"", b"", words, total, cut, result)
    named = bool(flags & NAMED_CALL)
    argument = b""
    if form == operations.ACTION and text:
        argument, _ = _text(text)
    return Action(origin, name, tuple(values[1:7]), argument, result, named)


_SOCKETS: Final = frozenset({
    operations.SOCKET, operations.ACCEPT, operations.LISTEN, operations.SEND_MESSAGE,
    operations.SEND_MESSAGES,
})  # fmt: skip
_SOCKET_CALLS: Final = {
    2: "bind", 3: "connect", 4: "listen", 5: "accept", 11: "sendto", 16: "sendmsg", 18: "accept4",
    20: "sendmmsg",
}  # fmt: skip
_ACTIONS: Final = {
    "sendto": "send", "sendmsg": "send", "sendmmsg": "send", "accept4": "accept", "openat": "open",
    "openat2": "open", "open_by_handle_at": "open", "unlinkat": "unlink", "mkdirat": "mkdir",
    "mknodat": "mknod", "fchmod": "chmod", "fchmodat": "chmod", "fchmodat2": "chmod",
    "fchown": "chown", "lchown": "chown", "fchownat": "chown", "ftruncate": "truncate",
    "renameat": "rename", "renameat2": "rename", "linkat": "link", "symlinkat": "symlink",
    "umount2": "umount", "creat": "open", "lsetxattr": "setxattr", "fsetxattr": "setxattr",
    "setxattrat": "setxattr", "lremovexattr": "removexattr", "fremovexattr": "removexattr",
    "removexattrat": "removexattr",
}  # fmt: skip
#: Which arguments are flags and mode: numbers from 1.
_FLAGS: Final = {
    "open": (2, 3), "openat": (3, 4), "openat2": (3, 4), "creat": (0, 2), "unlinkat": (3, 0),
    "mkdir": (0, 2), "mkdirat": (0, 3), "mknod": (0, 2), "mknodat": (0, 3), "chmod": (0, 2),
    "fchmod": (0, 2), "fchmodat": (0, 3), "fchmodat2": (4, 3), "fchownat": (5, 0),
    "renameat2": (5, 0), "linkat": (5, 0), "mount": (4, 0), "umount2": (2, 0), "open_tree": (3, 0),
}  # fmt: skip
_REMOVE_FOLDER: Final = 0x200


def _file_action(
    origin: Origin, name: str, form: int, result: int, values: list[int], text: bytes, cut: bool
) -> FileAction:
    flags, mode = (values[n] if n else 0 for n in _FLAGS.get(name, (0, 0)))
    action = _ACTIONS.get(name, name)
    target = b""
    if form == operations.DESCRIPTOR or (form == operations.OPEN and result >= 0):
        _, _, opened_mode, opened_flags, opened = _FILE.unpack_from(text)
        path, _ = _path(text[_FILE.size :])
        if form == operations.OPEN:
            flags, mode = opened_flags | (flags & _O_CREAT), opened_mode
            if opened & _CREATED:
                action = "create"
    else:
        path, rest = _based_path(text)
        if rest:
            target = _text(rest)[0] if name.startswith("symlink") else _based_path(rest)[0]
    if action == "unlink" and flags & _REMOVE_FOLDER:
        action = "rmdir"
    return FileAction(origin, action, path, target, flags, mode & 0xFFFF, result, cut)


def _socket_action(origin: Origin, name: str, result: int, text: bytes) -> SocketAction:
    family, kind, _, local_port, port, size, local, remote = _SOCKET.unpack_from(text)
    given = text[_SOCKET.size : _SOCKET.size + size]
    action = _ACTIONS.get(name, name)
    # What the kernel has counts more than what the program's memory says when the call is over.
    connected = action == "accept" or (action == "connect" and result in (0, -115))
    address, bound = b"", b""
    if family in (_INET, _INET6):
        bound = _ip(family, local)
        if connected and any(remote):
            address = _ip(family, remote)
        else:
            address, port = _given_ip(given, port)
        if action in ("bind", "listen"):
            bound, address = (address or bound, b"")
            local_port, port = (port or local_port, 0)
    else:
        port = local_port = 0
    if family == _UNIX:
        peer, rest = _path(text[_SOCKET.size + size :])
        directory, _ = _path(rest)
        address = _unix_name(given[2:], directory)
        if connected and not given.startswith(b"\1\0\0") and peer != b"/":
            address = peer
        if action == "bind":
            bound, address = address, b""
    named = _FAMILIES.get(family, f"family_{family}" if family else "")
    return SocketAction(
        origin, action, named, _KINDS.get(kind, f"kind_{kind}" if kind else ""), address, port,
        bound, local_port, result,
    )  # fmt: skip


def _ip(family: int, address: bytes) -> bytes:
    size = 4 if family == _INET else 16
    return socket.inet_ntop(family, address[:size]).encode()


def _given_ip(given: bytes, port: int) -> tuple[bytes, int]:
    """Return address and port that a program gave as ``struct sockaddr``."""
    family = int.from_bytes(given[:2], "little")
    if family == _INET and len(given) >= 8:
        return _ip(_INET, given[4:8]), int.from_bytes(given[2:4], "big")
    if family == _INET6 and len(given) >= 24:
        return _ip(_INET6, given[8:24]), int.from_bytes(given[2:4], "big")
    return b"", port


def _unix_name(name: bytes, directory: bytes) -> bytes:
    if name[:1] == b"\0":
        return b"@" + name[1:].rstrip(b"\0")
    path = name.partition(b"\0")[0]
    return _joined(directory, path) if path and not path.startswith(b"/") else path


def _text(data: bytes) -> tuple[bytes, bytes]:
    """Return the text up to the first NUL, and what follows."""
    text, _, rest = data.partition(b"\0")
    return text, rest


def _words(data: bytes) -> list[bytes]:
    return data.split(b"\0")[:-1] if data.endswith(b"\0") else data.split(b"\0") if data else []


def _path(data: bytes) -> tuple[bytes, bytes]:
    """Return the path whose names come last first, and what follows."""
    if data[:1] == b"\0":
        return b"/", data[1:]
    names, _, rest = data.partition(b"\0\0")
    return b"/" + b"/".join(n for n in reversed(names.split(b"\0")) if n != b"/"), rest


def _based_path(data: bytes) -> tuple[bytes, bytes]:
    text, rest = _text(data)
    base, rest = _path(rest)
    if text.startswith(BY_DESCRIPTOR):
        text = text[len(BY_DESCRIPTOR) :].partition(b"/")[2]
    return _joined(base, text), rest


def _joined(base: bytes, path: bytes) -> bytes:
    """Return ``path`` below ``base``: an absolute one is below the root of its process."""
    path = path.lstrip(b"/") if path.startswith(b"/") else path
    if not path:
        return base
    return (b"" if base == b"/" else base) + b"/" + path


def _counts(data: bytes) -> Iterator[tuple[str, int, int]]:
    for call, calls, errors in COUNTER.iter_unpack(data):
        if calls:
            yield (name_of(call - 1) if call else "", calls, errors)
