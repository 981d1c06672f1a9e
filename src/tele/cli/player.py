"""The player of recordings in a terminal, with its keys.

Recorded output is applied to a screen in memory (:mod:`tele.terminal`), and that screen is drawn on
the terminal.

Invariants:

* Only characters of the screen and their style reach the terminal: a recording cannot switch modes
  or request a reply.
* A terminal of any size shows the recorded screen, or the part of it around the cursor.
* Every key that is pressed counts, even if many arrive at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from tele.model.frame import FrameKind
from tele.tape.details import details, terminal
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Line, Screen, draw

if TYPE_CHECKING:
    from tele.cli.display import Display
    from tele.recording.playback import Step

SPEEDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SEEK_SECONDS: Final = 10.0
#: How long a message covers the last line.
NOTICE_SECONDS: Final = 2.0
#: Steps that are skipped before keys are read again.
_STEPS_BETWEEN_KEYS: Final = 64
#: Seconds between two snapshots for seeking back, and how many are kept.
_KEEP_SECONDS: Final = 10.0
_KEPT_LIMIT: Final = 32
#: Shorter waits are rounding errors.
_SHORTEST_WAIT: Final = 0.001
_HELP: Final = (
    "space pause  left/right 10 s  up/down or +/- speed  1-9 speed factor  . step  home/end  q quit"
)


@frozen
class _Snapshot:
    """The state before a step, for seeking back."""

    step: int
    at: float
    emulator: Emulator


class Player:
    """Plays ``steps``, which yields all of them again at each call. Times are in seconds."""

    def __init__(
        self,
        display: Display,
        steps: Callable[[], Iterator[Step]],
        speed: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display = display
        self._steps = steps
        self._clock = clock
        self._speed = speed
        self._paused = self._quit = False
        #: The position, and the time up to which output was applied.
        self._at = self._applied = 0.0
        self._emulator = Emulator(Screen(*display.size))
        self._snapshots: list[_Snapshot] = []
        self._keep_seconds = _KEEP_SECONDS
        self._drawn: list[str] = []
        self._left = self._top = 0
        self._notice, self._notice_until = "", 0.0

    def run(self) -> list[Line]:
        """Play until the end, or until ``q``; return the lines of the main screen."""
        while self._play():
            self._go_back()
        return self._emulator.screen.main_lines()

    def _play(self) -> bool:
        """Play from the last snapshot; True to seek back, False at the end."""
        first = self._snapshots[-1].step if self._snapshots else 0
        due = 0.0
        for number, step in enumerate(self._steps()):
            due += step.wait
            if number < first:
                continue
            if due > self._at or number % _STEPS_BETWEEN_KEYS == 0:
                self._wait(due)
            if self._quit or self._at < self._applied:
                return not self._quit
            self._save_snapshot(number, due)
            self._apply(step)
            self._applied = due
        self._draw()
        return False

    def _save_snapshot(self, number: int, due: float) -> None:
        """Take a snapshot from time to time; if there are many, half as often."""
        if not self._snapshots or due >= self._snapshots[-1].at + self._keep_seconds:
            self._snapshots.append(_Snapshot(number, due, self._emulator.copy()))
        if len(self._snapshots) > _KEPT_LIMIT:
            del self._snapshots[1::2]
            self._keep_seconds *= 2

    def _go_back(self) -> None:
        """Restore the last snapshot before the wanted time."""
        while len(self._snapshots) > 1 and self._snapshots[-1].at > self._at:
            self._snapshots.pop()
        snapshot = self._snapshots[-1]
        self._emulator, self._applied = snapshot.emulator.copy(), 0.0

    def _apply(self, step: Step) -> None:
        frame, screen = step.frame, self._emulator.screen
        if frame.kind in (FrameKind.OUTPUT, FrameKind.ERROR):
            self._emulator.feed(frame.data)
        elif frame.kind is FrameKind.RESIZE:
            self._resize(details(frame))
        elif frame.kind is FrameKind.OPEN:
            pty = terminal(details(frame))
            screen.newline = not pty  # without a terminal there are no carriage returns
            if pty:
                self._resize(pty)

    def _resize(self, size: dict[str, Any]) -> None:
        columns, rows = size.get("columns"), size.get("rows")
        if not isinstance(columns, int) or not isinstance(rows, int):
            return  # recordings are untrusted
        screen = self._emulator.screen
        screen.resize(columns, rows)
        here = self._display.size
        if screen.columns > here[0] or screen.rows > here[1]:
            self._show_notice(
                f"recorded at {screen.columns}x{screen.rows}, this terminal has"
                f" {here[0]}x{here[1]}: showing the part around the cursor"
            )

    # -- time and keys --------------------------------------------------------------------
    def _wait(self, due: float) -> None:
        """Wait until the time ``due``, or until a key seeks to another time."""
        while True:
            waits = due > self._at
            if waits:
                self._draw()
            since, speed, paused = self._clock(), self._speed, self._paused
            keys, again = self._display.wait(self._seconds(due) if waits else 0.0)
            if again:
                self._drawn = []  # after a stop, whose time does not count
            elif waits and not paused:
                self._at = min(due, self._at + (self._clock() - since) * speed)
            for key in keys:
                self._press(key, due)
            if self._quit or self._at < self._applied or self._at >= due:
                return

    def _seconds(self, due: float) -> float | None:
        """Return how long to wait for keys: until the next step, or the end of a message."""
        if self._paused:
            return None
        left = (due - self._at) / self._speed
        if self._notice:
            left = min(left, self._notice_until - self._clock())
        return max(left, _SHORTEST_WAIT)

    def _press(self, key: str, due: float) -> None:
        if key in ("q", "\x04"):
            self._quit = True
        elif key == "\x03":
            raise KeyboardInterrupt
        elif key == "\x1a":
            self._display.stop()
            self._drawn = []
        elif key in _ACTIONS:
            _ACTIONS[key](self, due)
        elif key in "123456789":
            self._set_speed(float(key))

    def _pause(self, due: float) -> None:
        self._paused = not self._paused
        self._show_notice("")

    def _faster(self, due: float) -> None:
        self._set_speed(next((s for s in SPEEDS if s > self._speed), self._speed))

    def _slower(self, due: float) -> None:
        self._set_speed(next((s for s in reversed(SPEEDS) if s < self._speed), self._speed))

    def _set_speed(self, speed: float) -> None:
        self._speed = speed
        self._show_notice(f"speed {speed:g}x")

    def _seek(self, at: float) -> None:
        self._at = max(0.0, at)
        self._show_notice("the end" if at == float("inf") else f"at {self._at:.0f} s")

    def _step(self, due: float) -> None:
        self._paused, self._at = True, max(self._at, due)

    def _help(self, due: float) -> None:
        self._show_notice(_HELP, 4 * NOTICE_SECONDS)

    def _show_notice(self, text: str, seconds: float = NOTICE_SECONDS) -> None:
        self._notice, self._notice_until = text, self._clock() + seconds

    # -- drawing --------------------------------------------------------------------------
    def _draw(self) -> None:
        """Update the terminal: lines that changed, and the cursor."""
        columns, rows = self._display.size
        screen = self._emulator.screen
        self._left = _window(self._left, columns, screen.columns, screen.column)
        self._top = _window(self._top, rows, screen.rows, screen.row)
        end = min(self._left + columns, screen.columns)
        shown = [draw(line, self._left, end) for line in screen.lines[self._top : self._top + rows]]
        shown += [""] * (rows - len(shown))
        if text := self._message():
            shown[-1] = f"\x1b[7m {text[: columns - 2]} \x1b[0m"
        out = ["\x1b[?25l"]
        if len(self._drawn) != rows:
            out.append("\x1b[0m\x1b[2J")
            self._drawn = [""] * rows
        for row, (old, new) in enumerate(zip(self._drawn, shown, strict=True)):
            if old != new:
                out.append(f"\x1b[{row + 1};1H\x1b[2K{new}")
        row, column = screen.row - self._top, screen.column - self._left
        if 0 <= row < rows and 0 <= column < columns and screen.visible:
            out.append(f"\x1b[{row + 1};{column + 1}H\x1b[?25h")
        self._drawn = shown
        self._display.write("".join(out).encode("utf-8", "replace"))

    def _message(self) -> str:
        """Return the message on the last line, or nothing."""
        if self._clock() >= self._notice_until:
            self._notice = ""
        if self._paused:
            return self._notice or f"paused at {self._at:.0f} s; space resumes, ? shows the keys"
        return self._notice


_ACTIONS: Final[dict[str, Callable[[Player, float], None]]] = {
    " ": Player._pause,
    "+": Player._faster,
    "=": Player._faster,
    "up": Player._faster,
    "-": Player._slower,
    "down": Player._slower,
    "right": lambda player, _: player._seek(player._at + SEEK_SECONDS),
    "left": lambda player, _: player._seek(player._at - SEEK_SECONDS),
    "home": lambda player, _: player._seek(0.0),
    "end": lambda player, _: player._seek(float("inf")),
    ".": Player._step,
    "?": Player._help,
    "h": Player._help,
}


def _window(start: int, length: int, total: int, cursor: int) -> int:
    """Return the start of a part of ``length`` with ``cursor``, moved as little as possible."""
    if total <= length:
        return 0
    start = max(min(start, cursor), cursor - length + 1)
    return max(0, min(start, total - length))
