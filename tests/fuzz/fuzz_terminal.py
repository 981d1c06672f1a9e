"""Invariant: of any output a terminal gets characters and styles; any input gives keys."""

from __future__ import annotations

import re
import unicodedata

from attempts import Dice, main
from tele.terminal.emulator import Emulator
from tele.terminal.keys import KeyReader
from tele.terminal.line import draw
from tele.terminal.screen import Screen

SEEDS = (
    (
        b"\x1b[?1049h\x1b[3;9r\x1b[5;5H\x1b[1;38;5;200mtext\x1b[K\x1b[4L\x1b[9@\xe4\xb8\xad\xcc\x81"
        b"\x1b[99b\x1b[?1049l"
    ),
    (
        b"\x1b]0;title\x07\x1bP$qm\x1b\\\x1b(0lqk\x0e\x1b7\x1b8\x1bM\x1b#8\x1bc\x9b6n"
        b"\x1b[48:2::1:2:3mx\x1b[!p"
    ),
    b"\x1b[200~q\x1b[201~\x1b[M abc\x1b[<0;1;1M\x1bOA\x1b[1;5D\x1b[113;1:3u\x1b[?62c",
)
#: Control, format and surrogate characters, those that are not assigned, and line ends.
NOT_SHOWN = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
ALLOWED = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-9]+G")


def check(data: bytes, columns: int, rows: int) -> None:
    """Hold the invariant for ``data``, with another size in the middle."""
    emulator = Emulator(Screen(12, 5))
    emulator.feed(data[: len(data) // 2])
    emulator.screen.resize(columns, rows)
    emulator.feed(data[len(data) // 2 :])
    screen = emulator.copy().screen
    assert len(screen.lines) == screen.rows
    assert 0 <= screen.row < screen.rows
    assert 0 <= screen.column < screen.columns
    for line in screen.main_lines():
        shown = draw(line, 0, len(line.texts))
        plain = ALLOWED.sub("", shown)
        assert not NOT_SHOWN & {*map(unicodedata.category, plain)}, shown
    assert all(len(key) == 1 or key.isalpha() for key in KeyReader().feed(data))


def attempt(dice: Dice) -> None:
    """Good sequences with damage, and noise."""
    data = b"".join(dice.damaged(dice.choice(SEEDS), 6) for _ in range(dice.randint(1, 4)))
    check(data + dice.bytes_up_to(200), dice.randint(-2, 40), dice.randint(-2, 12))


if __name__ == "__main__":
    main(attempt)
