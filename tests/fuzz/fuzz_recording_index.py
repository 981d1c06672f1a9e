"""Invariant: any bytes are an index whose keyframes can be read, or BadRecording."""

from __future__ import annotations

import struct

import zstandard

from attempts import Dice, main
from tele.errors import BadRecording
from tele.tape.index import (
    HEAD_SIZE,
    STATE_LIMIT,
    Channel,
    ChunkPlace,
    Index,
    Keyframe,
    Mark,
    MarkKind,
    Resize,
    pack_index,
    pack_state,
    read_index,
    read_state,
    tables_end,
)

_STATE = pack_state(b"\x1b[5;5Hhello")
_INDEX = Index(
    whole=True,
    length=9,
    raw=100,
    output=50,
    digest=bytes(32),
    chunks=(ChunkPlace(0, 0, 60, 0, 5, 1, 4, 0), ChunkPlace(1, 60, 40, 5, 9, 5, 6, 20)),
    channels=(Channel(1, 0, True, False, 80, 24),),
    keyframes=(Keyframe(4, 1, 0, 20, 80, 24, False, False, 9, 0, len(_STATE), 11),),
    resizes=(Resize(6, 1, 100, 30),),
    marks=(Mark(2, 1, MarkKind.EXEC, "ls"),),
)
SEED = pack_index(_INDEX, [_STATE])
_END = tables_end(SEED[:HEAD_SIZE])
_TABLES = zstandard.ZstdDecompressor().decompress(SEED[HEAD_SIZE:_END])


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    try:
        index = read_index(data)
        for keyframe in index.keyframes:
            at = index.states + keyframe.offset
            state = read_state(keyframe, data[at : at + keyframe.packed])
            assert len(state) == keyframe.size <= STATE_LIMIT
    except BadRecording:
        return
    assert tables_end(data[:HEAD_SIZE]) == index.states
    assert all(index.keyframe(each.channel, each.time) for each in index.keyframes)


def packed(tables: bytes) -> bytes:
    """An index with these tables, whose lengths are right."""
    head = bytearray(SEED[:HEAD_SIZE])
    made = zstandard.ZstdCompressor(level=1).compress(tables)
    struct.pack_into(">II", head, 32, len(tables), len(made))
    return bytes(head) + made + _STATE


def attempt(dice: Dice) -> None:
    """A good index with damage: in its bytes, or in its tables."""
    if dice.random() < 0.4:
        check(dice.damaged(SEED, 3))
    else:
        check(packed(dice.damaged(_TABLES, 3)))


if __name__ == "__main__":
    main(attempt)
