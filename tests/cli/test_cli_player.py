"""What keys do to a replay, with a display and a clock in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tele.cli.display import Display
from tele.cli.player import Player
from tele.cli.positions import IndexedPositions, KeptPositions
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
    idle_limit: float | None = None,
) -> tuple[FakeDisplay, list[str]]:
    """Play all; return the display and what is left on the main screen."""
    display = FakeDisplay(size, pressed)
    source = frames(output) if recorded is None else recorded
    positions = KeptPositions(lambda: schedule(source, 0, idle_limit), size)
    player = Player(display, positions, 1.0, display.clock)
    left = ["".join(line.texts).strip() for line in player.run()]
    assert len(positions.kept) <= 33
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
    for key in ("end", "G"):
        display, _ = play(NUMBERS, [(1.5, [key]), (7.5, ["q"])])
        assert display.now == 7.5
        assert display.lines()[0] == "100"
        assert display.lines()[-1].startswith(" end 0:01:40 / 0:01:40")
    display, _ = play(NUMBERS, [(1.5, ["G"]), (2.0, ["left"]), (2.5, [" "])])
    assert display.now == 12.5
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
    assert display.lines()[:2] == ["", " " * 18 + "ab"]
    assert (display.shows.screen.row, display.shows.screen.column) == (1, 19)


def test_a_resize_that_was_recorded() -> None:
    """After it the screen has the new size: lines keep their places in a larger terminal."""
    recorded = [
        *frames([b"\x1b[6;1Hold"]),
        Frame(2 * 10**9, 1, FrameKind.RESIZE, b'{"columns": 50, "rows": 8}'),
        Frame(3 * 10**9, 1, FrameKind.OUTPUT, b"\x1b[2J\x1b[8;1Hlast\x1b[7;45Hright"),
    ]
    display, _ = play([], [], recorded=recorded, size=(60, 9))
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
    assert play([], [], recorded=recorded)[0].lines()[:3] == ["[exec x]", "one", "two"]


def test_data_of_a_program_without_a_terminal_is_one_line() -> None:
    """A terminal would show it as characters without meaning."""
    data = bytes(range(256)) * 4
    recorded = frames([b"begin\n", data, data, b"end\n"], {"kind": "exec", "command": "x"})
    assert play([], [], recorded=recorded)[0].lines()[:4] == [
        "[exec x]", "begin", "[binary output]", "end",
    ]  # fmt: skip


# -- the status line ------------------------------------------------------------------
def status(display: FakeDisplay) -> list[tuple[float, str]]:
    return [(at, lines[-1].strip()) for at, lines in display.seen]


def test_the_last_line_shows_position_length_and_speed() -> None:
    """As they change; it hides nothing of the screen, and s hides it."""
    display, _ = play(NUMBERS[:20], [(3.5, ["4"]), (4.0, [" "]), (9.0, ["s"]), (9.5, ["q"])])
    seen = status(display)
    assert (3.0, "playing 0:00:03  1x") in seen
    assert any(at > 3.5 and text == "playing 0:00:04  4x" for at, text in seen)
    assert any(text == "paused 0:00:05  4x" for _, text in seen)
    assert seen[-1][1].startswith("paused at 0:00:05; space resumes")
    six = [b"\r\n".join(b"line %d" % n for n in range(1, 7)), b""]
    display, _ = play(six, [], size=(60, 7))
    assert display.lines()[0] == "line 1"
    assert display.lines()[5] == "line 6"
    display, _ = play(six, [], size=(60, 6))
    assert display.lines()[4] == "line 6"
    assert "part of 40x6" in display.lines()[5]


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_help_names_every_key_on_a_terminal_of_any_width(columns: int) -> None:
    """It is wrapped, and covers the last lines only while it is shown."""
    display, _ = play(NUMBERS[:20], [(1.5, ["?"]), (12.5, ["q"])], size=(columns, 12))
    shown = next(lines for _, lines in display.seen if any("space pause" in e for e in lines))
    help_text = " ".join(" ".join(line.split()) for line in shown)
    for key in ("space pause", "left/right 10 s", "/ search", "N before", "s status", "q quit"):
        assert key in help_text
    assert not any("q quit" in line for line in display.lines())


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 1), (500, 3)])
def test_any_size_of_the_terminal(size: tuple[int, int]) -> None:
    """Nothing is drawn outside of it."""
    display, _ = play(
        [b"wide " * 30, b"\x1b[6;40Hx"], [(1.5, ["?", "/", "a", "\r"]), (1.6, ["q"])], size
    )
    assert len(display.lines()) == size[1]


def test_pauses_that_are_cut_keep_the_time_of_the_session() -> None:
    """The wait is shorter; what is shown, and where a key leads, is the session's time."""
    recorded = [
        *frames([b"a"]),
        Frame(100 * 10**9, 1, FrameKind.OUTPUT, b"b"),
        Frame(101 * 10**9, 1, FrameKind.OUTPUT, b"c"),
    ]
    display, _ = play([], [], recorded=recorded, idle_limit=2.0)
    assert display.now == pytest.approx(4.0, abs=0.1)
    assert (3.0, "playing 0:01:40  1x") in status(display)
    display, _ = play([], [(1.5, ["right"] * 5)], recorded=recorded, idle_limit=2.0)
    assert display.now < 3.5


