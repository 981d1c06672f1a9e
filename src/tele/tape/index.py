"""How does a reader find any moment of a long recording? By its index.

Its bytes are described in ``docs/protocols/recording-index``. It is a blob beside the chunks, made
from them and never part of the proof: tables of chunks, channels, keyframes, resizes and marks, and
after them the keyframes' states. A keyframe is the screen of one channel between two frames, as
text that draws it on a blank terminal of its size.

Invariants:

* What is read through the index is checked like everything else: a wrong index can show a wrong
  screen until the next keyframe, never pass another frame for one of the session.
* Every length and number is checked before memory for it is allocated: what is read takes no more
  than some hundred megabytes, whatever the blob states.
* The tables, which are small, are read without the states.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

import zstandard
from attrs import frozen

from tele.errors import BadRecording

MAGIC: Final = b"TLX1"
VERSION: Final = 1
#: Of an index that is sealed, see :mod:`tele.tape.sealed_index`.
MAGIC_SEALED: Final = b"TLXS"
#: Output between two keyframes of a channel, in bytes, and time, in nanoseconds, at most.
KEYFRAME_BYTES: Final = 256 * 1024
KEYFRAME_TIME: Final = 10 * 1_000_000_000
#: Largest tables and largest state, unpacked, and most bytes of a mark's text.
TABLES_LIMIT: Final = 64 * 1024 * 1024
STATE_LIMIT: Final = 4 * 1024 * 1024
MARK_LIMIT: Final = 1024
#: Most chunks, channels, keyframes, resizes and marks.
COUNTS_LIMIT: Final = (1_000_000, 100_000, 1_000_000, 200_000, 500_000)
#: Flags: of an index, that the end of the session is in it; of a channel; of a keyframe.
_WHOLE: Final = 1
_TERMINAL, _FORWARD = 1, 2
_NEWLINE, _ALTERNATE = 1, 2

#: Magic, version, flags; numbers of chunks, channels, keyframes, resizes, marks; bytes of texts, of
#: the tables unpacked and packed; length, bytes of frames, of output and of states; last digest.
_HEAD: Final = struct.Struct(">4sHHIIIIIIIIQQQQ32s")
HEAD_SIZE: Final = _HEAD.size
#: Magic, version, data key, salt, length of the sealed tables and of the sealed states.
SEALED_HEAD: Final = struct.Struct(">4sHH32sIQ")
_CHUNK: Final = struct.Struct(">IQIQQQQQ")
_CHANNEL: Final = struct.Struct(">IQBHH")
_KEYFRAME: Final = struct.Struct(">QIIIHHBQQII")
_RESIZE: Final = struct.Struct(">QIHH")
_MARK: Final = struct.Struct(">QIBII")
_TABLES: Final = (_CHUNK, _CHANNEL, _KEYFRAME, _RESIZE, _MARK)


class MarkKind(IntEnum):
    """What a mark is of; a reader skips unknown ones."""

    EXEC = 1
    PROMPT = 2
    TRANSFER = 3
    FORWARD = 4
    COMMAND = 5
    PATH = 6
    CONNECTION = 7


@frozen(slots=True)
class ChunkPlace:
    """One chunk: ``offset`` of its frames among all frames, their ``size``, times and numbers.

    ``output`` are the bytes of output before it. Times are in nanoseconds.
    """

    number: int
    offset: int
    size: int
    first_time: int
    last_time: int
    first: int
    last: int
    output: int


@frozen(slots=True)
class Channel:
    """A channel that had output; its size when it was opened, 0 if it has no terminal."""

    number: int
    opened: int
    terminal: bool
    forward: bool
    columns: int
    rows: int


@frozen(slots=True)
class Keyframe:
    """The screen of ``channel`` before the frame at byte ``at`` of the frames of ``chunk``.

    ``offset`` and ``packed`` are the place of its state among the states, ``size`` its length
    unpacked, ``output`` the bytes of output that it shows.
    """

    time: int
    channel: int
    chunk: int
    at: int
    columns: int
    rows: int
    newline: bool
    alternate: bool
    output: int
    offset: int
    packed: int
    size: int


@frozen(slots=True)
class Resize:
    """The window of ``channel`` got another size."""

    time: int
    channel: int
    columns: int
    rows: int


@frozen(slots=True)
class Mark:
    """Something to find: a command, a file. ``text`` is what the session said of it."""

    time: int
    channel: int
    kind: MarkKind
    text: str


@frozen
class Index:
    """The tables. ``length`` is the time of the last frame, in nanoseconds.

    ``raw`` are the bytes of all frames, ``output`` those of output; ``digest`` is that of the last
    chunk; ``whole``: the session's end is in it. States are from byte ``states`` of the blob on,
    ``states_size`` bytes.
    """

    whole: bool
    length: int
    raw: int
    output: int
    digest: bytes
    chunks: tuple[ChunkPlace, ...]
    channels: tuple[Channel, ...]
    keyframes: tuple[Keyframe, ...]
    resizes: tuple[Resize, ...]
    marks: tuple[Mark, ...]
    states: int = 0
    states_size: int = 0

    def keyframe(self, channel: int, time: int) -> Keyframe | None:
        """Return the last keyframe of ``channel`` that is not after ``time`` (nanoseconds)."""
        of_channel = [each for each in self.keyframes if each.channel == channel]
        at = bisect_right(of_channel, time, key=lambda each: each.time)
        return of_channel[at - 1] if at else None

    def main_channel(self) -> int:
        """Return the first channel that is no forward; 0 if there is none."""
        return next((each.number for each in self.channels if not each.forward), 0)


def pack_state(state: bytes) -> bytes:
    """Return a keyframe's state as it is stored; its frame has a checksum."""
    return _compress(state)


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def pack_index(index: Index, states: Sequence[bytes]) -> bytes:
    """Return the blob; ``states`` are packed, in the order in which keyframes refer to them."""
    texts = bytearray()
    marks = bytearray()
    for mark in index.marks:
        text = mark.text.encode("utf-8", "replace")[:MARK_LIMIT]
        marks += _MARK.pack(mark.time, mark.channel, mark.kind, len(texts), len(text))
        texts += text
    tables = b"".join((
        b"".join(
            _CHUNK.pack(c.number, c.offset, c.size, c.first_time, c.last_time, c.first, c.last,
                        c.output)
            for c in index.chunks
        ),
        b"".join(
            _CHANNEL.pack(c.number, c.opened, c.terminal * _TERMINAL | c.forward * _FORWARD,
                          c.columns, c.rows)
            for c in index.channels
        ),
        b"".join(
            _KEYFRAME.pack(k.time, k.channel, k.chunk, k.at, k.columns, k.rows,
                           k.newline * _NEWLINE | k.alternate * _ALTERNATE, k.output, k.offset,
                           k.packed, k.size)
            for k in index.keyframes
        ),
        b"".join(_RESIZE.pack(r.time, r.channel, r.columns, r.rows) for r in index.resizes),
        bytes(marks),
        bytes(texts),
    ))  # fmt: skip
    packed = _compress(tables)
    head = _HEAD.pack(
        MAGIC, VERSION, index.whole * _WHOLE, len(index.chunks), len(index.channels),
        len(index.keyframes), len(index.resizes), len(index.marks), len(texts), len(tables),
        len(packed), index.length, index.raw, index.output, sum(map(len, states)), index.digest,
    )  # fmt: skip
    return b"".join((head, packed, *states))


