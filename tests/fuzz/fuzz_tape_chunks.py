"""Invariant: any bytes are a chunk of a recording whose frames can be shown, or BadRecording; and
frames with numbers that are neither there nor stated as lost do not pass.
"""

from __future__ import annotations

import json
import struct

import zstandard

from attempts import Dice, main
from tele.errors import BadRecording
from tele.model.frame import Frame, FrameKind
from tele.tape.exports.json_lines import json_lines
from tele.tape.exports.text import text
from tele.tape.layout import (
    FRAME_HEAD,
    NO_CHUNK,
    Chunk,
    pack_chunk,
    pack_chunk_2,
    pack_frames,
    read_chunk,
)
from tele.tape.order import SequenceCheck

_GAP = json.dumps({"lost": {"output": 7}, "frames": [[4, 5]], "reason": "full"}).encode()
FRAMES = [
    Frame(0, 0, FrameKind.START, b"{}"),
    Frame(1, 1, FrameKind.OPEN, b'{"kind": "shell", "pty": {"columns": 80}}', 1),
    Frame(2, 1, FrameKind.OUTPUT, b"\x1b[1mhello\xff\r\n", 2),
    Frame(3, 1, FrameKind.EXIT, b'{"status": 0}', 3),
    Frame(4, 0, FrameKind.GAP, _GAP, 5),
    Frame(5, 0, FrameKind.END, b'{"reason": "done"}', 5),
]
_RAW, _FACTS = pack_frames(FRAMES)
_PLAIN = b"".join(
    FRAME_HEAD.pack(frame.time, frame.channel, frame.kind, len(frame.data)) + frame.data
    for frame in FRAMES
)
SEEDS = [
    pack_chunk(_PLAIN, 0, NO_CHUNK, last=True),
    pack_chunk_2(_RAW, _FACTS, 0, NO_CHUNK, last=True),
]
#: Where the packed frames begin in each, and where the head has their length.
HEADS = (45, 95)
_LENGTH = 41


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    try:
        chunk = read_chunk(data, 0)
        frames = list(chunk.frames())
        if chunk.facts is not None:
            _check_numbers(chunk)
    except BadRecording:
        return
    for line in json_lines(frames):
        json.loads(line)
    shown = "".join(text(frames))
    assert not any(character < " " and character not in "\t\n" for character in shown)


def _check_numbers(chunk: Chunk) -> None:
    """All numbers of a chunk that ends, and passes, are there once or stated."""
    order = SequenceCheck()
    frames = list(chunk.all_frames())
    numbers = []
    ended = False
    for frame in frames:
        if isinstance(frame, Frame):
            order.take(frame)
            ended = frame.kind is FrameKind.END
            if frame.kind not in (FrameKind.START, FrameKind.GAP, FrameKind.END):
                numbers.append(frame.sequence)
        else:
            order.number(frame)
            numbers.append(frame)
    assert numbers == sorted(set(numbers))
    if ended and not any(isinstance(f, Frame) and f.kind is FrameKind.GAP for f in frames):
        assert numbers == list(range(1, len(numbers) + 1))


def packed(number: int, raw: bytes) -> bytes:
    """A chunk with the head of seed ``number`` and other frames, whose length is right."""
    head = bytearray(SEEDS[number][: HEADS[number]])
    struct.pack_into(">I", head, _LENGTH, len(raw))
    return bytes(head) + zstandard.ZstdCompressor(level=1).compress(raw)


def attempt(dice: Dice) -> None:
    """A good chunk with damage: in its head, in what is packed, or in its frames."""
    number = dice.randint(0, 1)
    if dice.random() < 0.3:
        check(dice.damaged(SEEDS[number], 3))
    else:
        check(dice.damaged(packed(number, dice.damaged((_PLAIN, _RAW)[number], 3)), 0))


if __name__ == "__main__":
    main(attempt)
