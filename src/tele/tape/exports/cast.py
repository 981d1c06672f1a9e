"""Export of a recording as asciicast: what one terminal showed.

Versions 2 and 3 of the format: https://docs.asciinema.org/manual/asciicast/v2/ and ``v3``.

Invariants:

* Each stream is decoded as UTF-8 across frames; invalid bytes are replaced by U+FFFD.
* What had no terminal is shown as a terminal would: lines begin at the left.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tele.model.codec import format_time
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.tape.details import STREAMS, details, is_forward, terminal, terminal_size
from tele.text import printable_json

VERSIONS: Final = (2, 3)
#: The size of a terminal that is not known.
_SIZE: Final = (80, 24)


def asciicast(
    start: RecordingStart, frames: Iterable[Frame], channel: int = 0, *, version: int = 2
) -> Iterator[str]:
    """Yield the lines of one terminal: of the first one if ``channel`` is 0.

    ``version`` is one of :data:`VERSIONS`.
    """
    cast: _Cast | None = None
    for frame in frames:
        if frame.kind is FrameKind.OPEN and cast is None and channel in (0, frame.channel):
            if channel == 0 and is_forward(frame):
                continue
            fields = details(frame)
            channel = frame.channel
            cast = _Cast(version, has_terminal=bool(terminal(fields)))
            yield _line(_head(version, start, fields, terminal(fields)))
        elif cast is None or frame.channel != channel:
            continue
        elif frame.kind in STREAMS:
            yield from cast.output(frame)
        elif frame.kind is FrameKind.RESIZE:
            columns, rows = terminal_size(details(frame)) or _SIZE
            yield from cast.event(frame.time, "r", f"{columns}x{rows}")
        elif frame.kind is FrameKind.EXIT and version >= 3:
            yield from cast.exit(frame)
    if cast is None:
        yield _line(_head(version, start, {}, {}))
    else:
        yield from cast.rest()


def _line(value: Any) -> str:
    return printable_json(value) + "\n"


class _Cast:
    """The events of one terminal, of one version."""

    def __init__(self, version: int, *, has_terminal: bool) -> None:
        self._version = version
        self._has_terminal = has_terminal
        self._decoders: dict[FrameKind, codecs.IncrementalDecoder] = {}
        #: When the last event was, in nanoseconds; its written time, rounded, in microseconds.
        self._time = 0
        self._written = 0
        self._ended = False

    def event(self, time: int, code: str, data: str) -> Iterator[str]:
        """Yield an event: with its time in version 2, since the one before in version 3."""
        self._time = time
        micros = round(time / 1000)
        shown, self._written = micros - (self._written if self._version >= 3 else 0), micros
        if not self._ended:
            yield _line([shown / 1e6, code, data])

    def output(self, frame: Frame) -> Iterator[str]:
        """Yield what a program wrote, as far as it is whole characters."""
        decoder = self._decoders.get(frame.kind)
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[frame.kind] = decoder
        if shown := self._shown(decoder.decode(frame.data)):
            yield from self.event(frame.time, "o", shown)

    def _shown(self, text: str) -> str:
        return text if self._has_terminal else text.replace("\n", "\r\n")

    def exit(self, frame: Frame) -> Iterator[str]:
        """Yield the exit status, after which there is nothing."""
        status = details(frame).get("status")
        yield from self.rest()
        yield from self.event(frame.time, "x", str(status if type(status) is int else 255))
        self._ended = True

    def rest(self) -> Iterator[str]:
        """Yield what was no whole character."""
        decoders, self._decoders = self._decoders, {}
        for decoder in decoders.values():
            if shown := self._shown(decoder.decode(b"", final=True)):
                yield from self.event(self._time, "o", shown)


def _head(
    version: int, start: RecordingStart, fields: dict[str, Any], pty: dict[str, Any]
) -> dict[str, Any]:
    columns, rows = terminal_size(pty) or _SIZE
    columns, rows = columns or _SIZE[0], rows or _SIZE[1]
    kind = pty.get("term") or "xterm"
    head: dict[str, Any] = {"version": version}
    if version >= 3:
        head["term"] = {"cols": columns, "rows": rows, "type": kind}
    else:
        head |= {"width": columns, "height": rows, "env": {"TERM": kind}}
    head["timestamp"] = int(start.started.timestamp())
    head["title"] = f"{start.user} as {start.login} on {start.node}, {format_time(start.started)}"
    if fields.get("command"):
        head["command"] = fields["command"]
    return head
