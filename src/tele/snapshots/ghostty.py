"""How is libghostty-vt used as a terminal? By the optional package ``pyghostty``.

It is 20 to 100 times as fast as tele's own terminal. It is a C library that is fed with hostile
bytes, so only :mod:`tele.snapshots.program` imports this, in a process of its own.

Invariants:

* Nothing is sent, stored or displayed: it has no callbacks, and no memory for images.
* Its state is asked of the screen that shows; for the hidden main screen it is switched there and
  back, and the alternate screen, which that clears, is drawn again.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pyghostty import Terminal as Library
from pyghostty import ffi, lib
from pyghostty.core import check, init_sized, read_buf

from tele.snapshots.ghostty_cells import Cells
from tele.snapshots.terminals import Place, bounded
from tele.terminal.dump import draw

#: Lines of scrollback between two calls of ``take_lines``.
HISTORY_LINES: Final = 1000
_REGION = re.compile(r"\x1b\[(\d+);(\d+)r")
#: Before a screen is drawn: whole screen, no origin mode, wrapping, no insert mode, plain style.
_PLAIN = "\x1b[m\x1b(B\x1b)B\x0f"
_READY = "\x1b[r\x1b[?6l\x1b[?7h\x1b[4l\x1b[m\x1b(B\x1b)B\x0f\x1b[H"
#: The state of a cursor that was never saved.
_NOTHING_SAVED = "\x1b[1;1H\x1b[0m"
#: The first colours, as the library writes them.
_PALETTE = re.compile(r"\x1b\[([34])8;5;([0-9]|1[0-5])m")
_ORIGIN, _WRAPS, _CURSOR, _ALTERNATE_1049, _INSERT = 6, 7, 25, 1049, 4


def _as_usual(colour: re.Match[str]) -> str:
    """Return the sequence of a colour as most programs write it: some terminals brighten these."""
    ground, number = int(colour[1]) * 10, int(colour[2])
    return f"\x1b[{ground + number if number < 8 else ground + 60 + number - 8}m"


class GhosttyTerminal:
    """A terminal of libghostty-vt."""

    def __init__(self, columns: int, rows: int, newline: bool) -> None:
        self.columns, self.rows = bounded(columns, rows)
        self._library: Any = Library(self.columns, self.rows, scrollback=HISTORY_LINES)
        limit = ffi.new("uint64_t*", 0)
        handle, images = self._library._t[0], lib.GHOSTTY_TERMINAL_OPT_KITTY_IMAGE_STORAGE_LIMIT
        check(lib.ghostty_terminal_set(handle, images, limit), "set images")
        self._cells = Cells(handle, self._library.ref)
        self._taken = 0
        if newline:
            self._library.feed(b"\x1b[20h")

    def feed(self, data: bytes) -> None:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        self._library.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        """Resize without wrapping lines again, as tele's own terminal does."""
        self.columns, self.rows = bounded(columns, rows)
        wraps = self._library.mode(_WRAPS)
        if wraps and self.settled():
            self._library.feed(b"\x1b[?7l")
        self._library.resize(self.columns, self.rows)
        if wraps and self.settled():
            self._library.feed(b"\x1b[?7h")

    def settled(self) -> bool:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        return bool(self._library.feed_until_ground(b"") == 0)

    def alternate(self) -> bool:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        return bool(self._library.get("active_screen", "uint32_t"))

    # -- the state ------------------------------------------------------------------------
    def state(self) -> bytes:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        cells, tail = self._drawn()
        region = _REGION.match(tail)
        rest = tail[region.end() :] if region else tail
        out = []
        if self.alternate():
            saves = self._library.mode(_ALTERNATE_1049)
            main, main_tail = self._hidden_main(saves, cells, tail)
            found = _REGION.match(main_tail)
            out += [main, main_tail[found.end() :] if found else main_tail]
            out.append(f"\x1b[?{1049 if saves else 47}h{_PLAIN}\x1b[H")
        out += [cells, *self._saved_cursor(tail), region[0] if region else "", rest]
        out += [self._origin(tail), *self._modes()]
        text = _PALETTE.sub(_as_usual, "".join(out))
        return text.encode("utf-8", "replace")

    def _modes(self) -> list[str]:
        return [
            *(["\x1b[?7l"] if not self._library.mode(_WRAPS) else []),
            *(["\x1b[4h"] if self._library.mode(_INSERT, ansi=True) else []),
            *(["\x1b[?25l"] if not self._library.mode(_CURSOR) else []),
        ]

    def _hidden_main(self, saves: bool, cells: str, tail: str) -> tuple[str, str]:
        """Return the main screen while the alternate one, ``cells`` and ``tail``, shows."""
        origin, modes = self._origin(tail), "".join(self._modes())
        self._library.feed("\x1b[?1049l" if saves else "\x1b[?47l")
        main = self._drawn()
        # Each part is drawn again as it was, in an order in which none moves another.
        enter = "\x1b[?1049h" if saves else "\x1b[?47h"
        self._library.feed(f"{enter}{_READY}\x1b[2J{cells}{tail}{origin}{modes}")
        return main

    def _saved_cursor(self, tail: str) -> list[str]:
        """Return what saves the cursor as it is saved; ``tail`` is the state as it is now."""
        origin, pending = self._origin(tail), self._library.get("cursor_pending_wrap", "bool")
        modes = "".join(self._modes())
        self._library.feed("\x1b8")
        _, saved = self._drawn()
        self._library.feed(f"\x1b[?6l{_PLAIN}{tail}{'' if pending else origin}{modes}")
        region = _REGION.match(saved)
        saved = saved[region.end() :] if region else saved
        return [] if saved == _NOTHING_SAVED else [saved, f"\x1b7{_PLAIN}"]

    def _origin(self, tail: str) -> str:
        """Return what sets origin mode and puts the cursor there, if that is set."""
        if not self._library.mode(_ORIGIN):
            return ""
        column, row = self._library.cursor
        region = _REGION.match(tail)
        top = int(region[1]) - 1 if region else 0
        return f"\x1b[?6h\x1b[{max(row - top, 0) + 1};{column + 1}H"

    def _drawn(self) -> tuple[str, str]:
        """Return the text of the cells, and of margins, cursor, style and character sets."""
        corner = self._format(rest=False)
        return "".join(draw(self._cells.lines())), self._format(rest=True)[len(corner) :]

    def _format(self, *, rest: bool) -> str:
        """Return the library's text of the first cell and, perhaps, of the rest of the state."""
        options: Any = init_sized("GhosttyFormatterTerminalOptions")
        options.emit = lib.GHOSTTY_FORMATTER_FORMAT_VT
        options.unwrap = options.trim = False
        extra = options.extra
        extra.scrolling_region = extra.screen.cursor = rest
        extra.screen.style = extra.screen.charsets = rest
        shown: Any = init_sized("GhosttySelection")
        shown.start = shown.end = self._library.ref(0, 0)[0]
        options.selection = shown
        formatter: Any = ffi.new("GhosttyFormatter*")
        handle = self._library._t[0]
        check(
            lib.ghostty_formatter_terminal_new(ffi.NULL, formatter, handle, options[0]), "formatter"
        )
        try:
            text: str = read_buf(
                lambda buffer, size, written: lib.ghostty_formatter_format_buf(
                    formatter[0], buffer, size, written
                )
            )
        finally:
            lib.ghostty_formatter_free(formatter[0])
        return text

    # -- text -----------------------------------------------------------------------------
    def _history(self) -> int:
        return int(self._library.get("scrollback_rows", "size_t"))

    def take_lines(self) -> list[str]:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        text: str = self._library.contents()
        if not self.alternate():
            self._taken += self._history()
            self._library.feed(b"\x1b[3J")
        return text.split("\n")

    def place(self) -> Place:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        column, row = self._library.cursor
        return self._taken + self._history() + row, column

    def text_from(self, place: Place) -> str:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        line, column = place[0] - self._taken, place[1]
        last, end = self.place()
        last -= self._taken
        if line < 0 or (line, column) >= (last, end):
            return ""
        if end == 0:
            last, end = last - 1, self.columns
        shown: Any = init_sized("GhosttySelection")
        shown.start = self._library.ref(column, line, "screen")[0]
        shown.end = self._library.ref(end - 1, last, "screen")[0]
        text: str = self._library._format_sel(shown, unwrap=True)
        return text

    def close(self) -> None:
        """See :class:`tele.snapshots.terminals.Terminal`."""
        self._cells.close()
        self._library.close()
