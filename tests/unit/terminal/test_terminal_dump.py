"""The text of a screen: applied to a blank one, it gives the same screen."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tele.terminal.dump import dump
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

COLUMNS, ROWS = 13, 5
_PIECES = st.one_of(
    st.sampled_from([
        "\r", "\n", "\t", "\b", "\x0e", "\x0f", "\x1b7", "\x1b8", "\x1bM", "\x1bD", "\x1bH",
        "\x1b[g", "\x1b[3g", "\x1b(0", "\x1b(B", "\x1b)0", "\x1b[2J", "\x1b[K", "\x1b[1K",
        "\x1b[L", "\x1b[M", "\x1b[2P", "\x1b[3@", "\x1b[X", "\x1b[S", "\x1b[T", "\x1b[2;4r",
        "\x1b[r", "\x1b[?6l", "\x1b[?7l", "\x1b[?7h", "\x1b[?25l", "\x1b[?25h",
        "\x1b[4h", "\x1b[4l", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?47h", "\x1b[?47l", "\x1b[!p",
        "\x1bc", "\x1b#8", "\x1b[1;31m", "\x1b[44m", "\x1b[38;5;200;7m", "\x1b[m",
        "漢", "字漢", "e\u0301", "wide 漢字 text that wraps", "0123456789012", "qqq", "a b",
    ]),
    st.builds("\x1b[{};{}H".format, st.integers(1, ROWS), st.integers(1, COLUMNS)),
    st.text("ab ", min_size=1, max_size=20),
)  # fmt: skip


def _all(screen: Screen) -> object:
    """Everything that decides what a screen shows now and later."""
    hidden = screen.hidden()
    return (
        [(line.texts, line.styles) for line in (*screen.lines, *hidden.other)],
        (screen.row, screen.column, screen.top, screen.bottom, hidden.pending),
        (screen.alternate, screen.wraps, screen.visible, screen.insert, screen.origin),
        (screen.style, screen.graphics, screen.shift, vars(hidden.saved), vars(hidden.saved_other)),
        {stop for stop in screen.tabs if stop < screen.columns},
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=40))
def test_a_dump_gives_the_same_screen(pieces: list[str]) -> None:
    """Whatever a program wrote, its dump on a blank screen gives the same state, in every part."""
    screen = Screen(COLUMNS, ROWS)
    Emulator(screen).feed("".join(pieces).encode())
    again = Screen(COLUMNS, ROWS)
    Emulator(again).feed(dump(screen))
    assert _all(again) == _all(screen)


def test_a_dump_in_origin_mode() -> None:
    """In origin mode rows count from the margin, for the cursor and for the saved one."""
    screen = Screen(COLUMNS, ROWS)
    Emulator(screen).feed(b"one\r\ntwo\x1b[2;4r\x1b[?6h\x1b[2;3H\x1b7\x1b[3;5Hx")
    again = Screen(COLUMNS, ROWS)
    Emulator(again).feed(dump(screen))
    assert _all(again) == _all(screen)


def test_the_dump_of_a_blank_screen_draws_nothing() -> None:
    """A blank screen needs no lines, so that short sessions have small keyframes."""
    assert len(dump(Screen(1000, 500))) < 20
