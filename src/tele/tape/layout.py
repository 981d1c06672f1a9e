"""The binary layout of frames and chunks; see ``docs/protocols/tape``.

A frame is a fixed head (time u64 in nanoseconds, channel u32, kind u8, length u32, all
big-endian) and ``length`` bytes of data. A chunk is a fixed head (magic ``TLT1``, flags u8,
number u32, SHA-256 of the chunk before, raw length u32) and the frames, compressed with zstd.

Invariants:

* Every length from a peer is checked before memory of that length is allocated.
* A reader skips frames of unknown kinds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

import zstandard
from attrs import field, frozen

from tele.errors import BadRecording
from tele.model.frame import Frame, FrameKind

MAGIC: Final = b"TLT1"
LAST: Final = 0x01
NO_CHUNK: Final = bytes(32)

#: Most bytes of frames in one chunk, and most bytes of one frame's data.
RAW_LIMIT: Final = 4 * 1024 * 1024
DATA_LIMIT: Final = 1024 * 1024

FRAME_HEAD: Final = struct.Struct(">QIBI")
_CHUNK_HEAD: Final = struct.Struct(">4sBI32sI")
_KINDS: Final = frozenset(FrameKind)


def digest(chunk: bytes) -> bytes:
    """Return the SHA-256 of a stored chunk, which the next one and the manifest contain."""
    return hashlib.sha256(chunk).digest()


def pack_chunk(raw: bytes | bytearray, number: int, previous: bytes, *, last: bool) -> bytes:
    """Compress frames into chunk ``number``, chained to the one whose digest is ``previous``."""
    head = _CHUNK_HEAD.pack(MAGIC, LAST if last else 0, number, previous, len(raw))
    return head + zstandard.ZstdCompressor(level=1).compress(raw)


@frozen
class Chunk:
    """One chunk, read. ``raw`` are its frames."""

    number: int
    last: bool
    previous: bytes
    digest: bytes
    raw: bytes = field(repr=False)

    def frames(self) -> Iterator[Frame]:
        """Decode the frames; those of unknown kinds are skipped. Raises :class:`BadRecording`."""
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


def read_chunk(data: bytes, number: int, previous: bytes | None = None) -> Chunk:
    """Read a stored chunk that has to be ``number`` and to follow ``previous`` (None: any).

    Raises :class:`BadRecording` saying what is wrong with it.
    """
    if len(data) < _CHUNK_HEAD.size:
        raise BadRecording(f"chunk {number} is cut off")
    magic, flags, its_number, its_previous, size = _CHUNK_HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadRecording(f"chunk {number} is no chunk of a recording, or of a newer version")
    if its_number != number:
        raise BadRecording(f"chunk {its_number} stands where chunk {number} has to be")
    if previous is not None and its_previous != previous:
        raise BadRecording(
            f"chunk {number} does not follow the one before it: something was changed"
        )
    if size > RAW_LIMIT + DATA_LIMIT:
        raise BadRecording(f"chunk {number} claims to be larger than any chunk")
    packed = data[_CHUNK_HEAD.size :]
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
    return Chunk(number, bool(flags & LAST), its_previous, digest(data), raw)
