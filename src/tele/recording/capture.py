"""What is kept of a stream that is recorded in part?

Its beginning (the head) and its end (the tail), how long it was, and the SHA-256 of all of it.

Invariant: memory is bounded by the tail, whatever passes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

from attrs import frozen

#: Small pieces are joined up to this size: each costs as much again by itself.
PIECE: Final = 4096


@frozen
class CaptureLimits:
    """How many bytes are kept of the beginning and of the end of each stream of a program that has
    no terminal.
    """

    head: int
    tail: int


@frozen
class Captured:
    """A stream that has ended: its length in bytes, its SHA-256 in hex, and its last bytes.

    ``head`` bytes were recorded as they passed, and between them and ``tail`` lie ``lost`` bytes.
    """

    count: int
    sha256: str
    head: int
    tail: bytes

    @property
    def lost(self) -> int:
        """Bytes that are not recorded."""
        return self.count - self.head - len(self.tail)


class Capture:
    """One stream, while it passes."""

    __slots__ = ("_hash", "_limits", "_pieces", "_size", "count")

    def __init__(self, limits: CaptureLimits) -> None:
        #: Bytes so far.
        self.count = 0
        self._limits: Final = limits
        self._hash = hashlib.sha256()
        #: What passed last, after the head: at least the tail, if so much passed.
        self._pieces: deque[bytearray] = deque()
        self._size = 0

    def take(self, *views: memoryview) -> list[memoryview]:
        """Take the next bytes; return those of them that are of the head."""
        update = self._hash.update
        head = []
        behind = sum(map(len, views))
        for view in views:
            update(view)
            size = len(view)
            behind -= size
            left = self._limits.head - self.count
            self.count += size
            if left >= size:
                head.append(view)
                continue
            if left > 0:
                head.append(view[:left])
                view = view[left:]
            if behind < self._limits.tail:
                self._keep(view)
            else:  # all of the tail comes after it
                self._pieces.clear()
                self._size = 0
        return head

    def _keep(self, piece: memoryview) -> None:
        pieces, tail = self._pieces, self._limits.tail
        if pieces and len(pieces[-1]) + len(piece) <= PIECE:
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
        self._size += len(piece)
        while pieces and self._size - len(pieces[0]) >= tail:
            self._size -= len(pieces.popleft())

    @property
    def is_beyond_head(self) -> bool:
        """Whether something has passed that was not recorded as it did."""
        return self.count > self._limits.head

    @property
    def sha256(self) -> str:
        """The SHA-256, in hex, of what has passed so far."""
        return self._hash.hexdigest()

    def end(self) -> Captured:
        """Return what the stream was."""
        last = b"".join(self._pieces)
        tail = last[max(0, len(last) - self._limits.tail) :]
        head = min(self.count, self._limits.head)
        return Captured(self.count, self._hash.hexdigest(), head, tail)
