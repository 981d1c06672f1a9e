"""How is a recorded screen drawn on a terminal of another size, with a status line?

Invariants:

* The screen is shown as it is, or the part of it around the cursor; nothing is wrapped or scaled.
* The status is on the last line, which the screen does not get. A message that needs more lines
  covers the screen's last ones while it is shown.
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from tele.terminal.line import draw
from tele.terminal.screen import Screen
from tele.text import printable

if TYPE_CHECKING:
    from tele.cli.display import Display


def clock_text(seconds: float) -> str:
    """Return a time as ``1:02:03``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class View:
    """Draws on ``display``, only what has changed."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._drawn: list[str] = []
        self._left = self._top = 0

    def forget(self) -> None:
        """Draw everything the next time: the terminal may show something else."""
        self._drawn = []

    def draw(self, screen: Screen, status: str, message: str) -> None:
        """Draw ``screen``, and ``status`` and ``message`` on the last line, if there are any."""
        columns, rows = self._display.size
        lines = rows - 1 if status and rows > 1 else rows
        self._left = _window(self._left, columns, screen.columns, screen.column)
        self._top = _window(self._top, lines, screen.rows, screen.row)
        end = min(self._left + columns, screen.columns)
        part = screen.lines[self._top : self._top + lines]
        shown = [draw(line, self._left, end) for line in part]
        shown += [""] * (rows - len(shown))
        if status or message:
            if status and (screen.columns > columns or screen.rows > lines):
                status += f"  part of {screen.columns}x{screen.rows}"
            below = _last_lines(status, message, columns)[:rows]
            shown[-len(below) :] = below
        out = ["\x1b[?25l"]
        if len(self._drawn) != rows:
            out.append("\x1b[0m\x1b[2J")
            self._drawn = [""] * rows
        for row, (old, new) in enumerate(zip(self._drawn, shown, strict=True)):
            if old != new:
                out.append(f"\x1b[{row + 1};1H\x1b[2K{new}")
        row, column = screen.row - self._top, screen.column - self._left
        if 0 <= row < lines and 0 <= column < columns and screen.visible:
            out.append(f"\x1b[{row + 1};{column + 1}H\x1b[?25h")
        self._drawn = shown
        self._display.write("".join(out).encode("utf-8", "replace"))


def _last_lines(status: str, message: str, columns: int) -> list[str]:
    """Return both in one line; where they do not fit, the message alone, in as many as it needs."""
    text = printable("  ".join(filter(None, (status, message))))
    width = max(columns - 2, 1)
    lines = [text[:width]]
    if message and len(text) > width:
        lines = wrap(printable(message), width) or [""]
    if len(lines) > 1:
        lines = [line.ljust(width) for line in lines]
    return [f"\x1b[7m {line} \x1b[0m" for line in lines]


def _window(start: int, length: int, total: int, cursor: int) -> int:
    """Return the start of a part of ``length`` with ``cursor``, moved as little as possible."""
    if total <= length:
        return 0
    start = max(min(start, cursor), cursor - length + 1)
    return max(0, min(start, total - length))
