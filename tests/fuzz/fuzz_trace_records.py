"""Invariant: whatever a batch of a tracer holds, it is read to values, or ValueError."""

from __future__ import annotations

import struct

from attempts import Dice, main
from tele.tracer import records
from tele.tracer.hand_overs import hand_over
from tele.tracer.operations import name_of


def _made(kind: int, form: int, call: int, result: int, text: bytes) -> bytes:
    head = records.HEAD.pack(
        1, 2, 3, 4, 5, 6, 7, 8, 9, len(text), kind, 0, form, result, call, *[3] * 7, b"sh"
    )
    return head + text


_SOCKET = struct.pack("=HHHHHH16s16s", 2, 1, 6, 1, 2, 16, b"", b"") + b"\2\0\0\x50" + bytes(12)
SEEDS = [
    _made(records.EXECUTED, 0, 4, 0, b"p\0\0\0ls\0-l\0"),
    _made(records.EXITED, 0, 0, 0, b""),
    _made(records.CALLED, 1, 257, 3, bytes(24) + b"b\0a\0\0"),
    _made(records.CALLED, 1, 257, -2, b"x\0b\0a\0\0"),
    _made(records.CALLED, 2, 264, 0, b"a\0h\0\0/b\0\0"),
    _made(records.CALLED, 4, 42, -111, _SOCKET),
    _made(records.CALLED, 4, 42, 0, struct.pack("=HHHHHH", 1, 1, 0, 0, 0, 4) + bytes(36)),
    _made(records.CALLED, 6, 59, -2, b"x\0\0x\0-a\0"),
    _made(records.RING_SUBMITTED, 0, 16, 0, b""),
    _made(records.COUNTED, 0, 0, 0, struct.pack("=III", 1, 2, 3)),
    records.lost(1, 2, 3),
]


def check(data: bytes) -> None:
    """Hold the invariant for one batch."""
    try:
        for record in records.decode(data):
            assert records.kind_of(record) in ("", "command", "disk", "network", "syscalls")
            hand_over(record)
    except ValueError:
        return


def attempt(dice: Dice) -> None:
    """A batch of which records or lengths are damaged, and a number that may be of no call."""
    assert name_of(int.from_bytes(dice.damaged(b"\1\2\3", 2)[:4], "big"))
    parts = [dice.damaged(dice.choice(SEEDS), 6), dice.choice(SEEDS)]
    check(records.join(parts))
    check(dice.damaged(records.join(parts), 4))


if __name__ == "__main__":
    main(attempt)
