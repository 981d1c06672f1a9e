"""Is this recording complete, unchanged, and of the claimed session?

Invariants:

* A recording begins with exactly one START frame, which identifies the session. Its chunks, each
  chained to the one before, belong to that session and no other.
* Frames with numbers are all there, or stated as lost (:mod:`tele.tape.order`).
* With a manifest it has exactly the chunks that the manifest names, the last one is marked, and
  its last frame is END.
* The caller names the ``missing`` chunks; they are never assumed, and make it incomplete. The other
  chunks are checked alike, and a gap frame replaces those that are missing.
* The signed bytes begin with a context string: no other signature of a host key can be taken for
  that of a manifest, nor the reverse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from attrs import evolve, frozen

from tele.errors import BadRecording, InvalidInput
from tele.model.codec import decode, encode_large
from tele.model.frame import Frame, FrameKind
from tele.model.session import Manifest, RecordingStart
from tele.tape.layout import NO_CHUNK, Chunk, read_chunk
from tele.tape.order import SequenceCheck

#: The version of recordings with numbered frames, which is written.
VERSION: Final = 3
#: The version of those without, which is written to finish old ones.
WITHOUT_NUMBERS: Final = 2
#: Supported versions. The signed bytes of version 1 have no context string.
VERSIONS: Final = (1, WITHOUT_NUMBERS, VERSION)
#: Data keys of one recording: one for each start of its recorder.
KEYS_LIMIT: Final = 1000
#: Reads a chunk, and opens it if it is sealed: its bytes, number, digest of the one before.
OpenChunk = Callable[[bytes, int, bytes | None], Chunk]
_CONTEXT: Final = b"tele-manifest@tele\n"


def check_version(manifest: Manifest) -> None:
    """Raise :class:`BadRecording` for a manifest of a version that is not supported."""
    version = manifest.version
    if version not in VERSIONS:
        raise BadRecording(f"manifests of version {version} are not supported")
    if manifest.generation != 1:
        raise BadRecording("later generations are not supported")
    if not 0 <= manifest.keys <= KEYS_LIMIT or (manifest.keys and version < VERSION):
        raise BadRecording(f"recordings of version {version} are not sealed with so many keys")
    if manifest.sequence < 0 or (manifest.sequence and version < VERSION):
        raise BadRecording(f"the frames of recordings of version {version} have no numbers")


def to_sign(manifest: Manifest) -> bytes:
    """Return the bytes that a manifest's signature covers."""
    context = b"" if manifest.version == 1 else _CONTEXT
    return context + encode_large(evolve(manifest, signature=b""))


@frozen
class Verdict:
    """The result. ``complete`` false: it has no manifest yet, or chunks are missing; the others are
    unchanged. ``chunks`` is their number.
    """

    complete: bool
    chunks: int
    frames: int
    recovered: bool


def read_chunks(
    chunks: Iterable[bytes],
    manifest: Manifest | None,
    missing: Collection[int] = (),
    open_chunk: OpenChunk = read_chunk,
) -> Iterator[Chunk]:
    """Read chunks in order, checking the chain and, with a manifest, each chunk against it.

    ``open_chunk`` opens sealed ones, too. Those with the numbers in ``missing`` are not among
    ``chunks``. Raises :class:`BadRecording` at
    the first one that is wrong, or at the end if others are missing.
    """
    previous: bytes | None = NO_CHUNK
    missing = frozenset(missing)
    count = 0
    chunk: Chunk | None = None
    for data in chunks:
        while count in missing:
            previous = _named_digest(manifest, count)
            count += 1
        if chunk is not None and chunk.last:
            raise BadRecording(f"chunk {count} follows the last chunk")
        chunk = open_chunk(data, count, previous)
        if manifest is not None:
            if count >= len(manifest.chunks):
                raise BadRecording(f"chunk {count} is not in the manifest")
            named = manifest.chunks[count]
            if (named.size, named.sha256) != (len(data), chunk.digest.hex()):
                raise BadRecording(f"chunk {count} is not the one that the manifest names")
            if not (chunk.key == 0 if not manifest.keys else 0 < chunk.key <= manifest.keys):
                raise BadRecording(
                    f"chunk {count} has data key {chunk.key}, the manifest names {manifest.keys}"
                )
        previous = chunk.digest
        count += 1
        yield chunk
    if manifest is None:
        return
    while count in missing:
        chunk = None
        count += 1
    if count < len(manifest.chunks):
        raise BadRecording(
            f"{len(manifest.chunks) - count} chunks are missing after chunk {count - 1}"
        )
    if count - 1 not in missing and (chunk is None or not chunk.last):
        raise BadRecording("the last chunk is missing")


