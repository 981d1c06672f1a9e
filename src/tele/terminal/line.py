"""One line of a terminal's screen: how is it changed, and how is it drawn on another terminal?

Invariants:

* A wide character takes two cells, of which neither is ever there without the other.
* What is drawn has the texts of cells and SGR sequences only.
"""

from __future__ import annotations

import unicodedata


class Line:
    """One line: a text and a style for each cell; a wide character has "" in the cell after it.

    ``wrapped``: the text goes on in the next line, because there was no more room.
    """

    __slots__ = ("styles", "texts", "wrapped")

    def __init__(self, columns: int, style: str = "") -> None:
        self.texts = [" "] * columns
        self.styles = [style] * columns
        self.wrapped = False

    def __deepcopy__(self, memo: dict[int, object]) -> Line:
        made = Line(0)
        made.texts, made.styles = self.texts[:], self.styles[:]
        made.wrapped = self.wrapped
        return made

    def resize(self, columns: int) -> None:
        """Truncate the line, or add blank cells."""
        more = columns - len(self.texts)
        if more > 0:
            self.texts += [" "] * more
            self.styles += [""] * more
        else:
            self.separate(columns)
            del self.texts[columns:], self.styles[columns:]

    def separate(self, column: int) -> None:
        """Blank a wide character that spans a cell's left edge."""
        if 0 < column < len(self.texts) and self.texts[column] == "":
            self.texts[column - 1] = self.texts[column] = " "

    def erase(self, start: int, end: int, style: str) -> None:
        """Blank the cells from ``start`` up to ``end``."""
        self.separate(start)
        self.separate(end)
        count = len(self.texts[start:end])
        self.wrapped = self.wrapped and end < len(self.texts)
        self.texts[start:end] = [" "] * count
        self.styles[start:end] = [style] * count


def character_width(character: str) -> int:
    """Return how many cells a character takes; 0 for a mark on the one before it."""
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def draw(line: Line, start: int, end: int, *, aligned: bool = True) -> str:
    """Return the text of the cells from ``start`` up to ``end``, with SGR sequences.

    It begins and ends in the default style; blank cells at the end are left out. ``aligned``: the
    cursor is positioned after characters whose width differs between terminals.
    """
    while end > start and line.texts[end - 1] == " " and not line.styles[end - 1]:
        end -= 1
    out: list[str] = []
    style = ""
    for column in range(start, end):
        text = line.texts[column]
        if text == "":
            if column > start:
                continue
            text = " "  # the right half of a wide character
        wide = line.texts[column + 1 : column + 2] == [""]
        if wide and column + 1 == end:
            text = " "  # the left half of one
        if line.styles[column] != style:
            style = line.styles[column]
            out.append(f"\x1b[0;{style}m" if style else "\x1b[0m")
        out.append(text)
        if aligned and not text.isascii() and column + 1 < end:
            out.append(f"\x1b[{column - start + (3 if wide else 2)}G")
    if style:
        out.append("\x1b[0m")
    return "".join(out)
