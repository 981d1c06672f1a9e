"""How is a log written whose reader has stopped?

Standard error may be a pipe that is not read, or a terminal that was stopped with Ctrl-S. A
write to it would block the whole process.

Invariants:

* Writing never blocks: what cannot be written now is written before the next line, up to
  :data:`BACKLOG_LIMIT` bytes; lines beyond that are dropped and counted.
* Lines stay whole and in order, also those of several threads.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import Final, TextIO

#: Bytes of lines that wait for the reader.
BACKLOG_LIMIT: Final = 1 << 20
#: A pipe that is ready takes so much without blocking (pipe(7), PIPE_BUF).
PIECE: Final = 4096


class LogStream:
    """Writes to ``below`` without blocking, if that has a descriptor."""

    def __init__(self, below: TextIO) -> None:
        self._below = below
        try:
            self._descriptor: int | None = below.fileno()
        except (OSError, ValueError, AttributeError):
            self._descriptor = None
        self._encoding = getattr(below, "encoding", None) or "utf-8"
        self._writing = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._size = 0
        #: Lines that were dropped since the last call of :meth:`take_lost`.
        self._lost = 0

    def take_lost(self) -> int:
        """Return how many lines were lost, once everything before them is written."""
        if self._lines:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def write(self, text: str) -> None:
        """Write ``text``, which ends a line. Raises OSError, or ValueError when it is closed."""
        if self._descriptor is None:
            self._below.write(text)
            self._below.flush()
            return
        data = text.encode(self._encoding, "backslashreplace")
        with self._writing:
            if self._size + len(data) > BACKLOG_LIMIT:
                self._lost += 1
            else:
                self._lines.append(data)
                self._size += len(data)
            self._send(self._descriptor)

    def _send(self, descriptor: int) -> None:
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        while self._lines:
            ((_, events),) = ready.poll(0) or ((descriptor, 0),)
            if not events:
                return
            line = self._lines.popleft()
            try:
                sent = os.write(descriptor, line[:PIECE])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._size -= len(line)  # the reader is gone: the line is, too
                raise
            self._size -= sent
            if sent < len(line):
                self._lines.appendleft(line[sent:])
                if not sent:
                    return
