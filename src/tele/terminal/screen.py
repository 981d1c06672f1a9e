"""The screen of a terminal: characters in cells, and the control functions that change them.

It behaves as programs expect of ``xterm``, ``vt100``, ``screen`` and ``tmux``. It has no keyboard
and sends no replies.

Invariants:

* A cell holds printable characters only, never control characters.
* Memory is bounded, whatever sizes and counts are requested.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tele.terminal.line import Line, character_width
from tele.terminal.style import Style

#: The largest screen that is accepted: recordings are untrusted.
COLUMNS_LIMIT: Final = 1000
ROWS_LIMIT: Final = 500
#: Lines of scrollback of the main screen.
HISTORY_LINES: Final = 2000
#: Marks (accents, variation selectors) on one character.
_MARKS_LIMIT: Final = 4
_TAB: Final = 8
#: The characters ``_`` to ``~`` of the set "DEC special graphics".
_GRAPHICS: Final = dict(
    zip(map(chr, range(0x5F, 0x7F)), " ◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·", strict=True)
)


class Saved:
    """The state that DECSC saves."""

    def __init__(self) -> None:
        self.row = self.column = 0
        self.style = Style()
        self.origin = False
        self.graphics: list[bool] = [False, False]
        self.shift = 0


class Hidden(NamedTuple):
    """What of a screen does not show: see :meth:`Screen.hidden`."""

    other: list[Line]
    other_row: int
    saved: Saved
    saved_other: Saved
    pending: bool
    usual_tabs: bool


class Screen:
    """A main and an alternate screen, of which one shows. Rows and columns count from 0."""

    def __init__(self, columns: int, rows: int, *, newline: bool = False) -> None:
        self.columns, self.rows = _bounded(columns, rows)
        self.newline = newline
        self.history: deque[Line] = deque(maxlen=HISTORY_LINES)
        self.reset()

    # -- as a whole ---------------------------------------------------------------------
    def reset(self) -> None:
        """RIS: reset to the initial state. The scrollback stays."""
        self.lines = self._blank()
        self._other = self._blank()
        self.alternate = False
        self._saved, self._saved_other = Saved(), Saved()
        self.tabs = set(range(_TAB, COLUMNS_LIMIT, _TAB))
        self._last = " "
        #: ``_other_row`` is the row of the cursor in the hidden screen.
        self.row = self.column = self._other_row = 0
        self.soft_reset()

    def soft_reset(self) -> None:
        """DECSTR: reset modes, margins and style; the text stays."""
        self.wraps = self.visible = True
        self.insert = self.origin = False
        self.graphics = [False, False]
        self.shift = 0
        self.top, self.bottom = 0, self.rows - 1
        self._pending = False
        self.style = Style()
        self._sgr = self._erased = ""

    def copy(self) -> Screen:
        """Return a copy."""
        return copy.deepcopy(self)

    def resize(self, columns: int, rows: int) -> None:
        """Resize. Lines are truncated, not wrapped again: programs redraw."""
        columns, rows = _bounded(columns, rows)
        self._shrink(self.lines, rows, self.row, keeps=not self.alternate)
        self.row = min(self.row, rows - 1)
        self._other_row = min(self._other_row, self.rows - 1)
        self._shrink(self._other, rows, self._other_row, keeps=self.alternate)
        for lines in (self.lines, self._other):
            lines += [Line(columns) for _ in range(rows - len(lines))]
            for line in lines:
                line.resize(columns)
        self.columns, self.rows = columns, rows
        self.column = min(self.column, columns - 1)
        self.top, self.bottom = 0, rows - 1
        self._pending = False

    def _shrink(self, lines: list[Line], rows: int, row: int, *, keeps: bool) -> None:
        """Keep at most ``rows`` lines: drop those below the cursor first, then those at the top."""
        over = max(0, len(lines) - rows)
        below = min(over, len(lines) - 1 - row)
        if below > 0:
            del lines[-below:]
        gone = lines[: over - max(below, 0)]
        del lines[: len(gone)]
        if keeps:
            self.history.extend(gone)

    def _blank(self) -> list[Line]:
        return [Line(self.columns) for _ in range(self.rows)]

    # -- text ---------------------------------------------------------------------------
    def print(self, text: str) -> None:
        """Print characters at the cursor."""
        if self.graphics[self.shift]:
            text = "".join(_GRAPHICS.get(character, character) for character in text)
        if text.isascii() and not self.insert:
            self._print_cells(text)
        else:
            for character in text:
                self._print_one(character)
        self._last = text[-1]

    def _print_cells(self, text: str, width: int = 1) -> None:
        """Print characters of ``width`` cells each, row by row."""
        while text:
            if self._pending or (width > 1 and self.columns - self.column < width and self.wraps):
                self._wrap()
            left = self.columns - self.column
            cells: Sequence[str] = text[:left]
            if width > 1:
                # The screen may be too narrow for a wide character.
                left, narrow = left // width or 1, left < width
                cells = " " if narrow else [cell for each in text[:left] for cell in (each, "")]
            text = text[left:]
            line, start, end = self.lines[self.row], self.column, self.column + len(cells)
            if self.insert:
                self.insert_blanks(len(cells))
            line.separate(start)
            line.separate(end)
            line.texts[start:end] = cells
            line.styles[start:end] = [self._sgr] * len(cells)
            self._advance(end)
            if text and not self.wraps:
                text = text[-1]  # each overwrites the one before it

    def _print_one(self, character: str) -> None:
        width = character_width(character)
        if width == 0:
            self._mark(character)
            return
        if self._pending or (width > self.columns - self.column and self.wraps):
            self._wrap()
        if width > self.columns - self.column:
            character, width = " ", 1  # the screen is too narrow for a wide character
        line, start, end = self.lines[self.row], self.column, self.column + width
        if self.insert:
            self.insert_blanks(width)
        line.separate(start)
        line.separate(end)
        line.texts[start:end] = [character, ""][:width]
        line.styles[start:end] = [self._sgr] * width
        self._advance(end)

    def _advance(self, end: int) -> None:
        self._pending = end == self.columns and self.wraps
        self.column = min(end, self.columns - 1)

    def _mark(self, character: str) -> None:
        """Add a mark to the character before the cursor."""
        line = self.lines[self.row]
        at = self.column if self._pending or self.column == 0 else self.column - 1
        if line.texts[at] == "" and at:
            at -= 1
        if len(line.texts[at]) <= _MARKS_LIMIT:
            line.texts[at] += character

    def _wrap(self) -> None:
        self.lines[self.row].wrapped = True
        self.column, self._pending = 0, False
        self._down()

    def repeat(self, count: int) -> None:
        """REP: print the last character again."""
        # Eight bytes print thousands of characters: one by one that takes hours for a megabyte.
        count = min(count, self.columns * self.rows)
        if width := character_width(self._last):
            self._print_cells(self._last * count, width)
        for _ in range(0 if width else min(count, _MARKS_LIMIT + 1)):
            self._mark(self._last)

    def _down(self) -> None:
        if self.row == self.bottom:
            self.scroll_up(1)
        elif self.row < self.rows - 1:
            self.row += 1

    def line_feed(self, *, returns: bool = False) -> None:
        """LF, IND; with ``returns`` NEL."""
        self._pending = False
        if returns or self.newline:
            self.column = 0
        self._down()

    def reverse_line_feed(self) -> None:
        """RI."""
        self._pending = False
        if self.row == self.top:
            self.scroll_down(1)
        elif self.row > 0:
            self.row -= 1

    # -- the cursor ---------------------------------------------------------------------
    def move(self, rows: int = 0, columns: int = 0) -> None:
        """CUU, CUD, CUF, CUB, within the margins."""
        high = self.top if self.row >= self.top else 0
        low = self.bottom if self.row <= self.bottom else self.rows - 1
        self.row = max(high, min(low, self.row + rows))
        self.to_column(self.column + columns)

    def to_column(self, column: int) -> None:
        """CHA, HPA, CR."""
        self._pending = False
        self.column = max(0, min(column, self.columns - 1))

    def to_row(self, row: int) -> None:
        """VPA; relative to the margin in origin mode."""
        self._pending = False
        first, last = (self.top, self.bottom) if self.origin else (0, self.rows - 1)
        self.row = max(first, min(row + first, last))

    def to(self, row: int, column: int) -> None:
        """CUP."""
        self.to_row(row)
        self.to_column(column)

    def tab(self, count: int) -> None:
        """HT, CHT; CBT if ``count`` is negative."""
        for _ in range(min(abs(count), self.columns)):
            if count > 0:
                stops = [stop for stop in self.tabs if stop > self.column]
                self.column = min(min(stops, default=COLUMNS_LIMIT), self.columns - 1)
            else:
                self.column = max((stop for stop in self.tabs if stop < self.column), default=0)
        self._pending = False

    def save_cursor(self) -> None:
        """DECSC."""
        saved = self._saved
        saved.row, saved.column, saved.style, saved.origin = (
            self.row, self.column, self.style, self.origin
        )  # fmt: skip
        saved.graphics, saved.shift = self.graphics[:], self.shift

    def restore_cursor(self) -> None:
        """DECRC."""
        saved = self._saved
        self.row, self.column = min(saved.row, self.rows - 1), min(saved.column, self.columns - 1)
        self.origin, self.graphics, self.shift = saved.origin, saved.graphics[:], saved.shift
        self._pending = False
        self.set_style(saved.style)

    def margins(self, top: int, bottom: int) -> None:
        """DECSTBM."""
        bottom = min(bottom, self.rows - 1)
        if top < bottom:
            self.top, self.bottom = top, bottom
            self.to(0, 0)

    def switch(self, alternate: bool, *, clear: bool = False) -> None:
        """Show the alternate screen, or the main one again."""
        if alternate != self.alternate:
            self.alternate = alternate
            self.lines, self._other = self._other, self.lines
            self._saved, self._saved_other = self._saved_other, self._saved
            self._other_row = self.row
        if clear and alternate:
            self.erase_lines(0, self.rows)

    # -- cells --------------------------------------------------------------------------
    def set_style(self, style: Style) -> None:
        """Set the style of text that is printed from now on."""
        self.style = style
        self._sgr, self._erased = style.sgr, style.background

    def erase_lines(self, start: int, end: int) -> None:
        """Blank lines."""
        for line in self.lines[start:end]:
            line.erase(0, self.columns, self._erased)

    def erase_in_line(self, how: int) -> None:
        """EL: 0 to the end, 1 from the beginning, 2 all of the line."""
        start = self.column if how == 0 else 0
        end = self.column + 1 if how == 1 else self.columns
        self.lines[self.row].erase(start, end, self._erased)
        self._pending = False

    def erase_in_display(self, how: int) -> None:
        """ED: 0 to the end, 1 from the beginning, 2 all of the screen, 3 the scrollback."""
        if how == 3:
            self.history.clear()
            return
        if how in (0, 1):
            self.erase_in_line(how)
        self.erase_lines(self.row + 1 if how == 0 else 0, self.row if how == 1 else self.rows)

    def erase_characters(self, count: int) -> None:
        """ECH."""
        end = min(self.column + count, self.columns)
        self.lines[self.row].erase(self.column, end, self._erased)
        self._pending = False

    def insert_blanks(self, count: int) -> None:
        """ICH."""
        line, count = self.lines[self.row], min(count, self.columns - self.column)
        line.separate(self.column)
        line.separate(self.columns - count)
        line.texts[self.column : self.column] = [" "] * count
        line.styles[self.column : self.column] = [self._erased] * count
        del line.texts[self.columns :], line.styles[self.columns :]
        self._pending = False

    def delete_characters(self, count: int) -> None:
        """DCH."""
        line, count = self.lines[self.row], min(count, self.columns - self.column)
        line.separate(self.column)
        line.separate(self.column + count)
        del line.texts[self.column : self.column + count]
        del line.styles[self.column : self.column + count]
        line.texts += [" "] * count
        line.styles += [self._erased] * count
        self._pending = False

    def insert_lines(self, count: int) -> None:
        """IL."""
        if self.top <= self.row <= self.bottom:
            self._shift_lines(self.row, -count)
            self.to_column(0)

    def delete_lines(self, count: int) -> None:
        """DL."""
        if self.top <= self.row <= self.bottom:
            self._shift_lines(self.row, count)
            self.to_column(0)

    def scroll_up(self, count: int) -> None:
        """SU, and what a line feed on the last line does."""
        if self.top == 0 and not self.alternate:
            self.history.extend(self.lines[: min(count, self.bottom + 1)])
        self._shift_lines(self.top, count)

    def scroll_down(self, count: int) -> None:
        """SD."""
        self._shift_lines(self.top, -count)

    def _shift_lines(self, top: int, count: int) -> None:
        """Move lines between ``top`` and the lower margin up, or down if ``count`` is negative."""
        number = min(abs(count), self.bottom + 1 - top)
        blank = [Line(self.columns, self._erased) for _ in range(number)]
        if count > 0:
            self.lines[top : self.bottom + 1] = self.lines[top + number : self.bottom + 1] + blank
        else:
            saved = self.lines[top : self.bottom + 1 - number]
            self.lines[top : self.bottom + 1] = blank + saved

    def align(self) -> None:
        """DECALN: fill the screen with E."""
        self.top, self.bottom = 0, self.rows - 1
        self.to(0, 0)
        for line in self.lines:
            line.texts, line.styles = ["E"] * self.columns, [""] * self.columns

    # -- output -------------------------------------------------------------------------
    def hidden(self) -> Hidden:
        """Return the screen that does not show and the row of its cursor, what DECSC saved for this
        one and for the other, whether the next character wraps, and if the tab stops are as usual.
        """
        usual = self.tabs == set(range(_TAB, COLUMNS_LIMIT, _TAB))
        return Hidden(
            self._other, self._other_row, self._saved, self._saved_other, self._pending, usual
        )

    @property
    def main(self) -> list[Line]:
        """The lines of the main screen, whether it shows or not."""
        return self._other if self.alternate else self.lines

    def main_lines(self) -> list[Line]:
        """Return the scrollback and the main screen, up to the last line with text."""
        lines = [*self.history, *self.main]
        while lines and not "".join(lines[-1].texts).strip():
            lines.pop()
        return lines


def _bounded(columns: int, rows: int) -> tuple[int, int]:
    """Return a size within the limits; 0 is "not known" (RFC 4254, 6.2)."""
    return max(1, min(columns or 80, COLUMNS_LIMIT)), max(1, min(rows or 24, ROWS_LIMIT))
