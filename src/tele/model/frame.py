"""What can be on a recording? Frames: one thing that happened, at a time, on a channel."""

from __future__ import annotations

from enum import IntEnum

from attrs import frozen


class FrameKind(IntEnum):
    """Stable numbers of docs/protocols/tape; a reader skips those that it does not know.

    ``data`` of each kind: START, END, OPEN, EXIT, RESIZE, GAP and the events are
    canonical JSON objects; OUTPUT, ERROR and INPUT are raw bytes.
    """

    START = 1  # the recording begins: JSON of RecordingStart
    END = 2  # it ends: {"reason": ...}
    OPEN = 3  # a channel opens: {"kind": "shell"|"exec"|"subsystem"|"forward", ...}
    CLOSE = 4  # a channel closes: {}
    OUTPUT = 5  # what a program wrote to the terminal or its standard output
    ERROR = 6  # what it wrote to its standard error
    INPUT = 7  # what the person typed, only if asked for
    RESIZE = 8  # {"columns": n, "rows": n}
    EXIT = 9  # {"status": n} or {"signal": "TERM", "core": false}
    JOIN = 10  # {"user": ...}
    LEAVE = 11  # {"user": ...}
    SFTP = 12  # one operation on a file
    FORWARD = 13  # one forwarded connection
    COMMAND = 14  # session.command, from the kernel
    DISK = 15  # session.disk
    NETWORK = 16  # session.network
    GAP = 17  # {"lost": {"output": bytes, ...}}: what was dropped, counted


@frozen(slots=True)
class Frame:
    """``time`` is in nanoseconds since the start of the recording, never decreasing.

    ``channel`` numbers the channels of the connection from 1; 0 is the connection.
    """

    time: int
    channel: int
    kind: FrameKind
    data: bytes