def _named_digest(manifest: Manifest | None, number: int) -> bytes | None:
    """Return the digest of a missing chunk, if the manifest has it."""
    if manifest is None or number >= len(manifest.chunks):
        return None
    named = manifest.chunks[number].sha256
    try:
        return bytes.fromhex(named) if named else None
    except ValueError:
        raise BadRecording(f"the manifest has no digest of chunk {number}") from None


def read_frames(
    chunks: Iterable[bytes],
    manifest: Manifest | None,
    start: RecordingStart,
    missing: Collection[int] = (),
    open_chunk: OpenChunk = read_chunk,
) -> Iterator[Frame]:
    """Read the frames of the session ``start`` in order, with a gap where chunks are ``missing``.

    Raises :class:`BadRecording` where it was changed, or is of another session.
    """
    last: Frame | None = None
    expected = 0
    numbered = None if manifest is None else manifest.version >= VERSION
    order = SequenceCheck()
    for chunk in read_chunks(chunks, manifest, missing, open_chunk):
        if numbered is None:
            numbered = chunk.facts is not None
        if numbered is not (chunk.facts is not None):
            raise BadRecording(f"chunk {chunk.number} is of another version than the recording")
        if chunk.number != expected:
            yield _hole(last, expected, chunk.number)
            order.hole()
        expected = chunk.number + 1
        for frame in chunk.all_frames():
            if not isinstance(frame, Frame):
                if numbered:
                    order.number(frame)
                continue
            if numbered:
                order.take(frame)
            if last is not None or 0 not in missing:
                _check_order(frame, last, chunk.number, start)
            last = frame
            yield frame
    if manifest is None:
        return
    if expected != len(manifest.chunks):
        yield _hole(last, expected, len(manifest.chunks))
    elif last is None or last.kind is not FrameKind.END:
        raise BadRecording("its last frame is not the end of the session")
    elif last.sequence != manifest.sequence:
        raise BadRecording(
            f"its end is after frame {last.sequence}, in the manifest after {manifest.sequence}"
        )


def _hole(last: Frame | None, first: int, end: int) -> Frame:
    """Return the gap frame for missing chunks."""
    lost = f"chunk {first} is lost" if end - first == 1 else f"chunks {first} to {end - 1} are lost"
    body = json.dumps({"lost": {}, "reason": lost}).encode()
    return Frame(0 if last is None else last.time, 0, FrameKind.GAP, body)


def _check_order(frame: Frame, last: Frame | None, number: int, start: RecordingStart) -> None:
    if last is None:
        if read_start(frame) != start:
            raise BadRecording("its first frame is the start of another session")
        return
    if frame.kind is FrameKind.START:
        raise BadRecording(f"another session starts in chunk {number}")
    if last.kind is FrameKind.END:
        raise BadRecording(f"it continues after its end, in chunk {number}")
    if frame.time < last.time:
        raise BadRecording(f"time runs backwards in chunk {number}")


def read_start(frame: Frame) -> RecordingStart:
    """Read the first frame of a recording. Raises :class:`BadRecording`."""
    if frame.kind is not FrameKind.START:
        raise BadRecording("its first frame does not name a session")
    try:
        return decode(RecordingStart, frame.data)
    except InvalidInput as error:
        raise BadRecording(f"its first frame cannot be read: {error}") from None


def verify(
    chunks: Iterable[bytes],
    manifest: Manifest | None,
    start: RecordingStart,
    check_signature: Callable[[Manifest], object],
    missing: Collection[int] = (),
    open_chunk: OpenChunk = read_chunk,
) -> Verdict:
    """Check everything; ``check_signature`` raises :class:`BadRecording` if it is not valid.

    Sealed chunks need ``open_chunk``; :mod:`tele.tape.examine` checks them without a key.

    Chunks that are ``missing`` make it incomplete.
    """
    if manifest is not None:
        check_version(manifest)
        if manifest.id != start.id or manifest.start != start:
            raise BadRecording("its manifest is of another session")
        if [c.number for c in manifest.chunks] != list(range(len(manifest.chunks))):
            raise BadRecording("its manifest does not number its chunks from 0 without gaps")
        check_signature(manifest)
    count = 0

    def counted() -> Iterator[bytes]:
        nonlocal count
        for data in chunks:
            count += 1
            yield data

    frames = sum(1 for _ in read_frames(counted(), manifest, start, missing, open_chunk))
    if manifest is not None and frames != manifest.frames and not missing:
        raise BadRecording(f"{frames} frames, but the manifest has {manifest.frames}")
    return Verdict(
        manifest is not None and not missing,
        count,
        frames,
        manifest.recovered if manifest is not None else False,
    )
