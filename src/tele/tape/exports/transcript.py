"""What did a terminal show, line by line?

Each line of the main screen is given when it is finished, and again if it was rewritten later. What
stood on the screen for :data:`PAUSE` or longer is given in any case, of full-screen programs, too.

Invariants:

* Nothing that stood that long is left out, whatever overwrites, erases or scrolls it away.
* A line has printable characters only.
* Memory is bounded, however long a line is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from tele.terminal.emulator import Emulator
from tele.terminal.line import Line
from tele.terminal.screen import Screen
from tele.text import printable

#: Nanoseconds for which something has to stand to be given although it is not finished.
PAUSE: Final = 1_000_000_000
#: Bytes that are applied at once: what they scroll away is taken before the next ones. So few
#: scroll by ten screens at most.
_PIECE: Final = 64


@frozen
class Shown:
    """A text, and whether the line ends with it."""

    text: str
    ends: bool = True


class _Scrolled(deque[Line]):
    """Lines that have left the screen: taken by the transcript, not to be erased by the program."""

    def clear(self) -> None:
        """Keep them."""


class Transcript:
    """Takes the output of one terminal. Times are in nanoseconds."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen = Screen(columns, rows)
        self._screen.history = _Scrolled()
        self._emulator = Emulator(self._screen)
        #: Lines that were given, as they were then.
        self._given: dict[int, tuple[Line, str]] = {}
        #: The line of the cursor as it was when the terminal was quiet.
        self._quiet: tuple[Line, str] | None = None
        #: Rows of a full-screen program that were given.
        self._rows: dict[int, str] = {}
        self._time: int | None = None

    def resize(self, columns: int, rows: int) -> Iterator[Shown]:
        """Change the size."""
        self._screen.resize(columns, rows)
        yield from self._scrolled()

    def feed(self, time: int, data: bytes) -> Iterator[Shown]:
        """Yield what is to be given after ``data``, which was written at ``time``."""
        if self._time is not None and time - self._time >= PAUSE:
            yield from self._paused()
        self._time = time
        for line in data.splitlines(keepends=True) if b"\n" in data else [data]:
            for at in range(0, len(line), _PIECE):
                yield from self._apply(line[at : at + _PIECE])

    def end(self) -> Iterator[Shown]:
        """Yield the rest."""
        yield from self._paused()
        if not self._screen.alternate:
            yield from self._give(self._screen.lines[self._screen.row])

    def _apply(self, piece: bytes) -> Iterator[Shown]:
        screen = self._screen
        left, was_full = screen.lines[screen.row], screen.alternate
        self._emulator.feed(piece)
        yield from self._overwritten()
        yield from self._scrolled()
        if was_full or screen.alternate or not piece.endswith(b"\n"):
            return
        yield from self._finish(left)

    def _finish(self, left: Line) -> Iterator[Shown]:
        """Give a line that the cursor has left, with those before it that it continues."""
        lines = self._screen.lines
        at = next((n for n, line in enumerate(lines) if line is left), None)
        if at is None or id(left) in self._given:
            return  # it was given when it scrolled away, or is rewritten
        first = at
        while first and lines[first - 1].wrapped and id(lines[first - 1]) not in self._given:
            first -= 1
        for line in lines[first : at + 1]:
            yield from self._give(line, blank=True)

    def _scrolled(self) -> Iterator[Shown]:
        """Give the lines that have left the screen at its top."""
        history = self._screen.history
        while history:
            line = history.popleft()
            yield from self._give(line, blank=id(line) not in self._given)
            self._given.pop(id(line), None)

    def _give(self, line: Line, *, blank: bool = False) -> Iterator[Shown]:
        """Give a line, unless it was given as it is."""
        text = _text(line)
        if self._quiet is not None and self._quiet[0] is line:
            self._quiet = None
        known = self._given.get(id(line))
        if known is not None and known[1] == text:
            return
        if not text.strip() and not blank:
            return
        self._given[id(line)] = (line, text)
        if len(self._given) > 4 * self._screen.rows:
            self._forget()
        yield Shown(printable(text), not line.wrapped)

    def _overwritten(self) -> Iterator[Shown]:
        """Give the line that stood when the terminal was quiet, if it is not there any more."""
        if self._quiet is None:
            return
        line, stood = self._quiet
        if _text(line).startswith(stood) and (
            line in self._screen.history or any(each is line for each in self._screen.main)
        ):
            return
        self._quiet = None
        yield Shown(printable(stood.rstrip()))

    def _forget(self) -> None:
        """Forget lines that are on no screen any more."""
        there = {id(line) for line in self._screen.main}
        self._given = {key: value for key, value in self._given.items() if key in there}

    def _paused(self) -> Iterator[Shown]:
        """Give what stands on the screen, but for the line that is being written."""
        screen = self._screen
        if not screen.alternate:
            self._rows = {}
            for row, line in enumerate(screen.lines):
                if row != screen.row:
                    yield from self._give(line)
            current = screen.lines[screen.row]
            text = _text(current)
            known = self._given.get(id(current))
            self._quiet = (current, text) if text and (known is None or known[1] != text) else None
            return
        for row, line in enumerate(screen.lines):
            text = _text(line)
            if text.strip() and self._rows.get(row) != text:
                yield Shown(printable(text.rstrip()))
            self._rows[row] = text


def _text(line: Line) -> str:
    text = "".join(line.texts)
    return text if line.wrapped else text.rstrip()
