"""How are bytes queued that cannot be sent or written yet?

Invariants:

* Bytes leave in the order in which they came, standard error among standard output.
* A million pieces of one byte cost about as much memory as one piece of a million bytes: a limit
  of bytes is a limit of memory.
* More may be appended while the front is being sent: a connection that runs in a channel of
  another one does so, when the other one needs the shared buffer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Pieces are joined up to this size.
PIECE: Final = 32768


class Backlog:
    """A queue of bytes. ``code`` is None for data, else the type of extended data."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[tuple[bytearray, int | None]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, view: memoryview | bytes, code: int | None = None) -> None:
        """Copy ``view`` to the end."""
        size = len(view)
        if not size:
            return
        self._size += size
        if self._pieces:
            last, last_code = self._pieces[-1]
            if last_code == code and len(last) + size <= PIECE:
                try:
                    last += view
                except BufferError:
                    pass  # it is being sent at this moment: see below
                else:
                    return
        self._pieces.append((bytearray(view), code))

    def first(self, limit: int) -> tuple[memoryview, int | None]:
        """Return up to ``limit`` bytes of the front, and their code. Release the view."""
        piece, code = self._pieces[0]
        return memoryview(piece)[:limit], code

    def front(self, count: int) -> list[memoryview]:
        """Return up to ``count`` pieces of the front. Release the views."""
        return [memoryview(self._pieces[i][0]) for i in range(min(count, len(self._pieces)))]

    def drop(self, size: int) -> None:
        """Forget ``size`` bytes of the front."""
        self._size -= size
        while size:
            piece, _ = self._pieces[0]
            if size < len(piece):
                del piece[:size]
                return
            size -= len(piece)
            self._pieces.popleft()

    def clear(self) -> int:
        """Forget everything; return how much it was."""
        size, self._size = self._size, 0
        self._pieces.clear()
        return size
