"""What can be in a recording? Frames: one event each, with a time and a channel."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from attrs import frozen


class FrameKind(IntEnum):
    """Stable numbers of docs/protocols/tape; a reader skips unknown ones.

    ``data`` are raw bytes for OUTPUT, ERROR and INPUT, and one JSON object for all others.
    """

    START = 1
    END = 2
    OPEN = 3
    CLOSE = 4
    OUTPUT = 5
    ERROR = 6
    INPUT = 7
    RESIZE = 8
    EXIT = 9
    JOIN = 10
    LEAVE = 11
    TRANSFER = 12
    FORWARD = 13
    COMMAND = 14
    DISK = 15
    NETWORK = 16
    GAP = 17
    CAPTURE = 18
    PAUSE = 19
    HOST = 20
    SYSCALLS = 21
    HANDOVER = 22
    TYPED = 23


#: The data of each kind; the documentation is made from this.
KIND_MEANINGS: Final = {
    FrameKind.START: "the recording begins: who, where, when",
    FrameKind.END: "it ends: ``reason``",
    FrameKind.OPEN: "a channel opens: ``kind`` (shell, exec, subsystem) and ``command`` of what is"
    " launched, ``asked`` if the client asked for something else, ``env``, ``pty``; or ``kind``"
    " forward, see below",
    FrameKind.CLOSE: "a channel closes",
    FrameKind.OUTPUT: "bytes that a program wrote to its terminal or standard output",
    FrameKind.ERROR: "bytes that it wrote to its standard error",
    FrameKind.INPUT: "bytes that the client sent, only if a role asks for it",
    FrameKind.RESIZE: "the window changed: ``columns``, ``rows``",
    FrameKind.EXIT: "the program ended: ``status``, or ``signal`` and ``core``",
    FrameKind.JOIN: "a user joined the session: ``user``, ``mode``, ``remote_addr``, and ``join``,"
    " which numbers those who join",
    FrameKind.LEAVE: "a user left: ``user``, ``join``, ``reason``",
    FrameKind.TYPED: "what a user who joined typed on a terminal: ``user``, ``join``, and ``text``;"
    " or ``hidden``, once, if the terminal did not show it",
    FrameKind.TRANSFER: "one operation on a file, see below",
    FrameKind.FORWARD: "what listens for the client, see below",
    FrameKind.COMMAND: "a process executed a program, ended, or changed its rights; see below",
    FrameKind.DISK: "a process opened, made, changed or removed a file; see below",
    FrameKind.NETWORK: "a process connected, listened, accepted or sent; see below",
    FrameKind.GAP: "what was not recorded: ``lost`` (bytes by kind), ``frames`` (ranges of"
    " numbers) and ``reason``",
    FrameKind.CAPTURE: "a stream of a program without a terminal ended: ``stream``, ``bytes``,"
    " ``sha256``, and how many bytes of it are recorded: ``head``, ``tail``",
    FrameKind.PAUSE: "output is held until auth has it, or goes on: ``state``, ``reason``",
    FrameKind.SYSCALLS: "the system calls of a process that ended; see below",
    FrameKind.HANDOVER: "a process asked another one, outside of the session, to act; see below",
    FrameKind.HOST: "which host a proxy reached: ``target``, ``address``, ``fingerprint``",
}

#: Kinds that have no number of their own: a recorder makes them. They carry the last number before.
UNNUMBERED: Final = frozenset((FrameKind.START, FrameKind.END, FrameKind.GAP))


@frozen(slots=True)
class Frame:
    """``time`` is in nanoseconds since the start of the recording, never decreasing.

    ``channel`` numbers the channels of the connection from 1; 0 is the connection. ``sequence`` is
    the frame's number in its session, from 1, given before anything can drop the frame; 0 in
    recordings without numbers.
    """

    time: int
    channel: int
    kind: FrameKind
    data: bytes
    sequence: int = 0
