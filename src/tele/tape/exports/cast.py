"""Export of a recording as asciicast: what one terminal showed.

Invariant: the stream is decoded as UTF-8 across frames; invalid bytes are replaced by U+FFFD.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

from tele.model.codec import format_time
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.tape.details import STREAMS, details, is_forward, terminal
from tele.text import printable_json


def asciicast(start: RecordingStart, frames: Iterable[Frame], channel: int = 0) -> Iterator[str]:
    """Yield asciicast v2 lines of one terminal: of the first one if ``channel`` is 0."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    started = False
    for frame in frames:
        if frame.kind is FrameKind.OPEN and not started and channel in (0, frame.channel):
            if channel == 0 and is_forward(frame):
                continue
            fields = details(frame)
            channel = frame.channel
            yield printable_json(_cast_head(start, fields, terminal(fields))) + "\n"
            started = True
        elif not started or frame.channel != channel:
            continue
        elif frame.kind in STREAMS:
            shown = decoder.decode(frame.data)
            if shown:
                yield printable_json([round(frame.time / 1e9, 6), "o", shown]) + "\n"
        elif frame.kind is FrameKind.RESIZE:
            size = details(frame)
            shown = f"{size.get('columns', 80)}x{size.get('rows', 24)}"
            yield printable_json([round(frame.time / 1e9, 6), "r", shown]) + "\n"
    if not started:
        yield printable_json(_cast_head(start, {}, {})) + "\n"


def _cast_head(
    start: RecordingStart, fields: dict[str, Any], pty: dict[str, Any]
) -> dict[str, Any]:
    head: dict[str, Any] = {
        "version": 2,
        "width": pty.get("columns") or 80,
        "height": pty.get("rows") or 24,
        "timestamp": int(start.started.timestamp()),
        "title": f"{start.user} as {start.login} on {start.node}, {format_time(start.started)}",
        "env": {"TERM": pty.get("term") or "xterm"},
    }
    if fields.get("command"):
        head["command"] = fields["command"]
    return head
