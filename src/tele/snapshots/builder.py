"""How do the frames of a recording become its index, and the text to search in?

Invariants:

* Memory is bounded: :data:`TERMINALS` terminals at once, tables, states and text within limits.
  What is over a limit is left out, and the index is still right.
* What a user shows or opens hides nothing else: marks of each kind have a limit of their own, and
  what channels show that have no terminal is searched, too.
* A keyframe is taken between two frames, where no control sequence is open.
* States together are no longer than twice the output and :data:`STATES_FREE`, nor than
  :data:`STATES_LIMIT`, whatever is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import define, field

from tele.model.frame import Frame, FrameKind
from tele.snapshots.prompts import PromptReader
from tele.snapshots.terminals import MakeTerminal, Terminal
from tele.snapshots.text import TextCollector
from tele.tape import index as tape
from tele.tape.details import STREAMS, details, terminal
from tele.tape.exports.summary import traced_text
from tele.tape.index import KEYFRAME_TIME, MARK_LIMIT, MarkKind
from tele.tape.layout import Chunk
from tele.tape.placed import placed_frames

#: Channels that have a terminal at once; others are in the tables, without keyframes. What these
#: show is gathered until it is so long, or all of it is, and then drawn for its text alone.
TERMINALS: Final = 16
PIECE: Final = 32 * 1024
GATHERED: Final = 8 * 1024 * 1024
CHANNELS: Final = 10_000
RESIZES: Final = 100_000
#: Marks of each kind, and bytes of their texts.
MARKS: Final = 50_000
MARK_TEXTS: Final = 4 * 1024 * 1024
#: Marks of what was traced, of each kind; a text that repeats has one. The others keep the rest.
TRACED_MARKS: Final = 12_000
#: Characters that two marks of one text have in common: the longest text that is searched.
OVERLAP: Final = 200
KEYFRAMES: Final = 500_000
#: Output after which the next keyframe is due. With the frame in which that happens it is less than
#: :data:`tele.tape.index.KEYFRAME_BYTES`; and tele's own terminal draws it in some 20 ms.
_DUE: Final = 96 * 1024
#: Bytes of states that a recording with hardly any output may have.
STATES_FREE: Final = 16 * 1024 * 1024
STATES_LIMIT: Final = 96 * 1024 * 1024
_TRACED: Final = {
    FrameKind.COMMAND: MarkKind.COMMAND,
    FrameKind.HANDOVER: MarkKind.COMMAND,
    FrameKind.DISK: MarkKind.PATH,
    FrameKind.NETWORK: MarkKind.CONNECTION,
}


@define
class _Shown:
    """One channel's terminal. Times are in nanoseconds."""

    terminal: Terminal
    reader: PromptReader
    text: TextCollector
    newline: bool
    keyframe_time: int
    keyframe_output: int = 0
    output: int = 0
    last_packed: int = 0
    dirty: bool = False


@define
class _Gathered:
    """What a channel without a terminal showed: since when, in nanoseconds, and on which size."""

    columns: int
    rows: int
    newline: bool
    since: int = 0
    data: bytearray = field(factory=bytearray)