# -- searching ------------------------------------------------------------------------
def searched(*pressed: tuple[float, list[str]], output: list[bytes] = NUMBERS) -> FakeDisplay:
    return play(output, [*pressed, (999.0, ["q"])])[0]


def test_a_search_leads_to_the_time_at_which_the_text_appears() -> None:
    """And stops there; n goes on, N goes back; what is on the screen already does not count."""
    display = searched((1.5, [*"/077", "\r"]))
    assert display.lines()[0] == "077"
    assert "'077' at 0:01:17" in display.written.decode()
    output = [b"one\r\n", b"two\r\n", b"\x1b[2J", b"one\r\n", b"x", b"one\r\n"]
    for keys, second in ((["/", *"one", "\r"], 4), (["/", *"one", "\n", "n"], 6)):
        display = searched((1.5, keys), output=output)
        assert f" 0:00:0{second}" in status(display)[-1][1]
    display = searched((5.5, ["/", *"one", "\r", "N", "N"]), output=output)
    assert status(display)[-1][1].startswith("paused 0:00:01")


def test_a_text_that_does_not_appear() -> None:
    """Said so, and the replay stays where it was."""
    display = searched((20.5, ["/", *"nothing", "\r"]))
    assert display.lines()[0] == "020"
    assert "does not appear after 0:00:20" in display.written.decode()
    display = searched((20.5, ["/", *"050", "\r", "N"]))
    assert "does not appear before" in display.written.decode()
    assert b"nothing to search for" in searched((1.5, ["n"])).written


def test_what_is_typed_after_the_slash() -> None:
    """It is shown; keys do nothing else; it can be corrected and given up."""
    display = searched((1.5, ["/", "q", "G"]), (1.6, ["\x7f", "\x7f", "0", "4", "4", "\r"]))
    assert display.lines()[0] == "044"
    assert b"/qG" in display.written
    for given_up in ("\x03", "\x07", "\x1b"):
        display, _ = play(NUMBERS[:5], [(1.5, ["/", "4", given_up])])
        assert display.now == 5.0
    display = searched((1.5, ["/", "left", *"\xc3\xa9", "\r"]), output=[b"a", b"caf\xc3\xa9"])
    assert display.lines()[0] == "acaf\xe9"


def test_upper_and_lower_case() -> None:
    """A pattern in lower case finds both, one with a capital that only."""
    output = [b"start ", b"Error ", b"error "]
    assert searched((0.5, ["/", *"error", "\r"]), output=output).lines()[0] == "start Error"
    display = searched((1.5, ["/", *"rror", "\r", "n"]), output=output)
    assert display.lines()[0] == "start Error error"
    display = searched((0.5, ["/", *"Error", "\r", "n"]), output=output)
    assert "does not appear" in display.written.decode()


def test_a_text_that_is_wrapped_is_found() -> None:
    """A line that is longer than the terminal is one line."""
    display = searched((0.5, ["/", *"needle", "\r"]), output=[b"x", b"y" * 36 + b"needle"])
    assert "'needle' at 0:00:02" in display.written.decode()


