"""Export of a recording as text, JSON lines or asciicast.

Invariants:

* ``text`` has no control sequences: it is safe in any terminal. Forwards have lines of their own,
  in brackets.
* Streams are decoded as UTF-8 across frames; invalid bytes are replaced by U+FFFD.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tele.model.codec import format_time
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.text import MARKS_LIMIT, printable, printable_json

_STREAMS: Final = {FrameKind.OUTPUT, FrameKind.ERROR}
_ABOUT_FORWARDS: Final = {FrameKind.OPEN, FrameKind.CLOSE, FrameKind.FORWARD}
_BYTES: Final = {FrameKind.OUTPUT, FrameKind.ERROR, FrameKind.INPUT}
SEQUENCE_LIMIT: Final = 4096


class PlainText:
    """Removes control sequences (ECMA-48) from terminal output."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = "text"
        self._length = 0
        self._carriage_return = False
        self._line_has_text = False
        self._before = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """Return the text of ``data``; a sequence may continue in the next call."""
        out: list[str] = []
        for character in self._decoder.decode(data, final):
            self._take(character, out)
        return "".join(out)

    def _take(self, character: str, out: list[str]) -> None:
        code = ord(character)
        if self._state != "text":
            self._length += 1
            self._within_sequence(character, code)
            return
        if character == "\x1b":
            self._state, self._length = "escape", 0
        elif character == "\x9b":
            self._state, self._length = "csi", 0
        elif character in "\x90\x98\x9d\x9e\x9f":
            self._state, self._length = "string", 0
        elif character == "\r":
            self._carriage_return = True
        elif character == "\n":
            out.append(character)
            self._carriage_return = self._line_has_text = False
        elif character == "\t" or len(shown := self._shown(character)) == 1:
            # A line that is redrawn becomes a new line.
            if self._carriage_return and self._line_has_text:
                out.append("\n")
            out.append(character if character == "\t" else shown)
            self._carriage_return, self._line_has_text = False, True

    def _shown(self, character: str) -> str:
        """Return what :func:`printable` makes of ``character`` after those before it."""
        if character.isascii():
            self._before = ""
            return printable(character)
        shown = printable(self._before + character)[len(self._before) :]
        if len(shown) == 1:
            self._before = (self._before + shown)[-MARKS_LIMIT:]
        return shown

    def _within_sequence(self, character: str, code: int) -> None:
        if self._length > SEQUENCE_LIMIT:
            self._state = "text"
        elif self._state == "escape":
            if character == "[":
                self._state = "csi"
            elif character in "P]X^_":
                self._state = "string"
            elif not 0x20 <= code < 0x30:
                self._state = "text"
        elif self._state == "csi":
            if not 0x20 <= code < 0x40:
                self._state = "text"
                # The cursor moves to another line.
                self._carriage_return |= character in "ABEFHdf"
        elif character in "\x07\x9c":
            self._state = "text"
        elif character == "\x1b":
            self._state = "string-escape"
        elif self._state == "string-escape":
            self._state = "text" if character == "\\" else "string"


def text(frames: Iterable[Frame], channel: int = 0) -> Iterator[str]:
    """Yield the text of the session, of one channel or (0) of all."""
    streams: dict[tuple[int, FrameKind], PlainText] = {}
    forwards: set[int] = set()
    at_start = True
    for frame in frames:
        if channel not in (0, frame.channel):
            continue
        if frame.kind in _STREAMS:
            plain = streams.setdefault((frame.channel, frame.kind), PlainText())
            shown = plain.feed(frame.data)
        else:
            line = _forward_line(frame, forwards)
            shown = line if at_start or not line else f"\n{line}"
        at_start = shown.endswith("\n") if shown else at_start
        yield shown
    for plain in streams.values():
        yield plain.feed(b"", final=True)


def _forward_line(frame: Frame, forwards: set[int]) -> str:
    """Return the line of a forward in ``text``, or nothing. ``forwards`` are the open ones."""
    fields = details(frame) if frame.kind in _ABOUT_FORWARDS else {}
    kind = fields.pop("kind", "")
    if frame.kind is FrameKind.FORWARD:
        return _bracketed(f"{kind} {fields.pop('action', '')}", fields)
    if frame.kind is FrameKind.OPEN and kind == "forward":
        forwards.add(frame.channel)
        return _bracketed(f"{fields.pop('forward', '')} open", {"channel": frame.channel} | fields)
    if frame.kind is FrameKind.CLOSE and frame.channel in forwards:
        forwards.discard(frame.channel)
        return _bracketed("forward close", {"channel": frame.channel} | fields)
    return ""


def _bracketed(what: str, fields: dict[str, Any]) -> str:
    values = " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    # JSON escapes the values; printable() escapes the rest.
    return printable(f"[{what}: {values}]") + "\n"


def json_lines(frames: Iterable[Frame]) -> Iterator[str]:
    """Yield one line of JSON for each frame; ``time`` in seconds, bytes as text."""
    for frame in frames:
        row: dict[str, Any] = {
            "time": round(frame.time / 1e9, 6),
            "channel": frame.channel,
            "frame": frame.kind.name.lower(),
        }
        if frame.kind in _BYTES:
            row["data"] = frame.data.decode("utf-8", "surrogateescape")
        else:
            row.update(details(frame))
        yield printable_json(row) + "\n"


def details(frame: Frame) -> dict[str, Any]:
    """Return the JSON object of a frame; empty if it has none."""
    try:
        value = json.loads(frame.data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def terminal(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the terminal in the frame that opens a channel; empty without one."""
    pty = fields.get("pty")
    return pty if isinstance(pty, dict) else {}


def is_forward(frame: Frame) -> bool:
    """Whether a frame opens the channel of a forward, which has no terminal."""
    return details(frame).get("kind") == "forward"


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
        elif frame.kind in _STREAMS:
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
