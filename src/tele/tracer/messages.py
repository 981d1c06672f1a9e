"""Which messages do a node, its sessions and the tracer exchange?

Invariants:

* Standard library only: both ends load it.
* What comes in is checked to the last key that is used; anything else is ValueError.

The node's socket (SOCK_SEQPACKET) carries JSON objects, and records to the node
(:mod:`tele.tracer.records`). The tracer begins with ``ready`` (``kinds``, and ``missing``: what
each of the others lacks), or with ``unavailable`` (``reason``, ``message``) and ends. Requests:
``{"op": "start", "id", "kinds", "syscalls", "may_end"}``, answered by ``started`` or ``failed``
(``message``), ``{"op": "end", "id"}`` for one that may end, which kills its processes,
``{"op": "flush", "id"}``, answered by all records until now and ``flushed``, and ``{"op": "stop",
"id"}``, answered by what is left of its records and ``stopped`` (``records``, ``lost``). Both
answers have ``missed``, runs of programs that the kernel left out on the whole machine since then.
A malformed one is ``refused`` (``message``).

The socket of sessions carries ``{"id"}`` with two descriptors: a pidfd of the sender, which has one
thread, and a pipe on which the answer comes: JOINED, or a text that says why not.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Final, NamedTuple

from tele.tracer.call_names import NUMBERS
from tele.tracer.operations import KINDS, MAY_END

#: Bytes of one message. A batch of records is not longer, nor is one record.
MAX_MESSAGE: Final = 128 * 1024
#: Bytes of records that are gathered for one message.
BATCH_BYTES: Final = 64 * 1024
#: The answer to a process that now is of its session.
JOINED: Final = b"joined"
#: Sessions that are traced at once.
SESSIONS_LIMIT: Final = 10_000
_CREDENTIALS: Final = 12  # struct ucred


class Options(NamedTuple):
    """Settings of a tracer."""

    #: Bytes for what was not read yet of programs, and of all else: powers of two.
    command_buffer: int = 4 << 20
    event_buffer: int = 16 << 20
    #: Seconds for which programs and buffers stay in the kernel after the last session.
    linger: float = 60.0


class Wanted(NamedTuple):
    """A checked request to trace a session."""

    number: int
    kinds: int
    calls: tuple[int, ...]


def pack(message: dict[str, Any]) -> bytes:
    """Return one message."""
    return json.dumps(message).encode("ascii")


def unpack(data: bytes) -> dict[str, Any]:
    """Return the object of a message. Raises ValueError."""
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("a message is not an object")
    return message


def number_of(message: dict[str, Any]) -> int:
    """Return the number of the session that ``message`` is about. Raises ValueError."""
    number = message.get("id")
    if type(number) is not int or not 0 < number < 1 << 53:
        raise ValueError("no number of a session")
    return number


def wanted(message: dict[str, Any]) -> Wanted:
    """Return what a request to start asks for. Raises ValueError."""
    kinds, calls = message.get("kinds"), message.get("syscalls", [])
    if not isinstance(kinds, list) or not kinds or not all(kind in KINDS for kind in kinds):
        raise ValueError("kinds is not a list of kinds")
    if not isinstance(calls, list) or not all(isinstance(call, str) for call in calls):
        raise ValueError("syscalls is not a list of names")
    unknown = [call for call in calls if call not in NUMBERS]
    if unknown:
        raise ValueError(f"this machine has no system call {unknown[0][:64]!a}")
    mask = 0
    for kind in kinds:
        mask |= KINDS[kind]
    if message.get("may_end") is True:
        mask |= MAY_END
    return Wanted(number_of(message), mask, tuple(NUMBERS[call] for call in calls))


def receive(channel: socket.socket, descriptors: int) -> tuple[bytes, list[int], int]:
    """Return one message, its descriptors, and the process that sent it (0: not known).

    Raises ValueError, with all descriptors closed, for one that is too long or has too many.
    """
    found = array.array("i")
    data, control, flags, _ = channel.recvmsg(
        MAX_MESSAGE + 1,
        socket.CMSG_SPACE(descriptors * found.itemsize) + socket.CMSG_SPACE(_CREDENTIALS),
        socket.MSG_CMSG_CLOEXEC,
    )
    sender = 0
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender = int.from_bytes(content[:4], "little")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > MAX_MESSAGE:
        for descriptor in found:
            os.close(descriptor)
        raise ValueError("too long a message, or too many descriptors")
    return data, list(found), sender
