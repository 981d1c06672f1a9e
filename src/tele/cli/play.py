"""How is a session replayed? In a terminal with its own timing, or as text, JSON, asciicast.

Laws of this file:

* The terminal is put back as it was, whatever happens.
* What is replayed may do to a terminal what the session did to its own: that is what
  ``pty`` is. ``text`` lets nothing through but text.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from tele.cli.output import say
from tele.cli.recordings import open_source
from tele.cli.session import Where, where_options
from tele.errors import InvalidInput
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.playback import Source, Step

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SEEK_SECONDS = 10.0
#: Leave the alternate screen (1047, not 1049: that would put the cursor where it was once
#: saved, on top of what the replay has just shown), scroll all of the screen again with the
#: cursor where it is, reset attributes, show the cursor; keys, mouse, focus and paste as usual.
_LEAVE = (
    b"\x1b[?1047l\x1b7\x1b[r\x1b8\x1b[0m\x1b[?25h\x1b[?1l\x1b>"
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l"
)
#: The same, and clear screen and scrollback.
_RESET = _LEAVE + b"\x1bc"


@click.command()
@click.argument("recording")
@click.option("--speed", type=click.FloatRange(0.05, 1000), help="Times as fast; pty only.")
@click.option(
    "--idle-limit", type=click.FloatRange(0), help="Wait no longer than S seconds; pty only."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["pty", "text", "json", "cast"]),
    default=None,
    help="Default: pty on a terminal, text elsewhere.",
)
@click.option("--channel", type=click.IntRange(0), default=0, help="Default: the first one.")
@where_options(local=True)
def play(
    recording: str,
    speed: float | None,
    idle_limit: float | None,
    form: str | None,
    channel: int,
    where: Where,
) -> None:
    """Replay RECORDING: an id, the beginning of one, or a .tape file.

    Keys: space pauses, left and right go 10 s back and on, + and - change the speed, q ends.
    """
    form = form or ("pty" if sys.stdout.isatty() else "text")
    if form != "pty" and (speed, idle_limit) != (None, None):
        raise InvalidInput(
            f"--speed and --idle-limit are for --format pty, which shows a session in its own time;"
            f" this is {form}"
        )
    with open_source(recording, where) as (source, _):
        if source.lost:
            say(f"this recording is incomplete: {printable(source.lost)}")
        elif source.manifest is None:
            say("this recording is not complete yet: it is shown as far as it goes")
        if form == "pty":
            _play(source, channel, speed or 1.0, idle_limit)
            return
        for part in rendered(source, form, channel):
            sys.stdout.buffer.write(part.encode("utf-8", "surrogateescape"))


def rendered(source: Source, form: str, channel: int) -> Iterator[str]:
    """Give a recording as ``text``, ``json`` (lines) or ``cast``."""
    from tele.tape import export

    if form == "cast":
        return export.asciicast(source.start, source.frames(), channel)
    if form == "json":
        return export.json_lines(f for f in source.frames() if channel in (0, f.channel))
    return export.text(source.frames(), channel)


def _play(source: Source, channel: int, speed: float, idle_limit: float | None) -> None:
    from tele.recording.playback import schedule

    with _keys() as keys:
        player = _Player(keys, speed)
        _notice_size(source, channel)
        while True:
            outcome = player.run(schedule(source.frames(), channel, idle_limit))
            if outcome is None:
                break
    if sys.stdout.isatty():
        sys.stdout.buffer.write(_LEAVE)
        sys.stdout.buffer.flush()


def _notice_size(source: Source, channel: int) -> None:
    """Say when this terminal is smaller than the recorded one."""
    from tele.model.frame import FrameKind
    from tele.tape.export import details, is_forward, terminal

    if not sys.stdout.isatty():
        return
    for frame in source.frames():
        if frame.kind is FrameKind.OPEN and channel in (0, frame.channel):
            if channel == 0 and is_forward(frame):
                continue
            pty = terminal(details(frame))
            here = os.get_terminal_size(sys.stdout.fileno())
            columns, rows = pty.get("columns"), pty.get("rows")
            if not isinstance(columns, int) or not isinstance(rows, int):
                return  # a recording says what it likes
            if columns > here.columns or rows > here.lines:
                say(
                    f"recorded at {columns}x{rows}, this terminal has"
                    f" {here.columns}x{here.lines}: it may look wrong"
                )
                time.sleep(1.5)
            return


class _Player:
    """Shows steps in their time and does what keys say."""

    def __init__(self, keys: int | None, speed: float) -> None:
        self._keys = keys
        self._speed = speed
        self._paused = False
        self._skip_to = 0.0
        self._at = 0.0

    def run(self, steps: Iterator[Step]) -> bool | None:
        """Show ``steps``; None at the end or when asked to end, True to begin again."""
        from tele.model.frame import FrameKind

        out = sys.stdout.buffer
        shown = 0.0
        for step in steps:
            if shown >= self._skip_to or step.at > self._skip_to:
                outcome = self._wait(step.wait if step.at > self._skip_to else 0.0)
                if outcome is not None:
                    if outcome:
                        out.write(_RESET)
                        return True
                    return None
            shown = self._at = step.at
            if step.frame.kind in (FrameKind.OUTPUT, FrameKind.ERROR):
                out.write(step.frame.data)
                if step.at >= self._skip_to:
                    out.flush()
        out.flush()
        return None

    def _wait(self, seconds: float) -> bool | None:
        """Wait; None when the time is over, True to seek back, False to end."""
        if self._keys is None:
            time.sleep(seconds / self._speed)
            return None
        left = seconds  # of the session, whatever the speed
        while True:
            since, speed, paused = time.monotonic(), self._speed, self._paused
            pressed = self._ready(None if paused else max(0.0, left) / speed)
            if not paused:
                left -= (time.monotonic() - since) * speed
            if not pressed:
                return None
            outcome = self._key()
            if outcome is not None:
                return outcome
            if self._skip_to > self._at:
                return None

    def _ready(self, seconds: float | None) -> bool:
        return self._keys is not None and bool(select.select([self._keys], [], [], seconds)[0])

    def _key(self) -> bool | None:
        pressed = os.read(self._keys or 0, 16)
        if not pressed or pressed in (b"q", b"\x03", b"\x04"):
            return False
        if pressed == b" ":
            self._paused = not self._paused
        elif pressed in (b"+", b"="):
            self._speed = next((s for s in SPEEDS if s > self._speed), self._speed)
        elif pressed == b"-":
            self._speed = next((s for s in reversed(SPEEDS) if s < self._speed), self._speed)
        elif pressed == b"\x1b[C":
            self._skip_to = self._at + SEEK_SECONDS
        elif pressed == b"\x1b[D":
            self._skip_to = max(0.0, self._at - SEEK_SECONDS)
            return True
        return None


@contextmanager
def _keys() -> Iterator[int | None]:
    """Give a descriptor of the terminal to read keys from, or None; put it back after."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