@frozen
class _Head:
    flags: int
    counts: tuple[int, ...]
    texts: int
    size: int
    packed: int
    length: int
    raw: int
    output: int
    states: int
    digest: bytes


def _read_head(data: bytes) -> _Head:
    if len(data) < _HEAD.size:
        raise BadRecording("the index is cut off")
    magic, version, flags, *rest = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise BadRecording("this is no index, or one of a newer version")
    head = _Head(flags, tuple(rest[:5]), *rest[5:])
    expected = sum(n * each.size for n, each in zip(head.counts, _TABLES, strict=True))
    if head.size != expected + head.texts or head.size > TABLES_LIMIT:
        raise BadRecording("the tables of the index are not as long as its head states")
    if any(count > most for count, most in zip(head.counts, COUNTS_LIMIT, strict=True)):
        raise BadRecording("the index has more entries than any index")
    return head


def tables_end(head: bytes) -> int:
    """Return up to which byte of the blob the tables are, by its first :data:`HEAD_SIZE` bytes.

    Raises :class:`BadRecording`.
    """
    return _parts(head)[0]


def blob_size(head: bytes) -> int:
    """Return how long the blob is, by its first bytes. Raises :class:`BadRecording`."""
    return sum(_parts(head))


def _parts(head: bytes) -> tuple[int, int]:
    """Return the lengths of head and tables together, and of the states."""
    if head[:4] != MAGIC_SEALED:
        read = _read_head(head)
        return _HEAD.size + read.packed, read.states
    if len(head) < SEALED_HEAD.size:
        raise BadRecording("the index is cut off")
    _, version, _, _, tables, states = SEALED_HEAD.unpack_from(head)
    if version != VERSION or tables > TABLES_LIMIT:
        raise BadRecording("this is no index, or one of a newer version")
    return SEALED_HEAD.size + tables, states


