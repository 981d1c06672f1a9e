"""The binary layout of frames and chunks; see ``docs/protocols/tape``.

A frame is a fixed head and its data; a chunk is a fixed head and the frames, compressed with zstd.
Chunks of version 2 (magic ``TLT2``) have numbered frames, and state in the head which: what is in
them is known without unpacking them. Those of version 1 (``TLT1``) have frames without numbers.

Invariants:

* What the head states of the frames is compared with them whenever they are read.
* Every length from a peer is checked before memory of that length is allocated.
* A reader skips frames of unknown kinds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import zstandard
from attrs import define, field, frozen

from tele.errors import BadRecording
from tele.model.frame import UNNUMBERED, Frame, FrameKind

MAGIC: Final = b"TLT1"
MAGIC_2: Final = b"TLT2"
LAST: Final = 0x01
NO_CHUNK: Final = bytes(32)

#: Most bytes of frames in one chunk, and most bytes of one frame's data.
RAW_LIMIT: Final = 4 * 1024 * 1024
DATA_LIMIT: Final = 1024 * 1024

#: Time, channel, kind, length; in version 2 after the sequence number.
FRAME_HEAD: Final = struct.Struct(">QIBI")
FRAME_HEAD_2: Final = struct.Struct(">QQIBI")
#: Magic, flags, number, digest of the chunk before, length of the frames.
_CHUNK_HEAD: Final = struct.Struct(">4sBI32sI")
#: First and last sequence, frames, times of the first and the last one, data key, nonce.
_FACTS: Final = struct.Struct(">QQIQQH12s")
_CLEAR: Final = (0, bytes(12))
_KINDS: Final = frozenset(FrameKind)


def digest(chunk: bytes) -> bytes:
    """Return the SHA-256 of a stored chunk, which the next one and the manifest contain."""
    return hashlib.sha256(chunk).digest()


def pack_chunk(raw: bytes | bytearray, number: int, previous: bytes, *, last: bool) -> bytes:
    """Compress frames into chunk ``number``, chained to the one whose digest is ``previous``."""
    head = _CHUNK_HEAD.pack(MAGIC, LAST if last else 0, number, previous, len(raw))
    return head + zstandard.ZstdCompressor(level=1).compress(raw)


@define
class Facts:
    """What the head of a chunk of version 2 states of its frames.

    ``first`` and ``last`` are the numbers of those that have one of their own, or 0. Times are in
    nanoseconds.
    """

    first: int = 0
    last: int = 0
    frames: int = 0
    first_time: int = 0
    last_time: int = 0

    def add(self, kind: int, sequence: int, time: int) -> None:
        """Count one more frame."""
        if kind not in UNNUMBERED:
            self.first = self.first or sequence
            self.last = sequence
        if not self.frames:
            self.first_time = time
        self.last_time = time
        self.frames += 1


def pack_frames(frames: Iterable[Frame]) -> tuple[bytes, Facts]:
    """Return frames in version 2, and what the head of their chunk has to state."""
    raw, facts = bytearray(), Facts()
    for frame in frames:
        raw += FRAME_HEAD_2.pack(
            frame.sequence, frame.time, frame.channel, frame.kind, len(frame.data)
        )
        raw += frame.data
        facts.add(frame.kind, frame.sequence, frame.time)
    return bytes(raw), facts


class Seal(Protocol):
    """Seals the chunks of a recording."""

    @property
    def number(self) -> int:
        """The number of the data key, from 1."""

    def nonce(self) -> bytes:
        """Return 12 bytes that no other chunk was sealed with."""

    def seal(self, nonce: bytes, packed: bytes, head: bytes) -> bytes:
        """Return ``packed``, sealed; ``head`` cannot be changed afterwards either."""


#: Opens what is after the head: number of the key, nonce, sealed bytes, head. Raises BadRecording.
Unseal = Callable[[int, bytes, bytes, bytes], bytes]


def pack_chunk_2(
    raw: bytes | bytearray,
    facts: Facts,
    number: int,
    previous: bytes,
    *,
    last: bool,
    seal: Seal | None = None,
) -> bytes:
    """Compress frames of version 2 into chunk ``number``, see :func:`pack_chunk`, and seal them."""
    key, nonce = _CLEAR if seal is None else (seal.number, seal.nonce())
    head = _CHUNK_HEAD.pack(MAGIC_2, LAST if last else 0, number, previous, len(raw)) + _FACTS.pack(
        facts.first, facts.last, facts.frames, facts.first_time, facts.last_time, key, nonce
    )
    packed = zstandard.ZstdCompressor(level=1).compress(raw)
    return head + (packed if seal is None else seal.seal(nonce, packed, head))


@frozen
class Chunk:
    """One chunk, read. ``raw`` are its frames; ``facts`` are in the head of version 2.

    ``key`` is the number of the data key that it was sealed with, or 0.
    """

    number: int
    last: bool
    previous: bytes
    digest: bytes
    raw: bytes = field(repr=False)
    facts: Facts | None = None
    key: int = 0

    def frames(self) -> Iterator[Frame]:
        """Decode the frames; those of unknown kinds are skipped. Raises :class:`BadRecording`."""
        if self.facts is None:
            return self._plain()
        return (each for each in self._numbered(self.facts) if isinstance(each, Frame))

    def all_frames(self) -> Iterator[Frame | int]:
        """Decode the frames; of one of an unknown kind yield the number alone, if it has one.

        Raises :class:`BadRecording`.
        """
        return self._plain() if self.facts is None else self._numbered(self.facts)

    def _plain(self) -> Iterator[Frame]:
        raw, at = self.raw, 0
        while at < len(raw):
            if len(raw) - at < FRAME_HEAD.size:
                raise BadRecording(f"chunk {self.number} ends within a frame")
            time, channel, kind, length = FRAME_HEAD.unpack_from(raw, at)
            at += FRAME_HEAD.size
            if length > len(raw) - at:
                raise BadRecording(f"chunk {self.number} ends within a frame")
            if kind in _KINDS:
                yield Frame(time, channel, FrameKind(kind), raw[at : at + length])
            at += length

    def _numbered(self, facts: Facts) -> Iterator[Frame | int]:
        raw, at, found = self.raw, 0, Facts()
        while at < len(raw):
            if len(raw) - at < FRAME_HEAD_2.size:
                raise BadRecording(f"chunk {self.number} ends within a frame")
            sequence, time, channel, kind, length = FRAME_HEAD_2.unpack_from(raw, at)
            at += FRAME_HEAD_2.size
            if length > len(raw) - at:
                raise BadRecording(f"chunk {self.number} ends within a frame")
            found.add(kind, sequence, time)
            if kind in _KINDS:
                yield Frame(time, channel, FrameKind(kind), raw[at : at + length], sequence)
            else:
                yield sequence
            at += length
        if found != facts:
            raise BadRecording(f"chunk {self.number} does not have the frames that its head states")


@frozen
class ChunkHead:
    """What the head of a stored chunk states; ``size`` is that of the frames, unpacked.

    ``key`` is the number of the data key that its frames are sealed with, or 0.
    """

    number: int
    last: bool
    previous: bytes
    size: int
    facts: Facts | None = None
    key: int = 0


def read_head(data: bytes, number: int) -> ChunkHead:
    """Read the head of a stored chunk, called ``number`` in errors; it may be another one's.

    Needs no key. Raises :class:`BadRecording`.
    """
    if len(data) < _CHUNK_HEAD.size:
        raise BadRecording(f"chunk {number} is cut off")
    magic, flags, its_number, previous, size = _CHUNK_HEAD.unpack_from(data)
    if magic not in (MAGIC, MAGIC_2):
        raise BadRecording(f"chunk {number} is no chunk of a recording, or of a newer version")
    if size > RAW_LIMIT + DATA_LIMIT:
        raise BadRecording(f"chunk {number} claims to be larger than any chunk")
    last = bool(flags & LAST)
    if magic == MAGIC:
        return ChunkHead(its_number, last, previous, size)
    if len(data) < _CHUNK_HEAD.size + _FACTS.size:
        raise BadRecording(f"chunk {number} is cut off")
    *facts, key, _nonce = _FACTS.unpack_from(data, _CHUNK_HEAD.size)
    return ChunkHead(its_number, last, previous, size, Facts(*facts), key)


def read_chunk(
    data: bytes, number: int, previous: bytes | None = None, unseal: Unseal | None = None
) -> Chunk:
    """Read a stored chunk that has to be ``number`` and to follow ``previous`` (None: any).

    A sealed one needs ``unseal``. Raises :class:`BadRecording` saying what is wrong with it.
    """
    if len(data) < _CHUNK_HEAD.size:
        raise BadRecording(f"chunk {number} is cut off")
    magic, flags, its_number, its_previous, size = _CHUNK_HEAD.unpack_from(data)
    if magic not in (MAGIC, MAGIC_2):
        raise BadRecording(f"chunk {number} is no chunk of a recording, or of a newer version")
    if its_number != number:
        raise BadRecording(f"chunk {its_number} stands where chunk {number} has to be")
    if previous is not None and its_previous != previous:
        raise BadRecording(
            f"chunk {number} does not follow the one before it: something was changed"
        )
    if size > RAW_LIMIT + DATA_LIMIT:
        raise BadRecording(f"chunk {number} claims to be larger than any chunk")
    if magic == MAGIC:
        facts, packed, key = None, data[_CHUNK_HEAD.size :], 0
    else:
        facts, packed, key = _read_version_2(data, flags, number, unseal)
    raw = _unpack(packed, size, number)
    return Chunk(number, bool(flags & LAST), its_previous, digest(data), raw, facts, key)


def _read_version_2(
    data: bytes, flags: int, number: int, unseal: Unseal | None
) -> tuple[Facts, bytes, int]:
    """Return what the head states, the compressed frames and the number of their key."""
    size = _CHUNK_HEAD.size + _FACTS.size
    if len(data) < size:
        raise BadRecording(f"chunk {number} is cut off")
    *facts, key, nonce = _FACTS.unpack_from(data, _CHUNK_HEAD.size)
    packed = data[size:]
    if flags & ~LAST or (not key and nonce != _CLEAR[1]):
        raise BadRecording(f"chunk {number} is sealed, or of a newer version")
    if key:
        if unseal is None:
            raise BadRecording(f"chunk {number} is sealed, and its key is not here")
        packed = unseal(key, nonce, packed, data[:size])
    return Facts(*facts), packed, key


def _unpack(packed: bytes, size: int, number: int) -> bytes:
    try:
        # zstd allocates the content size of its header before the limit applies.
        if zstandard.frame_content_size(packed) != size:
            raise BadRecording(f"chunk {number} is not as long as it claims")
        raw = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BadRecording(f"chunk {number} cannot be decompressed: {error}") from None
    if len(raw) != size:
        raise BadRecording(f"chunk {number} is shorter than it claims")
    return raw
