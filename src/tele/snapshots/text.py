"""Which lines did a terminal show? For the search in recordings.

The screen and what scrolled out are read from time to time; a line that was there before is left
out, so that a program that draws the same again and again adds little.

Invariants:

* A line has the time at which the output that it is of began: playing from there shows it appear.
* Memory is bounded: :data:`RECENT` lines are remembered, of :data:`LINE_LIMIT` characters each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from tele.snapshots.terminals import Terminal

#: Output, in bytes, and time, in nanoseconds, between two readings.
SAMPLE_BYTES: Final = 32 * 1024
SAMPLE_TIME: Final = 1_000_000_000
#: Shorter lines cannot be searched.
SHORTEST: Final = 3
LINE_LIMIT: Final = 1000
RECENT: Final = 2000


class Settling(Protocol):
    """What feeds the terminal."""

    @property
    def settled(self) -> bool:
        """Whether the terminal has everything, and no sequence is incomplete."""


class TextCollector:
    """Reads the lines of one terminal; ``take(time, line)`` gets those that are new."""

    def __init__(self, take: Callable[[int, str], None]) -> None:
        self._take = take
        self._recent: dict[str, None] = {}
        #: When the output began that was not read yet, and how much it is.
        self._since: int | None = None
        self._size = 0

    def before(self, time: int, size: int, terminal: Terminal, feeder: Settling) -> None:
        """Call this before ``size`` bytes of output of this time are applied."""
        if self._since is not None:
            due = time - self._since >= SAMPLE_TIME or self._size >= SAMPLE_BYTES
            if due and feeder.settled:
                self._read(terminal, last=False)
        if self._since is None:
            self._since = time
        self._size += size

    def end(self, terminal: Terminal) -> None:
        """Read what is left."""
        if self._since is not None:
            self._read(terminal, last=True)

    def _read(self, terminal: Terminal, *, last: bool) -> None:
        lines = terminal.take_lines()
        if not last and not terminal.alternate():
            # The line at the cursor may not be complete yet.
            while lines and not lines[-1].strip():
                lines.pop()
            del lines[-1:]
        since, self._since, self._size = self._since or 0, None, 0
        for line in lines:
            text = line.strip()[:LINE_LIMIT]
            if len(text) < SHORTEST:
                continue
            if text in self._recent:
                del self._recent[text]  # it becomes the newest
            else:
                self._take(since, text)
            self._recent[text] = None
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
