"""Which cells does a screen of libghostty-vt have?

The library's own text of a screen is not used: a style grows into cells that were never written,
and lines that are nothing but background are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from pyghostty import ffi, lib
from pyghostty.core import check, init_sized

from tele.terminal.line import Line

#: Attributes of a style and their numbers in SGR, as the library calls them.
_ATTRIBUTES: Final = (
    ("bold", 1), ("faint", 2), ("italic", 3), ("underline", 4), ("blink", 5), ("inverse", 7),
    ("invisible", 8), ("strikethrough", 9), ("overline", 53),
)  # fmt: skip
#: Characters that combine with the first one of a cell; more are not shown.
_COMBINING: Final = 16
#: Different cells that are remembered.
_KEPT: Final = 10_000


@frozen
class _Cell:
    """What is known of a cell by its number alone: a style number and a text.

    ``cluster``: more characters follow. ``background`` is the style of a cell that has just that.
    """

    style: int
    text: str
    cluster: bool = False
    background: str = ""


class Cells:
    """Reads the cells of one terminal, whose handle is ``terminal``.

    ``reference(column, row)`` returns the library's reference to a cell.
    """

    def __init__(self, terminal: Any, reference: Callable[[int, int], Any]) -> None:
        self._terminal = terminal
        self._reference = reference
        self._state = ffi.new("GhosttyRenderState*")
        check(lib.ghostty_render_state_new(ffi.NULL, self._state), "render state")
        self._rows = ffi.new("GhosttyRenderStateRowIterator*")
        check(lib.ghostty_render_state_row_iterator_new(ffi.NULL, self._rows), "rows")
        self._known: dict[int, _Cell] = {}

    def close(self) -> None:
        """Release its memory."""
        lib.ghostty_render_state_row_iterator_free(self._rows[0])
        lib.ghostty_render_state_free(self._state[0])

    def lines(self) -> list[Line]:
        """Return the lines of the screen that shows."""
        check(lib.ghostty_render_state_update(self._state[0], self._terminal), "cells")
        data = lib.GHOSTTY_RENDER_STATE_DATA_ROW_ITERATOR
        check(lib.ghostty_render_state_get(self._state[0], data, self._rows), "rows")
        view = ffi.new("GhosttyCellsView*")
        raw = lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS_RAW
        found: list[Line] = []
        while lib.ghostty_render_state_row_iterator_next(self._rows[0]):
            check(lib.ghostty_render_state_row_get(self._rows[0], raw, view), "a row")
            found.append(self._line(len(found), ffi.unpack(view.ptr, view.len)))
        return found

    def _line(self, row: int, cells: list[int]) -> Line:
        line = Line(len(cells))
        if not any(cells):
            return line
        # Numbers of styles are those of the page of the scrollback that the row is in.
        styles: dict[int, str] = {0: ""}
        for column, number in enumerate(cells):
            if not number:
                continue
            cell = self._cell(number)
            line.texts[column] = cell.text
            if cell.cluster:
                line.texts[column] += _combining(self._reference(column, row))
            if cell.background:
                line.styles[column] = cell.background
                continue
            style = styles.get(cell.style)
            if style is None:
                style = styles[cell.style] = _style(self._reference(column, row))
            line.styles[column] = style
        return line

    def _cell(self, number: int) -> _Cell:
        cell = self._known.get(number)
        if cell is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            cell = self._known[number] = _read_cell(number)
        return cell


def _read_cell(number: int) -> _Cell:
    style = _get(number, lib.GHOSTTY_CELL_DATA_STYLE_ID, "uint16_t")
    width = _get(number, lib.GHOSTTY_CELL_DATA_WIDE)
    if width == lib.GHOSTTY_CELL_WIDE_SPACER_TAIL:
        return _Cell(style, "")
    tag = _get(number, lib.GHOSTTY_CELL_DATA_CONTENT_TAG)
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_PALETTE:
        palette = _get(number, lib.GHOSTTY_CELL_DATA_COLOR_PALETTE, "GhosttyColorPaletteIndex")
        return _Cell(0, " ", background=_palette(palette, 40))
    if tag == lib.GHOSTTY_CELL_CONTENT_BG_COLOR_RGB:
        value = ffi.new("GhosttyColorRgb*")
        check(lib.ghostty_cell_get(number, lib.GHOSTTY_CELL_DATA_COLOR_RGB, value), "a colour")
        return _Cell(0, " ", background=_rgb(value[0], 40))
    code = _get(number, lib.GHOSTTY_CELL_DATA_CODEPOINT)
    cluster = tag == lib.GHOSTTY_CELL_CONTENT_CODEPOINT_GRAPHEME
    return _Cell(style if code else 0, chr(code) if code else " ", cluster)


def _get(cell: int, data: Any, kind: str = "uint32_t") -> int:
    value = ffi.new(kind + "*", 0)
    check(lib.ghostty_cell_get(cell, data, value), "a cell")
    return int(value[0])


def _combining(reference: Any) -> str:
    """Return the characters that follow the first one of a cell."""
    size = ffi.new("size_t*", 0)
    buffer = ffi.new("uint32_t[]", 1 + _COMBINING)
    result = lib.ghostty_grid_ref_graphemes(reference, buffer, 1 + _COMBINING, size)
    if result == lib.GHOSTTY_OUT_OF_SPACE:
        return ""
    check(result, "a cluster")
    return "".join(chr(buffer[n]) for n in range(1, size[0]))


def _style(reference: Any) -> str:
    """Return the parameters of SGR that set the style of a cell after a reset."""
    style = init_sized("GhosttyStyle")
    check(lib.ghostty_grid_ref_style(reference, style), "a style")
    found = []
    for name, number in _ATTRIBUTES:
        value = int(getattr(style, name))
        if value:
            found.append(f"{number}" if value == 1 else f"{number}:{value}")
    found += [_colour(style.fg_color, 30), _colour(style.bg_color, 40)]
    return ";".join(filter(None, found))


def _colour(colour: Any, ground: int) -> str:
    if colour.tag == lib.GHOSTTY_STYLE_COLOR_PALETTE:
        return _palette(colour.value.palette, ground)
    if colour.tag == lib.GHOSTTY_STYLE_COLOR_RGB:
        return _rgb(colour.value.rgb, ground)
    return ""


def _palette(number: int, ground: int) -> str:
    """Return a colour as most programs write it: some terminals brighten the first eight."""
    if number < 8:
        return str(ground + number)
    return str(ground + 60 + number - 8) if number < 16 else f"{ground + 8};5;{number}"


def _rgb(colour: Any, ground: int) -> str:
    return f"{ground + 8};2;{colour.r};{colour.g};{colour.b}"