@define
class IndexBuilder:
    """Takes the chunks of one recording in order; :meth:`pack` returns the index.

    ``make`` makes terminals; ``text(time, channel, line)`` is called with each line to search in.
    """

    make: MakeTerminal
    text: Callable[[int, int, str], None]
    _shown: dict[int, _Shown] = field(factory=dict, init=False)
    _others: dict[int, _Gathered] = field(factory=dict, init=False)
    _gathered: int = field(default=0, init=False)
    _chunks: list[tape.ChunkPlace] = field(factory=list, init=False)
    _channels: dict[int, tape.Channel] = field(factory=dict, init=False)
    _keyframes: list[tape.Keyframe] = field(factory=list, init=False)
    _resizes: list[tape.Resize] = field(factory=list, init=False)
    _marks: list[tape.Mark] = field(factory=list, init=False)
    #: How many there are of a kind, and the bytes of their texts.
    _numbers: dict[MarkKind, int] = field(factory=dict, init=False)
    _texts: dict[MarkKind, int] = field(factory=dict, init=False)
    _states: list[bytes] = field(factory=list, init=False)
    _states_size: int = field(default=0, init=False)
    _raw: int = field(default=0, init=False)
    _output: int = field(default=0, init=False)
    _time: int = field(default=0, init=False)
    _digest: bytes = field(default=bytes(32), init=False)
    _traced: dict[MarkKind, set[str]] = field(factory=dict, init=False)
    _whole: bool = field(default=False, init=False)

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk. Raises :class:`BadRecording` if its frames cannot be read."""
        before, output = self._time, self._output
        first: int | None = None
        numbers = [0, 0]
        for at, frame in placed_frames(chunk):
            self._time = max(self._time, frame.time)
            first = self._time if first is None else first
            numbers = [numbers[0] or frame.sequence, frame.sequence or numbers[1]]
            self._take(frame, chunk.number, at)
        self._chunks.append(
            tape.ChunkPlace(
                chunk.number, self._raw, len(chunk.raw), before if first is None else first,
                self._time, numbers[0], numbers[1], output,
            )
        )  # fmt: skip
        self._raw += len(chunk.raw)
        self._digest = chunk.digest

    def pack(self) -> bytes:
        """Return the index."""
        for channel in [*self._shown, *self._others]:
            self._close(channel)
        made = tape.Index(
            self._whole, self._time, self._raw, self._output, self._digest, tuple(self._chunks),
            tuple(self._channels.values()), tuple(self._keyframes), tuple(self._resizes),
            tuple(self._marks),
        )  # fmt: skip
        return tape.pack_index(made, self._states)

    # -- frames ---------------------------------------------------------------------------
    def _take(self, frame: Frame, chunk: int, at: int) -> None:
        if frame.kind in STREAMS:
            self._output += len(frame.data)
            self._feed(frame, chunk, at)
        elif frame.kind is FrameKind.OPEN:
            self._open(frame)
        elif frame.kind is FrameKind.RESIZE:
            self._resize(frame.channel, details(frame))
        elif frame.kind is FrameKind.CLOSE:
            self._close(frame.channel)
        elif frame.kind is FrameKind.TRANSFER:
            self._mark(frame.channel, MarkKind.TRANSFER, _transfer(details(frame)))
        elif frame.kind in _TRACED:
            fields = details(frame)
            if fields.get("action") != "exit":
                self._mark_traced(
                    frame.channel, _TRACED[frame.kind], traced_text(frame.kind, fields)
                )
        elif frame.kind is FrameKind.END:
            self._whole = True

    def _open(self, frame: Frame) -> None:
        fields = details(frame)
        pty, kind = terminal(fields), fields.get("kind")
        forward = kind == "forward"
        columns, rows = _size(pty)
        if frame.channel not in self._channels and len(self._channels) < CHANNELS:
            self._channels[frame.channel] = tape.Channel(
                frame.channel, self._time, bool(pty), forward, columns, rows
            )
        if forward:
            text = f"{fields.get('forward', '')} {fields.get('target', '')}"
            self._mark(frame.channel, MarkKind.FORWARD, text)
        elif kind == "exec":
            self._mark(frame.channel, MarkKind.EXEC, str(fields.get("command", "")))
        elif kind == "subsystem":
            self._mark(frame.channel, MarkKind.EXEC, f"subsystem {fields.get('command', '')}")
        if forward or frame.channel in self._shown or frame.channel in self._others:
            return
        if len(self._shown) >= TERMINALS:
            if len(self._others) < CHANNELS:
                self._others[frame.channel] = _Gathered(columns, rows, not pty)
            return
        made = self.make(columns, rows, not pty)
        collector = TextCollector(lambda time, line: self.text(time, frame.channel, line))
        self._shown[frame.channel] = _Shown(
            made, PromptReader(made), collector, not pty, self._time
        )

    def _resize(self, channel: int, fields: dict[str, Any]) -> None:
        columns, rows = _size(fields)
        if not (columns and rows):
            return
        if len(self._resizes) < RESIZES:
            self._resizes.append(tape.Resize(self._time, channel, columns, rows))
        if (shown := self._shown.get(channel)) is not None:
            shown.terminal.resize(columns, rows)
            shown.dirty = True
        elif (other := self._others.get(channel)) is not None:
            other.columns, other.rows = columns, rows

    def _feed(self, frame: Frame, chunk: int, at: int) -> None:
        shown = self._shown.get(frame.channel)
        if shown is None:
            if (other := self._others.get(frame.channel)) is not None:
                self._gather(frame.channel, other, frame.data)
            return
        shown.text.before(self._time, len(frame.data), shown.terminal, shown.reader)
        for command in shown.reader.feed(frame.data):
            self._mark(frame.channel, MarkKind.PROMPT, command)
        shown.output += len(frame.data)
        shown.dirty = True
        if self._is_due(shown) and shown.reader.settled:
            self._keyframe(frame.channel, shown, chunk, at)

    def _gather(self, channel: int, other: _Gathered, data: bytes) -> None:
        if not other.data:
            other.since = self._time
        other.data += data
        self._gathered += len(data)
        if len(other.data) >= PIECE:
            self._draw(channel, other)
        while self._gathered > GATHERED:
            self._draw(*max(self._others.items(), key=lambda item: len(item[1].data)))

    def _draw(self, channel: int, other: _Gathered) -> None:
        """Draw what was gathered of a channel on a blank terminal, for its text.

        What is behind the last line stays, for what follows it, unless it is long.
        """
        end = other.data.rfind(b"\n") + 1
        if end < PIECE // 2:
            end = len(other.data)
        data = bytes(other.data[:end])
        del other.data[:end]
        self._gathered -= end
        drawn = self.make(other.columns, other.rows, other.newline)
        text = TextCollector(lambda time, line: self.text(time, channel, line))
        text.before(other.since, len(data), drawn, reader := PromptReader(drawn))
        for command in reader.feed(data):
            self._mark(channel, MarkKind.PROMPT, command)
        reader.flush()
        text.end(drawn)
        drawn.close()

    def _is_due(self, shown: _Shown) -> bool:
        grown = shown.output - shown.keyframe_output
        if not shown.dirty or len(self._keyframes) >= KEYFRAMES:
            return False
        if grown < _DUE and self._time - shown.keyframe_time < KEYFRAME_TIME:
            return False
        free = min(STATES_FREE + 2 * self._output, STATES_LIMIT)
        return self._states_size + shown.last_packed <= free and grown * 2 >= (
            shown.last_packed if self._states_size > STATES_FREE else 0
        )

    def _keyframe(self, channel: int, shown: _Shown, chunk: int, at: int) -> None:
        state = shown.terminal.state()
        shown.keyframe_time, shown.keyframe_output, shown.dirty = self._time, shown.output, False
        if len(state) > tape.STATE_LIMIT:
            return
        packed = tape.pack_state(state)
        shown.last_packed = len(packed)
        self._keyframes.append(
            tape.Keyframe(
                self._time, channel, chunk, at, shown.terminal.columns, shown.terminal.rows,
                shown.newline, shown.terminal.alternate(), shown.output, self._states_size,
                len(packed), len(state),
            )
        )  # fmt: skip
        self._states.append(packed)
        self._states_size += len(packed)

    def _close(self, channel: int) -> None:
        shown = self._shown.pop(channel, None)
        if shown is not None:
            shown.reader.flush()
            shown.text.end(shown.terminal)
            shown.terminal.close()
        other = self._others.pop(channel, None)
        if other is not None and other.data:
            self._draw(channel, other)

    def _mark_traced(self, channel: int, kind: MarkKind, text: str) -> None:
        known = self._traced.setdefault(kind, set())
        if text not in known and len(known) < TRACED_MARKS:
            known.add(text)
            self._mark(channel, kind, text)

    def _mark(self, channel: int, kind: MarkKind, text: str) -> None:
        for piece in pieces(text):
            number, size = self._numbers.get(kind, 0), self._texts.get(kind, 0) + MARK_LIMIT
            if number < MARKS and size <= MARK_TEXTS:
                self._marks.append(tape.Mark(self._time, channel, kind, piece))
                self._numbers[kind] = number + 1
                self._texts[kind] = size - MARK_LIMIT + len(piece.encode("utf-8", "replace"))


def pieces(text: str) -> Iterator[str]:
    """Yield a text, in pieces that are marks if it is longer.

    They overlap, so that whatever is searched is in one of them: padding hides no command.
    """
    size = MARK_LIMIT if text.isascii() else MARK_LIMIT // 4
    if text:
        yield text[:size]
    for at in range(size - OVERLAP, len(text) - OVERLAP, size - OVERLAP):
        yield text[at : at + size]


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    """Return a size within 16 bits; (0, 0) for one that is none."""
    columns, rows = fields.get("columns"), fields.get("rows")
    if type(columns) is not int or type(rows) is not int:
        return 0, 0
    return max(0, min(columns, 0xFFFF)), max(0, min(rows, 0xFFFF))


def _transfer(fields: dict[str, Any]) -> str:
    """Return one operation on a file in words: what, and which path."""
    to = fields.get("to")
    what = fields.get("direction") or fields.get("op") or ""
    return f"{what} {fields.get('path', '')}" + (f" -> {to}" if to else "")
