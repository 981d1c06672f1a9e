"""Which text draws a screen as it is now on a blank terminal of the same size?

Invariants:

* Applied to a new :class:`~tele.terminal.screen.Screen` of that size, the text gives the same
  cells, cursor, style, margins, modes, tab stops and saved cursors, on both screens.
* It is of what xterm understands, and sets no modes of a keyboard or a mouse.
* The scrollback is not in it, nor is ``newline`` (LNM), which is set when a screen is made.
"""

from __future__ import annotations

from collections.abc import Iterator

from tele.terminal.line import Line
from tele.terminal.screen import Saved, Screen

#: The state between two parts: default style, character sets, no origin mode.
_PLAIN = "\x1b[0m\x1b(B\x1b)B\x0f\x1b[?6l"


def dump(screen: Screen) -> bytes:
    """Return the text."""
    hidden = screen.hidden()
    out: list[str] = []
    if not hidden.usual_tabs:
        out.append("\x1b[3g")
        out += [f"\x1b[{stop + 1}G\x1bH" for stop in sorted(screen.tabs) if stop < screen.columns]
    main, alternate = screen.lines, hidden.other
    if screen.alternate:
        main, alternate = alternate, main
    out += draw(main)
    if screen.alternate:
        out += _saved(hidden.saved_other)
        out.append(f"\x1b[{hidden.other_row + 1}H\x1b[?47h")
        out += draw(alternate)
    elif not _is_blank(alternate) or not _is_initial(hidden.saved_other):
        out.append("\x1b[?47h")
        out += draw(alternate)
        out += _saved(hidden.saved_other)
        out.append(f"\x1b[{hidden.other_row + 1}H\x1b[?47l")
    out += _saved(hidden.saved)
    if (screen.top, screen.bottom) != (0, screen.rows - 1):
        out.append(f"\x1b[{screen.top + 1};{screen.bottom + 1}r")
    out += _cursor(screen, hidden.pending)
    out.append(f"\x1b[0;{screen.style.sgr}m")
    out += _character_sets(screen.graphics, screen.shift)
    out += _modes(screen)
    return "".join(out).encode("utf-8", "replace")


def _is_blank(lines: list[Line]) -> bool:
    return not any("".join(line.texts).strip() or any(line.styles) for line in lines)


def draw(lines: list[Line]) -> Iterator[str]:
    """Draw the cells of each line that is not blank."""
    for row, line in enumerate(lines):
        end = len(line.texts)
        while end and line.texts[end - 1] == " " and not line.styles[end - 1]:
            end -= 1
        if end:
            yield f"\x1b[{row + 1}H"
            yield _cells(line, 0, end)


def _cells(line: Line, start: int, end: int) -> str:
    """Return the text of these cells, which ends in the default style."""
    out: list[str] = []
    style = ""
    for text, its in zip(line.texts[start:end], line.styles[start:end], strict=True):
        if its != style:
            style = its
            out.append(f"\x1b[0;{style}m" if style else "\x1b[0m")
        out.append(text)
    if style:
        out.append("\x1b[0m")
    return "".join(out)


def _is_initial(saved: Saved) -> bool:
    return vars(saved) == vars(Saved())


def _saved(saved: Saved) -> Iterator[str]:
    """Save the cursor as it was saved; the margins are those of the whole screen."""
    if _is_initial(saved):
        return
    if saved.origin:
        yield "\x1b[?6h"
    yield f"\x1b[{saved.row + 1};{saved.column + 1}H\x1b[0;{saved.style.sgr}m"
    yield from _character_sets(saved.graphics, saved.shift)
    yield f"\x1b7{_PLAIN}"


def _cursor(screen: Screen, pending: bool) -> Iterator[str]:
    """Put the cursor. If the next character wraps, the last one of the line is printed again."""
    row, column = screen.row, screen.column
    if screen.origin:
        yield "\x1b[?6h"
        row -= screen.top
    line = screen.lines[screen.row]
    if pending and column and line.texts[column] == "":
        column -= 1
    yield f"\x1b[{row + 1};{column + 1}H"
    if pending:
        yield _cells(line, column, screen.columns)


def _character_sets(graphics: list[bool], shift: int) -> Iterator[str]:
    if graphics[0]:
        yield "\x1b(0"
    if graphics[1]:
        yield "\x1b)0"
    if shift:
        yield "\x0e"


def _modes(screen: Screen) -> Iterator[str]:
    if not screen.wraps:
        yield "\x1b[?7l"
    if screen.insert:
        yield "\x1b[4h"
    if not screen.visible:
        yield "\x1b[?25l"
