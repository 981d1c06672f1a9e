"""Keyframes: from each of them a session goes on exactly as it does from its beginning."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from recorded_sessions import Built, chunks_of, frame, opened, read_all
from tele.model.frame import FrameKind
from tele.snapshots.ghostty import GhosttyTerminal
from tele.snapshots.terminals import MakeTerminal, OwnTerminal
from tele.tape.details import details
from tele.tape.index import KEYFRAME_BYTES, STATE_LIMIT
from tele.tape.layout import Chunk
from tele.tape.placed import placed_frames
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

BOTH: list[Any] = [
    pytest.param(OwnTerminal, id="own"),
    pytest.param(GhosttyTerminal, id="ghostty"),
]
PIECES = [
    b"a line of text\r\n", b"\x1b[31mred\x1b[0m ", b"\x1b[1;44mblue\x1b[K\x1b[0m\r\n", b"\x1b[2J",
    b"\x1b[5;10H", b"\x1b[H", "漢字 e\u0301 ".encode(), b"\x1b[3;20r", b"\x1b[r", b"\x1b[?25l",
    b"\x1b[?25h", b"\x1b(0qqq\x1b(B", b"\x1b[?1049h\x1b[2J", b"\x1b[?1049l", b"\x1b[2L",
    b"\x1b[38;5;200mcolour", b"\x1b[m", b"x" * 79, b"\x1b]0;title\x07", b"\x1b[2P", b"\x1b[4X",
]  # fmt: skip


def shown(screen: Screen) -> object:
    """What a person sees of a screen, and where text goes on."""
    return (
        ["".join(line.texts) for line in screen.lines],
        [line.styles for line in screen.lines],
        (screen.row, screen.column, screen.top, screen.bottom, screen.alternate, screen.visible),
    )


def played(
    chunks: list[Chunk], make: MakeTerminal, built: Built | None = None, number: int = 0
) -> object:
    """The last screen of a terminal that plays from the beginning, or from a keyframe."""
    terminal, first, at = make(80, 24, False), 0, 0
    if built is not None:
        keyframe = built.index.keyframes[number]
        terminal = make(keyframe.columns, keyframe.rows, keyframe.newline)
        terminal.feed(built.state(number))
        first, at = keyframe.chunk, keyframe.at
    for chunk in chunks[first:]:
        for _, one in placed_frames(chunk, at):
            fields = details(one) if one.kind is not FrameKind.OUTPUT else {}
            if one.kind is FrameKind.OUTPUT:
                terminal.feed(one.data)
            elif size := fields.get("pty", fields if one.kind is FrameKind.RESIZE else None):
                terminal.resize(size["columns"], size["rows"])
        at = 0
    screen = Screen(terminal.columns, terminal.rows)
    Emulator(screen).feed(terminal.state())
    return shown(screen)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("seed", range(12))
def test_a_session_goes_on_from_each_keyframe(make: MakeTerminal, seed: int) -> None:
    """Whatever was written before it, playing from a keyframe ends with the same screen."""
    dice = random.Random(seed)
    frames = [opened()]
    for second in range(0, 400, 4):
        data = b"".join(dice.choice(PIECES) for _ in range(dice.randint(1, 30)))
        frames.append(frame(second, FrameKind.OUTPUT, data))
    chunks = read_all(chunks_of(frames, each=7))
    built = Built(chunks, make)
    assert 20 < len(built.index.keyframes) < 60
    expected = played(chunks, make)
    for number in range(len(built.index.keyframes)):
        assert played(chunks, make, built, number) == expected, number


@pytest.mark.parametrize("seed", range(12))
def test_cells_that_were_not_written_have_no_style(seed: int) -> None:
    """A style before a gap does not grow into it, and lines of background alone are there,
    whichever terminal makes the state. (What is left of half a wide character differs.)
    """
    dice = random.Random(seed)
    styles = [b"\x1b[4m", b"\x1b[7m", b"\x1b[44m", b"\x1b[1;32m", b"\x1b[m"]
    texts = [b"ab", b"  ", b" ", "e\u0301".encode(), b"x" * 30]
    moves = [b"\x1b[3C", b"\x1b[7;%dH" % dice.randint(1, 60), b"\r\n", b"\x1b[K", b"\x1b[2X"]
    pieces = [dice.choice(dice.choice((styles, texts, moves))) for _ in range(150)]
    data = "\x1b[7m\u6f22\x1b[m\x1b[3C\x1b[38;2;1;2;3ma\u6f22\x1b[3C\u6f22".encode()
    data += b"\r\n\x1b[48;5;200m\x1b[K\r\n\x1b[48;2;9;8;7m\x1b[K\r\n\x1b[m" + b"".join(pieces)
    screens = []
    for make in (OwnTerminal, GhosttyTerminal):
        terminal = make(80, 24, False)
        terminal.feed(data)
        screen = Screen(80, 24)
        Emulator(screen).feed(terminal.state())
        screens.append(shown(screen))
        terminal.close()
    assert screens[0] == screens[1]


def test_both_terminals_draw_the_same() -> None:
    """A keyframe by the library is drawn by tele's player as if tele had made it."""
    frames = [
        opened(),
        frame(0, FrameKind.OUTPUT, b"$ ls\r\n\x1b[1;34mdir\x1b[0m file\r\n$ vim\r\n"),
    ]
    frames.append(
        frame(1, FrameKind.OUTPUT, b"\x1b[?1049h\x1b[2J\x1b[1;23r\x1b[3;3Hhello\x1b[?25l")
    )
    frames.append(
        frame(12, FrameKind.OUTPUT, b"\x1b[24;1H\x1b[7mstatus\x1b[m\x1b[4;4H\x1b[38;5;99m")
    )
    frames.append(frame(13, FrameKind.OUTPUT, b"x\x1b[m\x1b[r\x1b[?1049l\x1b[?25h$ next"))
    chunks = read_all(chunks_of(frames))
    library, own = Built(chunks, GhosttyTerminal), Built(chunks, OwnTerminal)
    screens = []
    for built in (library, own):
        screen = Screen(80, 24)
        Emulator(screen).feed(built.state(0))
        screens.append(shown(screen))
        assert played(chunks, OwnTerminal, built) == played(chunks, OwnTerminal)
    assert screens[0] == screens[1]


