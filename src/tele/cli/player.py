"""The player of recordings in a terminal, with its keys.

Recorded output is applied to a screen in memory (:mod:`tele.terminal`), and that screen is drawn on
the terminal.

Invariants:

* Only characters of the screen and their style reach the terminal: a recording cannot switch modes
  or request a reply.
* A terminal of any size shows the recorded screen, or the part of it around the cursor.
* Every key that is pressed counts, even if many arrive at once.
* Times are those of the session, in seconds. Shortened pauses shorten the wait, not the session.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tele.cli.searching import Prompt, Search
from tele.cli.view import View, clock_text
from tele.model.frame import FrameKind
from tele.tape.details import details, terminal
from tele.tape.exports.binary import BINARY_LINE, is_binary
from tele.tape.exports.summary import summary
from tele.terminal.emulator import Emulator
from tele.terminal.line import Line
from tele.terminal.screen import Screen

if TYPE_CHECKING:
    from tele.cli.display import Display
    from tele.cli.positions import Positions
    from tele.recording.playback import Step

SPEEDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SEEK_SECONDS: Final = 10.0
END: Final = float("inf")
#: How long a message is shown.
NOTICE_SECONDS: Final = 2.0
#: How often the position is drawn while nothing else changes.
_STATUS_SECONDS: Final = 1.0
#: Steps that are skipped before keys are read again.
_STEPS_BETWEEN_KEYS: Final = 64
#: Shorter waits are rounding errors.
_SHORTEST_WAIT: Final = 0.001
#: The keys and what they do; a narrow terminal shows them in several lines.
_HELP: Final = (
    "space pause", "left/right 10 s", "up/down or +/- speed", "1-9 speed", ". step", "g start",
    "G end", "/ search", "n next", "N before", "s status", "q quit",
)  # fmt: skip


class Player:
    """Plays from ``at``, in seconds."""

    def __init__(
        self,
        display: Display,
        positions: Positions,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        at: float = 0.0,
    ) -> None:
        self._display = display
        self._positions = positions
        self._clock = clock
        self._speed = speed
        self._paused = self._quit = False
        #: The position, and the time up to which output was applied.
        self._at, self._applied = at, 0.0
        self._emulator = Emulator(Screen(*display.size))
        self._view = View(display)
        self._notice, self._notice_until = "", 0.0
        #: Keys that were pressed and not done yet.
        self._keys: deque[str] = deque()
        self._prompt: Prompt | None = None
        self._search: Search | None = None
        self._pattern = ""
        #: Whether playing has to begin at another position.
        self._moved = False
        self._shows_status = True
        #: Streams of programs without a terminal whose last output was data.
        self._binary: set[tuple[int, FrameKind]] = set()

    def run(self) -> list[Line]:
        """Play until the end, or until ``q``; return the lines of the main screen."""
        while self._play():
            pass
        return self._emulator.screen.main_lines()

    def _play(self) -> bool:
        """Play from the position; True to play from another one, False at the end."""
        begun = self._positions.begin(self._at)
        self._emulator, self._applied, self._moved = begun.emulator, begun.at, False
        self._view.forget()
        self._binary.clear()
        for number, step in begun.steps:
            if step.edge:
                self._at = min(self._at, step.at)  # a session that runs: the end is not there yet
                if self._search is not None:
                    self._give_up(self._search)  # what comes later is not waited for
                    return True
            if self._search is not None:
                self._look(number)
            elif step.at > self._at or number % _STEPS_BETWEEN_KEYS == 0:
                self._wait(step)
            if self._quit or self._moved:
                return not self._quit
            if not step.edge:
                self._positions.passed(number, step.at, self._emulator)
                self._apply(step)
            self._applied = step.at
            if self._search is not None and self._searched(self._search):
                return True
        return self._end()

    def _end(self) -> bool:
        """Stay at the end, if that was asked for; True to play from another position."""
        self._positions.length = max(self._applied, self._positions.length or 0.0)
        if self._search is not None:
            self._give_up(self._search)
            return True
        self._at = min(self._at, self._applied) if self._at != END else self._applied
        while self._stays():
            self._draw()
            self._receive(self._notice_left())
            self._press_all(self._applied)
        self._draw()
        return self._moved and not self._quit

    def _stays(self) -> bool:
        return self._paused and not self._quit and not self._moved

    def _apply(self, step: Step) -> None:
        frame, screen = step.frame, self._emulator.screen
        if frame.kind in (FrameKind.OUTPUT, FrameKind.ERROR):
            stream = frame.channel, frame.kind
            if screen.newline and is_binary(frame.data):
                if stream not in self._binary:
                    self._write_line(BINARY_LINE)
                self._binary.add(stream)
                return
            self._binary.discard(stream)
            self._emulator.feed(frame.data)
        elif frame.kind is FrameKind.RESIZE:
            self._resize(details(frame))
        elif frame.kind is FrameKind.OPEN and (pty := terminal(details(frame))):
            screen.newline = False
            self._resize(pty)
        elif text := summary(frame):
            screen.newline = True  # without a terminal there are no carriage returns
            self._write_line(text)
        elif frame.kind is FrameKind.OPEN:
            screen.newline = True

    def _write_line(self, text: str) -> None:
        """Show a line of ours, in brackets, among what programs wrote."""
        before = "\n" if self._emulator.screen.column else ""
        line = f"{before}\x1b[0;2m[{text}]\x1b[0m\n"
        self._emulator.feed(line.encode("utf-8", "replace"))

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
    def _wait(self, step: Step) -> None:
        """Wait until a step is due, or until a key leads elsewhere."""
        due = step.at
        while True:
            gap = due - max(self._applied, 0.0)
            # A pause that is shortened passes faster.
            rate = gap / step.wait if step.wait > 0 and gap > 0 else END
            waits = due > self._at and (rate != END or self._paused)
            if waits:
                self._draw()
            since, speed, paused = self._clock(), self._speed, self._paused
            again = self._receive(self._seconds(due, rate) if waits else 0.0)
            if waits and not paused and not again:  # the time of a stop does not count
                self._at = min(due, self._at + (self._clock() - since) * speed * rate)
            elif not waits and not paused:
                self._at = max(self._at, due)
            self._press_all(due)
            if self._quit or self._moved or (self._at >= due and self._prompt is None):
                return

    def _receive(self, seconds: float | None) -> bool:
        """Wait for keys; returns whether all has to be drawn anew, as after a stop."""
        keys, again = self._display.wait(0.0 if self._keys else seconds)
        self._keys.extend(keys)
        if again:
            self._view.forget()
        return again

    def _press_all(self, due: float) -> None:
        """Do what the keys say; those after a search wait until it is over."""
        while self._keys and self._search is None and not self._quit:
            self._press(self._keys.popleft(), due)

    def _seconds(self, due: float, rate: float) -> float | None:
        """Return how long to wait for keys: until the next step, or something is to be drawn."""
        if self._paused:
            return self._notice_left()
        left = (due - self._at) / (self._speed * rate)
        if self._shows_status:
            left = min(left, _STATUS_SECONDS)
        if (notice := self._notice_left()) is not None:
            left = min(left, notice)
        return max(left, _SHORTEST_WAIT)

    def _notice_left(self) -> float | None:
        """Return how long the message is still shown; None without one."""
        if not self._notice:
            return None
        return max(self._notice_until - self._clock(), _SHORTEST_WAIT)

    def _press(self, key: str, due: float) -> None:
        if self._prompt is not None:
            self._type(self._prompt, key)
        elif key in ("q", "\x04"):
            self._quit = True
        elif key == "\x03":
            raise KeyboardInterrupt
        elif key == "\x1a":
            self._display.stop()
            self._view.forget()
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
        self._show_notice("" if self._shows_status else f"speed {speed:g}x")

    def _seek(self, at: float) -> None:
        self._at = max(0.0, at)
        self._moved = self._at < self._applied or self._positions.is_far(self._applied, self._at)
        self._paused = self._paused or at == END
        self._show_notice("the end" if at == END else f"at {clock_text(self._at)}")

    def _step(self, due: float) -> None:
        self._paused, self._at = True, max(self._at, due)

    def _help(self, due: float) -> None:
        self._show_notice(", ".join(_HELP), 4 * NOTICE_SECONDS)

    def _toggle_status(self, due: float) -> None:
        self._shows_status = not self._shows_status
        self._show_notice("")

    # -- searching ------------------------------------------------------------------------
    def _ask(self, due: float) -> None:
        self._prompt = Prompt()

    def _type(self, prompt: Prompt, key: str) -> None:
        pattern = prompt.press(key)
        if pattern is None:
            return
        self._prompt = None
        if pattern:
            self._pattern = pattern
            self._begin_search(before=False)

    def _next(self, due: float) -> None:
        self._begin_search(before=False)

    def _previous(self, due: float) -> None:
        self._begin_search(before=True)

    def _begin_search(self, *, before: bool) -> None:
        if not self._pattern:
            self._show_notice("nothing to search for: / asks for it")
            return
        here = self._applied if self._at == END else self._at
        self._search = search = Search(self._pattern, here, before)
        self._paused = True
        self._at, self._moved = (0.0 if before else here), True
        if not before:
            search.take(self._emulator.screen, here)  # what is on the screen now does not count

    def _look(self, number: int) -> None:
        """Read keys while searching: any of them ends the search."""
        if number % _STEPS_BETWEEN_KEYS or self._search is None:
            return
        if number % (_STEPS_BETWEEN_KEYS * 16) == 0:
            self._draw()
        keys, again = self._display.wait(0.0)
        if again:
            self._view.forget()
        if keys:
            if "\x1a" in keys:
                self._press("\x1a", self._applied)
            self._at, self._moved, self._search = self._search.origin, True, None
            self._show_notice("search ended")

    def _searched(self, search: Search) -> bool:
        """Look at the screen after a step; True to play from another position."""
        if self._applied < search.origin and not search.before:
            return False
        if not search.take(self._emulator.screen, self._applied):
            return False
        if search.found is None:
            self._give_up(search)
            return True
        self._found(search.pattern, search.found)
        return search.before

    def _found(self, pattern: str, at: float) -> None:
        self._search, self._at = None, at
        self._show_notice(f"{pattern!r} at {clock_text(at)}; n is the next one")

    def _give_up(self, search: Search) -> None:
        """End a search at the last time that it found, or where it began."""
        self._moved = True
        if search.found is not None:
            self._found(search.pattern, search.found)
            return
        self._search, self._at = None, search.origin
        where = "before" if search.before else "after"
        self._show_notice(f"{search.pattern!r} does not appear {where} {clock_text(self._at)}")

    def _show_notice(self, text: str, seconds: float = NOTICE_SECONDS) -> None:
        self._notice, self._notice_until = text, self._clock() + seconds

    # -- drawing --------------------------------------------------------------------------
    def _draw(self) -> None:
        if self._clock() >= self._notice_until:
            self._notice = ""
        status, message = "", self._notice
        if self._prompt is not None:
            message = f"/{self._prompt.text}"
        elif self._search is not None:
            message = f"searching {self._search.pattern!r}, any key ends it"
        elif self._paused and not message and not self._shows_status:
            message = f"paused at {clock_text(self._at)}; space resumes, ? shows the keys"
        if self._shows_status:
            at = self._applied if self._search is not None or self._at == END else self._at
            length = self._positions.length
            state = "paused" if self._paused else "playing"
            if self._paused and length is not None and at >= length:
                state = "end"
            whole = "" if length is None else f" / {clock_text(max(length, at))}"
            status = f"{state} {clock_text(at)}{whole}  {self._speed:g}x"
        self._view.draw(self._emulator.screen, status, message)


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
    "g": lambda player, _: player._seek(0.0),
    "end": lambda player, _: player._seek(END),
    "G": lambda player, _: player._seek(END),
    ".": Player._step,
    "/": Player._ask,
    "n": Player._next,
    "N": Player._previous,
    "s": Player._toggle_status,
    "?": Player._help,
    "h": Player._help,
}
