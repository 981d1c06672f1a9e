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
    SFTP = 12
    FORWARD = 13
    COMMAND = 14
    DISK = 15
    NETWORK = 16
    GAP = 17


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
    FrameKind.JOIN: "a user joined: ``user``",
    FrameKind.LEAVE: "a user left: ``user``",
    FrameKind.SFTP: "one operation on a file",
    FrameKind.FORWARD: "what listens for the client, see below",
    FrameKind.COMMAND: "a program was executed (from the kernel)",
    FrameKind.DISK: "a file was opened (from the kernel)",
    FrameKind.NETWORK: "a connection was made (from the kernel)",
    FrameKind.GAP: "what was not recorded: ``lost`` (bytes by kind) and ``reason``",
}


@frozen(slots=True)
class Frame:
    """``time`` is in nanoseconds since the start of the recording, never decreasing.

    ``channel`` numbers the channels of the connection from 1; 0 is the connection.
    """

    time: int
    channel: int
    kind: FrameKind
    data: bytes