# -- an index -------------------------------------------------------------------------
class Index:
    """Keyframes every 10 s, as an index has them. ``asked`` are the times asked for."""

    length = 1000.0

    def __init__(self) -> None:
        self.asked: list[float] = []

    def position(self, at: float, channel: int = 0, idle_limit: float | None = None) -> Any:
        self.asked.append(at)
        first = int(at // 10) * 10
        steps = (
            Step(1.0, float(n), Frame(n * 10**9, 1, FrameKind.OUTPUT, b"\r%04d" % n))
            for n in range(first + 1, 1001)
        )
        return SimpleNamespace(
            at=float(first), columns=40, rows=6, newline=False, state=b"\r%04d" % first, steps=steps
        )


def with_index(
    pressed: list[tuple[float, list[str]]], at: float = 0.0
) -> tuple[FakeDisplay, Index]:
    index, display = Index(), FakeDisplay((60, 8), [*pressed, (9999.0, ["q"])])
    Player(display, IndexedPositions(index, 0, None), 1.0, display.clock, at=at).run()
    return display, index


def test_an_index_is_used_to_seek() -> None:
    """Forwards, backwards, to the end and to where the replay begins; from the nearest keyframe."""
    display, index = with_index([(1.5, [" ", *["right"] * 50]), (2.0, ["."])])
    assert display.lines()[0] == "0502"
    assert len(index.asked) <= 51
    display, index = with_index([(1.5, ["G"])])
    assert display.lines()[0] == "1000"
    assert index.asked == [0.0, 1000.0]
    assert "/ 0:16:40" in display.lines()[-1]
    display, index = with_index([(0.5, [" "])], at=761.0)
    assert display.lines()[0] == "0761"
    assert index.asked == [761.0]
    display, index = with_index([(0.5, [" ", "left", "left"])], at=500.5)
    assert display.lines()[0] == "0481"
    display, _ = with_index(
        [(1.5, ["G"]), (2.5, ["g"]), (3.0, ["G", "N"]), (3.1, ["/", *"0999", "\r"])]
    )
    assert "does not appear after" in display.written.decode()


# -- programs without a terminal ------------------------------------------------------
def test_files_and_commands_are_listed() -> None:
    """What was copied, what a command wrote and how it ended, for all channels."""

    def frame(second: int, channel: int, of: FrameKind, **fields: object) -> Frame:
        return Frame(second * 10**9, channel, of, json.dumps(fields).encode())

    recorded = [
        frame(0, 1, FrameKind.OPEN, kind="exec", command="make \x1b[31m all"),
        Frame(1 * 10**9, 1, FrameKind.OUTPUT, b"done\n"),
        frame(2, 1, FrameKind.CAPTURE, stream="output", bytes=12345678, sha256="ab" * 32),
        frame(2, 1, FrameKind.EXIT, status=2),
        frame(3, 2, FrameKind.OPEN, kind="subsystem", command="sftp"),
        frame(4, 2, FrameKind.TRANSFER, protocol="sftp", op="write", direction="upload",
              path="/tmp/x\r\n\x9b", bytes=10, mode="0644", result="ok"),
        frame(5, 3, FrameKind.OPEN, kind="forward", forward="direct-tcpip"),
        frame(6, 2, FrameKind.EXIT, signal="TERM"),
    ]  # fmt: skip
    display, left = play([], [], recorded=recorded, size=(120, 20))
    lines = display.lines()[:8]
    assert lines[0].startswith("[exec make ")
    assert lines[1:4] == [
        "done", f"[output: 12,345,678 bytes, sha256 {'ab' * 32}]", "[exit status 2]",
    ]  # fmt: skip
    assert lines[4] == "[subsystem sftp]"
    assert lines[5].startswith("[sftp upload /tmp/x")
    assert lines[5].endswith(", 10 bytes, mode 0644: ok]")
    assert lines[6] == "[ended by signal TERM]"
    assert not lines[7]
    assert len(left) == 7


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b"x", b'{"bytes": [], "path": {"a": 1}, "lost": [1]}']
)
def test_frames_that_say_nonsense(data: bytes) -> None:
    """Each kind has a line, or none."""
    kinds = [kind for kind in FrameKind if kind not in (FrameKind.START, FrameKind.END)]
    recorded = [Frame(n, 1, kind, data) for n, kind in enumerate(kinds)]
    recorded.insert(0, Frame(0, 1, FrameKind.OPEN, b'{"kind": "exec"}'))
    assert play([], [], recorded=recorded)[0].lines()


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
    Player(display, KeptPositions(steps, display.size), 1.0, display.clock).run()
    assert len(asked) == 3


def running(pressed: list[tuple[float, list[str]]]) -> tuple[FakeDisplay, KeptPositions]:
    """Follow a session that writes for a second, is quiet, and writes again; from the edge on."""
    quiet: list[Frame | None] = [None] * 8
    recorded = [*frames([b"first ", b"second "]), *quiet, frames([b""] * 4 + [b"third"])[-1]]
    display = FakeDisplay((60, 8), pressed)
    positions = KeptPositions(lambda: schedule(recorded, 0, None), (60, 8))
    lines = Player(display, positions, 1.0, display.clock, at=2.0).run()
    assert "".join(lines[0].texts).strip() == "first second third"
    return display, positions


def test_a_session_that_runs_is_followed() -> None:
    """What is there is shown at once, what arrives then, without waiting for it twice."""
    display, positions = running([])
    assert times(display)["first second"] < 0.5
    assert "first" not in times(display)
    assert 2.0 <= display.now <= 3.5
    steps = [each.step for each in positions.kept]
    assert steps == sorted(set(steps))


def test_the_end_of_a_session_that_runs_is_its_edge() -> None:
    """G goes there and pauses; the session goes on when the user does, and back is possible."""
    display, _ = running([(0.5, ["left"]), (1.0, ["G"]), (50.0, [" "])])
    assert display.now > 50


def test_a_search_ends_at_the_edge_of_a_session_that_runs() -> None:
    """What has not been written yet is not waited for."""
    display, _ = running([(0.5, ["/", *"third", "\r"]), (20.0, [" "])])
    assert "does not appear after" in display.written.decode()
    display, _ = running([(0.5, ["/", *"first", "\r", "N"]), (20.0, [" "])])
    assert "'first' at 0:00:01" in display.written.decode()
