"""``tele play``: replay a recording in a terminal, or print it as text, JSON or asciicast.

Invariant: no format sends a control sequence of the session to the terminal. ``pty`` draws the
session's screen, ``text`` prints text only.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from tele.cli.auth_client import Where, where_options
from tele.cli.output import print_notice
from tele.cli.recordings import open_source
from tele.errors import InvalidInput
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.playback import Source


@click.command()
@click.argument("recording")
@click.option("--speed", type=click.FloatRange(0.05, 1000), help="Speed factor; pty only.")
@click.option("--idle-limit", type=click.FloatRange(0), help="Cut pauses to S seconds; pty only.")
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

    The last line shows the position, the length and the speed; s hides it. Keys: space pauses, left
    and right seek by 10 s, g and G (or home and end) go to the start and the end, up and down (or +
    and -) change the speed, 1 to 9 set it, . shows the next step, / searches what the terminal
    showed, n and N find the next and the one before, ? shows the keys, q quits.

    Programs without a terminal and file transfers are listed, with what was copied and their exit
    status.
    """
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    form = form or ("pty" if on_terminal else "text")
    if form == "pty" and not on_terminal:
        raise InvalidInput(
            "--format pty needs a terminal; choose text, json or cast, or export the recording:"
            " tele recordings export"
        )
    if form != "pty" and (speed, idle_limit) != (None, None):
        raise InvalidInput(f"--speed and --idle-limit are for --format pty only; this is {form}")
    with open_source(recording, where) as (source, _):
        if source.lost:
            print_notice(f"this recording is incomplete: {printable(source.lost)}")
        elif source.manifest is None:
            print_notice("this recording is not complete yet")
        if form == "pty":
            _play(source, channel, speed or 1.0, idle_limit)
            return
        for part in source.rendered(form, channel):
            sys.stdout.buffer.write(part.encode("utf-8", "surrogateescape"))


def _play(source: Source, channel: int, speed: float, idle_limit: float | None) -> None:
    """Replay on this terminal, and print the session's main screen at the end."""
    from tele.cli.display import taken_over
    from tele.cli.player import Player
    from tele.cli.positions import KeptPositions
    from tele.recording.playback import schedule
    from tele.terminal.screen import draw

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    with taken_over(keys, sys.stdout.fileno()) as display:
        positions = KeptPositions(
            lambda: schedule(source.frames(), channel, idle_limit), display.size, source.length
        )
        lines = Player(display, positions, speed).run()
    for line in lines:
        text = draw(line, 0, len(line.texts), aligned=False)
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
