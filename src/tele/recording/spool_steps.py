"""What of an upload is done on one folder of the spool, in a thread?

Each function may raise OSError; none waits for auth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from tele.capacity.disk import DiskReserve
from tele.errors import InvalidInput
from tele.model.session import Manifest, RecordingStart, WrappedKey
from tele.recording.batch import BatchChunk
from tele.recording.spool import SpoolFolder, Stored

#: Chunks of one recording that are read at once, and their bytes.
GROUP: Final = 16
GROUP_BYTES: Final = 1 << 20


@frozen
class Here:
    """What the spool has of one recording. ``first`` are the first chunks to upload or release."""

    start: RecordingStart | None
    keys: tuple[WrappedKey, ...]
    manifest: Manifest | None
    interactive: bool
    numbers: tuple[int, ...]
    first: list[BatchChunk]


def read_spool(folder: SpoolFolder, started: bool) -> Here:
    """Read what is to be sent; the start only if auth has not ``started`` the recording.

    The manifest is read before the chunks: it is written after them.
    """
    start = None if started else folder.start
    manifest = folder.manifest
    numbers = tuple(folder.numbers())
    keys = () if started else folder.keys.wrapped
    first = read_chunks(folder, numbers)
    return Here(start, keys, manifest, folder.interactive, numbers, first)


def read_chunks(folder: SpoolFolder, numbers: Sequence[int]) -> list[BatchChunk]:
    """Read the first of these chunks, as many as are sent at once."""
    chunks: list[BatchChunk] = []
    size = 0
    for number in numbers[:GROUP]:
        chunks.append(BatchChunk(folder.id, number, folder.chunk(number)))
        size += len(chunks[-1].data)
        if size >= GROUP_BYTES:
            break
    return chunks


def release(
    folder: SpoolFolder,
    chunks: Sequence[BatchChunk],
    known: Sequence[Stored | None],
    reserve: DiskReserve,
) -> list[Stored]:
    """Release chunks that auth has, and return their summaries."""
    return [
        folder.release(chunk.number, chunk.data, reserve, each)
        for chunk, each in zip(chunks, known, strict=True)
    ]


def weigh(folder: SpoolFolder) -> tuple[str, int]:
    """Return its user and size; empty and 0 if they cannot be read."""
    user, size = "", 0
    with contextlib.suppress(OSError, InvalidInput):  # closing it will report the error
        size = folder.size
        user = folder.start.user
    return user, size


def is_closed(folder: SpoolFolder) -> bool:
    """Whether its recording has an end."""
    return folder.path.exists() and folder.is_closed


def remove(folder: SpoolFolder) -> None:
    """Remove it, if it is there."""
    if folder.path.exists():
        folder.remove()


def put_aside(folder: SpoolFolder) -> str:
    """Move it out of the way; returns where it is now."""
    if not folder.path.exists():
        return "nothing"
    moved = folder.path.with_name(f"refused-{folder.id}")
    folder.path.rename(moved)
    return str(moved)
