"""Invariant: any bytes are a batch of chunks, written down the same again, or InvalidInput."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import InvalidInput
from tele.recording.batch import CHUNKS_LIMIT, BatchChunk, pack_chunks, unpack_chunks

_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
SEEDS = [
    pack_chunks([BatchChunk(_ID, 0, b"first"), BatchChunk(_ID, 1, b"")]),
    pack_chunks([BatchChunk(_ID, number, b"x") for number in range(CHUNKS_LIMIT)]),
]


def check(data: bytes) -> None:
    """Hold the invariant for ``data``."""
    try:
        chunks = unpack_chunks(data)
    except InvalidInput:
        return
    assert len(chunks) <= CHUNKS_LIMIT
    assert pack_chunks(chunks) == data


def attempt(dice: Dice) -> None:
    """A good batch with damage."""
    check(dice.damaged(SEEDS[dice.randint(0, 1)], 3))


if __name__ == "__main__":
    main(attempt)
