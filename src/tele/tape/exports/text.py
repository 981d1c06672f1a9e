"""Export of a recording as text.

Invariants:

* The text has no control sequences: it is safe in any terminal. Forwards, files and commands
  without a terminal have lines of their own, in brackets.
* Streams are decoded as UTF-8 across frames; invalid bytes are replaced by U+FFFD. Data that is no
  text is one line in brackets.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from tele.model.frame import Frame, FrameKind
from tele.tape.details import STREAMS, details, terminal_size
from tele.tape.exports.binary import BINARY_LINE, is_binary
from tele.tape.exports.summary import opens_terminal, summary
from tele.tape.exports.transcript import Shown, Transcript
from tele.text import MARKS_LIMIT, printable

_ABOUT_FORWARDS: Final = {FrameKind.OPEN, FrameKind.CLOSE, FrameKind.FORWARD}
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


def text(
    frames: Iterable[Frame], channel: int = 0, *, times: bool = False, at: float = 0.0
) -> Iterator[str]:
    """Yield the text of the session, of one channel or (0) of all.

    Of a terminal that is what it showed, line by line; of a program without one, what it wrote.
    With ``times`` each line begins with the time in the session. What was finished earlier than
    ``at`` seconds is left out.
    """
    streams = _Streams()
    forwards: set[int] = set()
    at_start = True
    last = 0
    for frame in frames:
        if channel not in (0, frame.channel):
            continue
        last = frame.time
        begins = f"[{_clock(frame.time)}] " if times else ""
        if frame.kind in STREAMS or frame.kind is FrameKind.RESIZE:
            parts = streams.take(frame)
        else:
            parts = streams.close(frame)
            streams.open(frame)
            line = _forward_line(frame, forwards) or _summary_line(frame)
            if line:
                parts = chain(parts, (_OWN_LINE, line))
        for part in parts:
            if frame.time < at * 1e9:
                continue
            if part is _OWN_LINE:
                shown = "" if at_start else "\n"
            else:
                shown = _with_times(part, begins, at_start) if times else part
            at_start = shown.endswith("\n") if shown else at_start
            yield shown
    begins = f"[{_clock(last)}] " if times else ""
    for part in streams.end():
        yield _with_times(part, begins, at_start) if times else part
        at_start = part.endswith("\n") if part else at_start


#: Stands for the end of a line, unless the text is at the beginning of one.
_OWN_LINE: Final = "\x00"


def _clock(time: int) -> str:
    seconds, rest = divmod(time, 1_000_000_000)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}.{rest // 1_000_000:03d}"


def _with_times(text: str, begins: str, at_start: bool) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(
        begins + line if number or at_start else line for number, line in enumerate(lines)
    )


class _Streams:
    """The terminals and the other streams of a session."""

    def __init__(self) -> None:
        self._terminals: dict[int, Transcript] = {}
        self._plain: dict[tuple[int, FrameKind], PlainText] = {}
        #: Streams whose last frame was data.
        self._binary: set[tuple[int, FrameKind]] = set()

    def open(self, frame: Frame) -> None:
        """Take note of a channel that opens."""
        if opens_terminal(frame):
            size = terminal_size(details(frame).get("pty"))
            self._terminals[frame.channel] = Transcript(*(size or (80, 24)))

    def take(self, frame: Frame) -> Iterator[str]:
        """Yield what a frame with bytes, or a resize, shows."""
        terminal = self._terminals.get(frame.channel)
        if frame.kind is FrameKind.RESIZE:
            size = terminal_size(details(frame))
            return _texts(terminal.resize(*size)) if terminal and size else iter(())
        if terminal is not None:
            return _texts(terminal.feed(frame.time, frame.data))
        stream = frame.channel, frame.kind
        if is_binary(frame.data):
            shown = () if stream in self._binary else (_OWN_LINE, f"[{BINARY_LINE}]\n")
            self._binary.add(stream)
            return iter(shown)
        self._binary.discard(stream)
        return iter((self._plain.setdefault(stream, PlainText()).feed(frame.data),))

    def close(self, frame: Frame) -> Iterator[str]:
        """Yield the rest of a terminal whose channel is closed."""
        terminal = None
        if frame.kind is FrameKind.CLOSE:
            terminal = self._terminals.pop(frame.channel, None)
        return iter(()) if terminal is None else _texts(terminal.end())

    def end(self) -> Iterator[str]:
        """Yield the rest of all."""
        for terminal in self._terminals.values():
            yield from _texts(terminal.end())
        for plain in self._plain.values():
            yield plain.feed(b"", final=True)


def _texts(shown: Iterable[Shown]) -> Iterator[str]:
    for each in shown:
        yield f"{each.text}\n" if each.ends else each.text


def _summary_line(frame: Frame) -> str:
    line = summary(frame)
    return f"[{line}]\n" if line else ""


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