def head_tag(head: bytes) -> str:
    """Return what distinguishes a blob from one that was made of other chunks, in hex."""
    return hashlib.sha256(head[: _HEAD.size]).hexdigest()[:32]


def read_index(data: bytes) -> Index:
    """Read the tables of a blob that begins with ``data``. Raises :class:`BadRecording`."""
    head = _read_head(data)
    end = _HEAD.size + head.packed
    if len(data) < end:
        raise BadRecording("the index is cut off")
    tables = memoryview(_unpack(data[_HEAD.size : end], head.size, "tables of the index"))
    parts = []
    for count, each in zip(head.counts, _TABLES, strict=True):
        parts.append(each.iter_unpack(tables[: count * each.size]))
        tables = tables[count * each.size :]
    texts = bytes(tables)
    keyframes = tuple(
        Keyframe(
            time,
            channel,
            chunk,
            at,
            columns,
            rows,
            bool(flags & _NEWLINE),
            bool(flags & _ALTERNATE),
            output,
            offset,
            packed,
            size,
        )
        for time, channel, chunk, at, columns, rows, flags, output, offset, packed, size in parts[2]
    )
    _check_keyframes(keyframes, head.states)
    index = Index(
        whole=bool(head.flags & _WHOLE),
        length=head.length,
        raw=head.raw,
        output=head.output,
        digest=head.digest,
        chunks=tuple(ChunkPlace(*row) for row in parts[0]),
        channels=tuple(
            Channel(n, opened, bool(flags & _TERMINAL), bool(flags & _FORWARD), columns, rows)
            for n, opened, flags, columns, rows in parts[1]
        ),
        keyframes=keyframes,
        resizes=tuple(Resize(*row) for row in parts[3]),
        marks=tuple(_marks(parts[4], texts)),
        states=end,
        states_size=head.states,
    )
    _check_chunks(index)
    return index


def _check_chunks(index: Index) -> None:
    numbers = [each.number for each in index.chunks]
    if numbers != sorted(set(numbers)):
        raise BadRecording("the index does not name the chunks in order")
    last = index.chunks[-1] if index.chunks else ChunkPlace(0, 0, 0, 0, 0, 0, 0, 0)
    stated = (index.length, index.raw)
    if stated != (last.last_time, last.offset + last.size) or index.output < last.output:
        raise BadRecording("the head of the index states something else than its chunks")


def _check_keyframes(keyframes: Iterable[Keyframe], states: int) -> None:
    last = 0
    for each in keyframes:
        if each.offset + each.packed > states or each.size > STATE_LIMIT:
            raise BadRecording("a keyframe of the index is where no state is")
        if each.time < last:
            raise BadRecording("the keyframes of the index are not in order")
        last = each.time


def _marks(rows: Iterable[tuple[int, ...]], texts: bytes) -> Iterable[Mark]:
    kinds = frozenset(MarkKind)
    end = 0
    for time, channel, kind, offset, size in rows:
        # Marks that share text would take more memory than the index has bytes.
        if offset < end or offset + size > len(texts) or size > MARK_LIMIT:
            raise BadRecording("a mark of the index is where no text is")
        end = offset + size
        if kind in kinds:
            text = texts[offset : offset + size].decode("utf-8", "replace")
            yield Mark(time, channel, MarkKind(kind), text)


def read_state(keyframe: Keyframe, packed: bytes) -> bytes:
    """Return the text that draws the screen, from its bytes among the states.

    Raises :class:`BadRecording`.
    """
    if len(packed) != keyframe.packed:
        raise BadRecording("a keyframe of the index is cut off")
    return _unpack(packed, keyframe.size, "keyframe of the index")


def _unpack(packed: bytes, size: int, what: str) -> bytes:
    try:
        if zstandard.frame_content_size(packed) != size:
            raise BadRecording(f"a {what} is not as long as it claims")
        raw = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BadRecording(f"a {what} cannot be decompressed: {error}") from None
    if len(raw) != size:
        raise BadRecording(f"a {what} is shorter than it claims")
    return raw
