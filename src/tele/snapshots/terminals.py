"""Which terminal shows what a recorded program wrote? tele's own, or libghostty-vt if installed.

Invariant: a state is text that draws the screen on a blank terminal of its size, whichever made it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from tele.terminal.dump import dump
from tele.terminal.emulator import Emulator
from tele.terminal.line import Line
from tele.terminal.screen import Screen

#: A line, counted from the beginning of the session, and a column.
Place = tuple[int, int]
#: The largest screen, as in :mod:`tele.terminal.screen`.
COLUMNS_LIMIT: Final = 1000
ROWS_LIMIT: Final = 500


class Terminal(Protocol):
    """A terminal that is fed with what a program wrote."""

    @property
    def columns(self) -> int:
        """The width."""

    @property
    def rows(self) -> int:
        """The height."""

    def feed(self, data: bytes) -> None:
        """Apply bytes."""

    def resize(self, columns: int, rows: int) -> None:
        """Resize the window."""

    def settled(self) -> bool:
        """Whether no control sequence and no character is incomplete."""

    def alternate(self) -> bool:
        """Whether the alternate screen shows."""

    def state(self) -> bytes:
        """Return the text that draws the screen; only if it is settled."""

    def take_lines(self) -> list[str]:
        """Return what scrolled out since the last call, and the screen; only if it is settled."""

    def place(self) -> Place:
        """Return where the cursor is."""

    def text_from(self, place: Place) -> str:
        """Return the text from ``place`` to the cursor."""

    def close(self) -> None:
        """Release its memory."""


#: Makes a terminal of a size; with ``newline``, a line feed is a carriage return, too.
MakeTerminal = Callable[[int, int, bool], Terminal]


def bounded(columns: int, rows: int) -> tuple[int, int]:
    """Return a size within the limits; 0 is "not known"."""
    return max(1, min(columns or 80, COLUMNS_LIMIT)), max(1, min(rows or 24, ROWS_LIMIT))


class OwnTerminal:
    """tele's own terminal: about 5 MB/s, always there."""

    def __init__(self, columns: int, rows: int, newline: bool) -> None:
        self._screen = Screen(*bounded(columns, rows), newline=newline)
        self._emulator = Emulator(self._screen)
        #: Lines that were taken out of the scrollback.
        self._taken = 0

    @property
    def columns(self) -> int:
        """The width."""
        return self._screen.columns

    @property
    def rows(self) -> int:
        """The height."""
        return self._screen.rows

    def feed(self, data: bytes) -> None:
        """See :class:`Terminal`."""
        self._emulator.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        """See :class:`Terminal`."""
        self._screen.resize(*bounded(columns, rows))

    def settled(self) -> bool:
        """See :class:`Terminal`."""
        return self._emulator.settled

    def alternate(self) -> bool:
        """See :class:`Terminal`."""
        return self._screen.alternate

    def state(self) -> bytes:
        """See :class:`Terminal`."""
        return dump(self._screen)

    def take_lines(self) -> list[str]:
        """See :class:`Terminal`."""
        history = self._screen.history
        lines = [*(_text(each) for each in history), *(_text(each) for each in self._screen.lines)]
        self._taken += len(history)
        history.clear()
        return lines

    def place(self) -> Place:
        """See :class:`Terminal`."""
        screen = self._screen
        return self._taken + len(screen.history) + screen.row, screen.column

    def text_from(self, place: Place) -> str:
        """See :class:`Terminal`."""
        screen = self._screen
        lines = [*screen.history, *screen.lines]
        first, column = place[0] - self._taken, place[1]
        last, end = len(screen.history) + screen.row, screen.column
        if first < 0 or first > last:
            return ""
        found = []
        for number in range(first, last + 1):
            texts = lines[number].texts
            found.append("".join(texts[column if number == first else 0 :][: screen.columns]))
            if number == last:
                found[-1] = "".join(texts[column if number == first else 0 : end])
        return "".join(found)

    def close(self) -> None:
        """See :class:`Terminal`."""
        self._screen.history.clear()


def _text(line: Line) -> str:
    return "".join(line.texts).rstrip()