@pytest.mark.parametrize("make", BOTH)
def test_a_keyframe_has_the_size_of_its_time(make: MakeTerminal) -> None:
    """After a resize keyframes are of the new size, and the resize is in the table."""
    frames = [opened(), frame(1, FrameKind.OUTPUT, b"small")]
    frames.append(frame(2, FrameKind.RESIZE, {"columns": 132, "rows": 50}))
    frames.append(frame(15, FrameKind.OUTPUT, b"\x1b[50;130Hx"))
    built = Built(read_all(chunks_of(frames)), make)
    (keyframe,) = built.index.keyframes
    assert (keyframe.columns, keyframe.rows) == (132, 50)
    assert [(each.time, each.columns) for each in built.index.resizes] == [(2 * 10**9, 132)]


@pytest.mark.parametrize("make", BOTH)
def test_keyframes_are_close(make: MakeTerminal) -> None:
    """Between two keyframes are at most 256 KiB of output, in a flood too."""
    frames = [opened()]
    frames += [frame(1, FrameKind.OUTPUT, b"y\r\n" * 10_000) for _ in range(60)]
    index = Built(read_all(chunks_of(frames, each=20)), make).index
    places = [0, *(each.output for each in index.keyframes), index.output]
    assert max(b - a for a, b in pairwise(places)) <= KEYFRAME_BYTES


@pytest.mark.parametrize("make", BOTH)
def test_no_keyframe_within_a_sequence(make: MakeTerminal) -> None:
    """Where a control sequence or a character is open, the keyframe comes later."""
    frames = [opened(), frame(20, FrameKind.OUTPUT, b"one\x1b[3")]
    frames.append(frame(21, FrameKind.OUTPUT, b"1mtwo\xe6\xbc"))
    frames.append(frame(22, FrameKind.OUTPUT, b"\xa2\x1b]133;"))
    frames.append(frame(23, FrameKind.OUTPUT, b"A\x07three"))
    chunks = read_all(chunks_of(frames))
    built = Built(chunks, make)
    assert [each.time // 10**9 for each in built.index.keyframes] == [23]
    assert played(chunks, make, built) == played(chunks, make)


@pytest.mark.parametrize("make", BOTH)
def test_hostile_output_stays_within_limits(make: MakeTerminal) -> None:
    """An escape flood, an endless string, and sizes that no window has make a bounded index."""
    dice = random.Random(1)
    frames = [opened(pty={"columns": 2**31, "rows": -5})]
    frames.append(frame(1, FrameKind.RESIZE, {"columns": 65535, "rows": 65535}))
    frames.append(frame(2, FrameKind.RESIZE, {"columns": "wide", "rows": None}))
    flood = b"".join(b"\x1b[38;2;%d;2;3mx" % dice.randrange(256) for _ in range(4000))
    for second in range(10, 200, 10):
        frames.append(frame(second, FrameKind.OUTPUT, flood))
        frames.append(frame(second, FrameKind.OUTPUT, dice.randbytes(3000)))
        frames.append(frame(second, FrameKind.OUTPUT, b"\x1b[?1049h\x1b[?1049l" * 100))
    frames.append(frame(210, FrameKind.OUTPUT, b"\x1b]0;" + b"z" * 100_000))
    built = Built(read_all(chunks_of(frames)), make)
    assert all(each.size <= STATE_LIMIT for each in built.index.keyframes)
    assert built.index.states_size <= 2 * built.index.output + 16 * 1024 * 1024
    assert built.index.whole


def test_channels_have_keyframes_of_their_own() -> None:
    """Two programs at once: each keyframe is of one channel, and a forward has none."""
    frames = [opened(channel=1), opened(channel=2)]
    frames.append(frame(0, FrameKind.OPEN, {"kind": "forward", "forward": "direct-tcpip"}, 3))
    for second in range(0, 40, 2):
        frames.append(frame(second, FrameKind.OUTPUT, b"first\r\n", 1))
        frames.append(frame(second, FrameKind.OUTPUT, b"second\r\n", 2))
    index = Built(read_all(chunks_of(frames)), OwnTerminal).index
    assert {each.channel for each in index.keyframes} == {1, 2}
    assert [(c.number, c.terminal, c.forward) for c in index.channels] == [
        (1, True, False), (2, True, False), (3, False, True),
    ]  # fmt: skip
    assert index.main_channel() == 1
    found = index.keyframe(2, 25 * 10**9)
    assert found is not None
    assert found.channel == 2
    assert found.time <= 25 * 10**9


def test_many_channels_at_once_are_bounded() -> None:
    """A connection with a thousand channels gets no thousand terminals."""
    made = []

    def make(columns: int, rows: int, newline: bool) -> OwnTerminal:
        made.append(newline)
        return OwnTerminal(columns, rows, newline)

    frames = [opened(channel=number) for number in range(1, 1001)]
    index = Built(read_all(chunks_of(frames)), make).index
    assert len(made) == 16
    assert len(index.channels) == 1000
