"""Is this recording whole, unchanged, and by whom it says?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from attrs import evolve, frozen

from tele.errors import BadRecording
from tele.model.codec import encode
from tele.model.frame import Frame
from tele.model.session import Manifest
from tele.tape.layout import NO_CHUNK, Chunk, read_chunk

VERSION = 1


def to_sign(manifest: Manifest) -> bytes:
    """Return the bytes that a manifest's signature covers."""
    return encode(evolve(manifest, signature=b""))


@frozen
class Verdict:
    """What was found out. ``complete`` false: it has no manifest yet, all before is unchanged."""

    complete: bool
    chunks: int
    frames: int
    recovered: bool


def read_chunks(chunks: Iterable[bytes], manifest: Manifest | None) -> Iterator[Chunk]:
    """Read chunks in order, checking the chain and, with a manifest, each chunk against it.

    Raises :class:`BadRecording` at the first one that is wrong, or at the end if some are
    missing.
    """
    previous = NO_CHUNK
    count = 0
    chunk: Chunk | None = None
    for data in chunks:
        if chunk is not None and chunk.last:
            raise BadRecording(f"chunk {count} follows the last chunk")
        chunk = read_chunk(data, count, previous)
        if manifest is not None:
            if count >= len(manifest.chunks):
                raise BadRecording(f"chunk {count} is not in the manifest")
            if manifest.chunks[count].sha256 != chunk.digest.hex():
                raise BadRecording(f"chunk {count} is not the one that the manifest names")
        previous = chunk.digest
        count += 1
        yield chunk
    if manifest is not None:
        if count < len(manifest.chunks):
            raise BadRecording(
                f"{len(manifest.chunks) - count} chunks are missing after chunk {count - 1}"
            )
        if chunk is None or not chunk.last:
            raise BadRecording("the last chunk is missing")


def read_frames(chunks: Iterable[bytes], manifest: Manifest | None) -> Iterator[Frame]:
    """Read frames in order; raises :class:`BadRecording` where it is not what it was."""
    time = 0
    for chunk in read_chunks(chunks, manifest):
        for frame in chunk.frames():
            if frame.time < time:
                raise BadRecording(f"time runs backwards in chunk {chunk.number}")
            time = frame.time
            yield frame


def verify(
    chunks: Iterable[bytes],
    manifest: Manifest | None,
    check_signature: Callable[[Manifest], None],
) -> Verdict:
    """Check everything; ``check_signature`` raises :class:`BadRecording` if it is not good."""
    if manifest is not None:
        if manifest.version != VERSION:
            raise BadRecording(f"recordings of version {manifest.version} are not known here")
        check_signature(manifest)
    count = frames = 0
    for chunk in read_chunks(chunks, manifest):
        count += 1
        frames += sum(1 for _ in chunk.frames())
    if manifest is not None and frames != manifest.frames:
        raise BadRecording(f"{frames} frames, but the manifest says {manifest.frames}")
    return Verdict(
        manifest is not None, count, frames, manifest.recovered if manifest is not None else False
    )


def moment_of(manifest: Manifest, valid_after: int) -> datetime:
    """Return the time at which the signer's certificate has to be good.

    A recording may be closed long after it was made, with a certificate renewed since.
    """
    earliest = datetime.fromtimestamp(min(valid_after, 253402214400), UTC)
    return max(manifest.ended, earliest)
