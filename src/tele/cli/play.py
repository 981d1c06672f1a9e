"""``tele play``: replay a recording in a terminal, or print it as text, JSON or asciicast.

Invariant: no format sends a control sequence of the session to the terminal. ``pty`` draws the
session's screen, ``text`` prints text only.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from tele.cli.auth_client import Where, where_options
from tele.cli.lists import FiniteRange, read_at
from tele.cli.recordings import identity_option, note_what_is_missing, open_source
from tele.errors import InvalidInput

if TYPE_CHECKING:
    from tele.cli.positions import Positions
    from tele.recording.local_index import LocalIndex
    from tele.recording.playback import Perform, Source


@click.command()
@click.argument("recording")
@click.option("--speed", type=FiniteRange(0.05, 1000), help="Speed factor; pty only.")
@click.option("--idle-limit", type=FiniteRange(0), help="Cut pauses to S seconds; pty only.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pty", "text", "json", "cast", "cast2", "cast3"]),
    default=None,
    help="Default: pty on a terminal, text elsewhere.",
)
@click.option("--at", metavar="TIME", callback=read_at, help="Begin there: 12:41, 1:02:03, 90s.")
@click.option("--times", is_flag=True, help="Begin each line with its time; text only.")
@click.option("--channel", type=click.IntRange(0), default=0, help="Default: the first one.")
@identity_option
@where_options(local=True)
def play(
    recording: str,
    speed: float | None,
    idle_limit: float | None,
    form: str | None,
    at: float | None,
    times: bool,
    channel: int,
    identity: Path | None,
    where: Where,
) -> None:
    """Replay RECORDING: an id, the beginning of one, or a .tape file.

    A session that still runs is shown as it is now, and followed until it ends.

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
    if form not in ("pty", "text") and at is not None:
        raise InvalidInput(f"--at is for --format pty and text only; this is {form}")
    if times and form != "text":
        raise InvalidInput(f"--times is for --format text only; this is {form}")
    with open_source(recording, where, identity) as (source, authority):
        note_what_is_missing(source)
        if form == "pty":
            perform = None if authority is None else authority.perform
            wanted = _Wanted(channel, speed or 1.0, idle_limit, at)
            if perform is not None:
                _play(wanted, source, perform)
                return
            from tele.recording.local_index import LocalIndex

            with closing(LocalIndex(Path(recording), source)) as index:
                index.start()
                _play(wanted, source, None, index)
            return
        for part in source.rendered(form, channel, times=times, at=at or 0.0):
            sys.stdout.buffer.write(part.encode("utf-8", "surrogateescape"))


class _Wanted(NamedTuple):
    """What is played, and how; times are in seconds."""

    channel: int
    speed: float
    idle_limit: float | None
    at: float | None


def _play(
    wanted: _Wanted, source: Source, perform: Perform | None, index: LocalIndex | None = None
) -> None:
    """Replay on this terminal, and print the session's main screen at the end."""
    from tele.cli.display import taken_over
    from tele.cli.player import Player
    from tele.terminal.line import draw

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    with taken_over(keys, sys.stdout.fileno()) as display:
        positions, at = _positions(wanted, source, perform, display.size, index)
        lines = Player(display, positions, wanted.speed, at=at).run()
    for line in lines:
        text = draw(line, 0, len(line.texts), aligned=False)
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")


def _positions(
    wanted: _Wanted,
    source: Source,
    perform: Perform | None,
    size: tuple[int, int],
    index: LocalIndex | None,
) -> tuple[Positions, float]:
    """Return where a replay can begin, and the time at which it does."""
    from tele.cli.positions import IndexedPositions, KeptPositions, LocalPositions
    from tele.model.session import RecordingState
    from tele.recording.follow import Following
    from tele.recording.playback import schedule
    from tele.recording.seek import open_seekable

    at, channel, idle_limit = wanted.at, wanted.channel, wanted.idle_limit
    if perform is not None and source.state is RecordingState.RUNNING:
        following = Following(source, perform, time.monotonic)
        here = following.edge() if at is None else at
        return KeptPositions(lambda: following.steps(channel), size), here
    seekable = open_seekable(source, perform)
    if seekable is not None and seekable.has_terminal(channel):
        return IndexedPositions(seekable, channel, idle_limit), at or 0.0
    steps = lambda: schedule(source.frames(), channel, idle_limit)  # noqa: E731
    kept = KeptPositions(steps, size, source.length)
    if index is None:
        return kept, at or 0.0
    return LocalPositions(kept, index, channel, idle_limit), at or 0.0
