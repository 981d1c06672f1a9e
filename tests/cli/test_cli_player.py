"""What keys do to a replay, with a display and a clock in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tele.cli.display import Display
from tele.cli.player import Player
from tele.model.frame import Frame, FrameKind
from tele.recording.playback import Step, schedule
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

PTY = {"kind": "shell", "pty": {"columns": 40, "rows": 6}}


def frames(output: list[bytes], pty: dict[str, object] | None = None) -> list[Frame]:
    """A session that writes one of ``output`` each second."""
    opened = Frame(0, 1, FrameKind.OPEN, json.dumps(PTY if pty is None else pty).encode())
    shown = [Frame((n + 1) * 10**9, 1, FrameKind.OUTPUT, data) for n, data in enumerate(output)]
    return [opened, *shown]


class FakeDisplay(Display):
    """A terminal of a size; ``pressed`` are keys by the times at which they are pressed."""

    def __init__(self, size: tuple[int, int], pressed: list[tuple[float, list[str]]]) -> None:
        self.now = 0.0
        self._size = size
        self.pressed = pressed
        self.shows = Emulator(Screen(*size))
        #: What was shown at each wait, with the time.
        self.seen: list[tuple[float, list[str]]] = []
        self.written = b""

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def write(self, data: bytes) -> None:
        self.written += data
        self.shows.feed(data)

    def clock(self) -> float:
        return self.now

    def first_lines(self) -> list[tuple[float, str]]:
        return [(at, lines[0]) for at, lines in self.seen]

    def lines(self) -> list[str]:
        return ["".join(line.texts).rstrip() for line in self.shows.screen.lines]

    def wait(self, seconds: float | None) -> tuple[list[str], bool]:
        self.seen.append((round(self.now, 3), self.lines()))
        until = float("inf") if seconds is None else self.now + seconds
        if self.pressed and self.pressed[0][0] <= until:
            at, keys = self.pressed.pop(0)
            self.now = max(self.now, at)
            return keys, False
        assert seconds is not None, "it waits for ever"
        self.now = until
        return [], False


def play(
    output: list[bytes],
    pressed: list[tuple[float, list[str]]],
    size: tuple[int, int] = (60, 8),
    recorded: list[Frame] | None = None,
) -> tuple[FakeDisplay, list[str]]:
    """Play all; return the display and what is left on the main screen."""
    display = FakeDisplay(size, pressed)
    source = frames(output) if recorded is None else recorded
    player = Player(display, lambda: schedule(source, 0, None), 1.0, display.clock)
    left = ["".join(line.texts).strip() for line in player.run()]
    assert len(player._snapshots) <= 33
    return display, left


NUMBERS = [b"\r%03d" % (n + 1) for n in range(100)]


def times(display: FakeDisplay) -> dict[str, float]:
    """When each first line was seen first."""
    found: dict[str, float] = {}
    for at, line in display.first_lines():
        found.setdefault(line, at)
    return found


def test_it_plays_in_its_own_time() -> None:
    """Without keys each second is a second."""
    display, _ = play(NUMBERS[:5], [])
    assert times(display)["004"] == 4.0
    assert display.now == 5.0
    assert display.lines()[0] == "005"


@pytest.mark.parametrize("held", [1, 3, 7])
def test_each_of_many_keys_counts(held: int) -> None:
    """Keys that arrive together, as from a key that is held, are all done."""
    display, _ = play(NUMBERS, [(1.5, ["right"] * held)])
    after = next(line for at, line in display.first_lines() if at >= 1.5 and line > "001")
    assert after == f"{1 + 10 * held:03d}"
    assert display.now == 100.0 - 10 * held


def test_back_and_on() -> None:
    """Left goes back 10 s for each time it is pressed, right on; home is the beginning."""
    display, _ = play(NUMBERS, [(45.5, ["left", "left", "right"]), (46.2, ["home"])])
    shown = [line for at, line in display.first_lines() if 45.5 <= at < 46.2 and line != "045"]
    assert shown[0] == "035"
    assert display.now == pytest.approx(146.2, abs=0.01)


def test_speeds() -> None:
    """A digit is a speed; plus and minus are the next ones."""
    assert play(NUMBERS[:10], [(2.0, ["4"])])[0].now == 4.0
    assert play(NUMBERS[:10], [(2.0, ["+", "+", "-"])])[0].now == 6.0
    assert play(NUMBERS[:10], [(2.0, ["down"])])[0].now == 18.0


def test_pause_and_steps() -> None:
    """Space stops time and starts it again; a point shows the next output and stops there."""
    display, _ = play(NUMBERS[:6], [(2.5, [" "]), (50.0, [" "])])
    assert display.now == 53.5
    display, _ = play(NUMBERS[:6], [(2.5, ["."]), (20.0, ["."]), (30.0, [" "])])
    assert times(display)["004"] == 20.0
    assert display.now == 32.0


def test_the_end_and_quitting() -> None:
    """End shows the last that there was; q ends at once with what was shown."""
    display, _ = play(NUMBERS, [(1.5, ["end"])])
    assert display.now == 1.5
    assert display.lines()[0] == "100"
    _, left = play([b"a\r\n", b"b\r\n", b"c\r\n"], [(2.5, ["q"])])
    assert left == ["a", "b"]


def test_going_back_far_costs_what_lies_behind_a_kept_state() -> None:
    """Only a bounded number of states is kept, and each leads to the right screen."""
    many = [b"\r%06d" % (n + 1) for n in range(3000)]
    display, _ = play(many, [(2900.5, ["left"] * 200), (2901.2, ["q"])])
    assert [line for at, line in display.first_lines() if at >= 2900.5][-1] == "000901"


def test_a_recording_that_is_larger_than_the_terminal() -> None:
    """The part around the cursor is shown, with a notice; nothing is wrapped."""
    lines = b"\r\n".join(b"line %d" % n for n in range(1, 7))
    display, _ = play([lines, b"\x1b[1;1H", b"\x1b[3;39Hab"], [], size=(20, 3))
    assert b"recorded at 40x6" in display.written
    assert display.lines() == ["", "", " " * 18 + "ab"]
    assert (display.shows.screen.row, display.shows.screen.column) == (2, 19)


def test_a_resize_that_was_recorded() -> None:
    """After it the screen has the new size: lines keep their places in a larger terminal."""
    recorded = [
        *frames([b"\x1b[6;1Hold"]),
        Frame(2 * 10**9, 1, FrameKind.RESIZE, b'{"columns": 50, "rows": 8}'),
        Frame(3 * 10**9, 1, FrameKind.OUTPUT, b"\x1b[2J\x1b[8;1Hlast\x1b[7;45Hright"),
    ]
    display, _ = play([], [], recorded=recorded)
    assert display.lines()[7] == "last"
    assert display.lines()[6].endswith("right")
    assert display.shows.screen.row == 6


@pytest.mark.parametrize(
    "said",
    [b"{}", b"[]", b'{"columns": "x", "rows": []}', b'{"columns": -5, "rows": 99999999999}', b"x"],
)
def test_a_resize_that_lies(said: bytes) -> None:
    """A size that is none changes nothing, or is held to what can be."""
    recorded = [*frames([b"a"]), Frame(2 * 10**9, 1, FrameKind.RESIZE, said)]
    assert play([], [], recorded=recorded)[0].lines()


def test_output_without_a_terminal() -> None:
    """Lines of a command that had no terminal begin at the left."""
    recorded = frames([b"one\ntwo\n"], {"kind": "exec", "command": "x"})
    assert play([], [], recorded=recorded)[0].lines()[:2] == ["one", "two"]


HOSTILE = (
    b"\x1b[c\x1b[>c\x1b[=c\x1b[5n\x1b[6n\x1b[?6n\x1b[18t\x1b[21t\x1b[>q\x1b[?2026$p\x1b[?u\x05\x1bZ"
    b"\x1b]0;title\x07\x1b]52;c;cm0gLXJm\x07\x1b]52;c;?\x07\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]4;1;?\x07"
    b"\x1bP$qm\x1b\\\x1bP+q544e\x1b\\\x1b[?1h\x1b=\x1b[?1000h\x1b[?1003h\x1b[?1006h\x1b[?1004h\x1b[?2004h"
    b"\x1b[>4;2m\x1b[>1u\x1b[=5u\x1b[?69h\x1b[8;1;1t\x1b[2t\x1b[5i\x1b[?1047h\x1b[?47h\x1b[20h\x1b[?5h"
    b"\x1b_Gi=1,a=q;AAAA\x1b\\\x1b^x\x1b\\\x1bXx\x1b\\\xc2\x9b6n\xc2\x90q\xc2\x9c\x1b]8;;file:///x\x07l\x1b]8;;\x07"
)  # fmt: skip


def test_a_hostile_recording_reaches_no_terminal() -> None:
    """Whatever it holds, the terminal gets characters, attributes and cursor positions: no query
    that it would answer into the user's shell, no mode, no title, no clipboard.
    """
    display, _ = play([HOSTILE, b"harmless"], [])
    allowed = rb"\x1b\[[0-9;]*[mHG]|\x1b\[2[JK]|\x1b\[\?25[hl]"
    assert re.sub(allowed, b"", display.written).decode().isprintable()
    assert any("harmless" in line for line in display.lines())


def test_steps_are_read_anew_when_going_back() -> None:
    """A recording is not held in memory: its steps are read again."""
    asked = []

    def steps() -> Iterator[Step]:
        asked.append(1)
        return schedule(frames(NUMBERS), 0, None)

    display = FakeDisplay((60, 8), [(30.5, ["left"]), (31.0, ["left"]), (31.5, ["q"])])
    Player(display, steps, 1.0, display.clock).run()
    assert len(asked) == 3
