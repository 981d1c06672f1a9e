"""How do several chunks go to auth in one call?

The body of ``put_chunks`` has for each chunk the id of its recording (36 characters), its number
and its length (4 bytes each), and its bytes. The answer says of each what became of it.

Invariants:

* A batch is read in full, and every length compared with what is there, before anything is stored.
* What is wrong with one chunk is answered for that chunk; the others are stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import partial
from typing import Final

from attrs import field, frozen

from tele.errors import BY_KIND, AccessDenied, InvalidInput, TeleError
from tele.model.api.recordings import CHUNK, StoredChunk

#: Chunks in one call, at most.
CHUNKS_LIMIT: Final = 128
_HEAD: Final = struct.Struct(">36sII")
HEAD_SIZE: Final = _HEAD.size


@frozen
class BatchChunk:
    """One chunk of a batch."""

    id: str
    number: int
    data: bytes = field(repr=False)


def pack_chunks(chunks: Iterable[BatchChunk]) -> bytes:
    """Return the body of ``put_chunks``."""
    parts: list[bytes] = []
    for chunk in chunks:
        parts += (_HEAD.pack(chunk.id.encode("ascii"), chunk.number, len(chunk.data)), chunk.data)
    return b"".join(parts)


def unpack_chunks(body: bytes) -> list[BatchChunk]:
    """Read the body of ``put_chunks``. Raises :class:`InvalidInput`."""
    chunks: list[BatchChunk] = []
    at = 0
    while at < len(body):
        if len(body) - at < HEAD_SIZE:
            raise InvalidInput("the chunks are cut off")
        name, number, size = _HEAD.unpack_from(body, at)
        at += HEAD_SIZE
        if size > len(body) - at:
            raise InvalidInput("the chunks are cut off")
        if number > CHUNK.greatest:
            raise InvalidInput(f"a recording has no chunk {number}")
        try:
            recording_id = name.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidInput("not the id of a recording") from None
        chunks.append(BatchChunk(recording_id, number, body[at : at + size]))
        at += size
        if len(chunks) > CHUNKS_LIMIT:
            raise InvalidInput(f"more than {CHUNKS_LIMIT} chunks")
    return chunks


def refused(chunk: BatchChunk, error: TeleError) -> StoredChunk:
    """Return the answer for a chunk that was not stored."""
    answer = partial(StoredChunk, chunk.id, chunk.number, error=str(error))
    if isinstance(error, AccessDenied):
        reason = str(getattr(error.reason, "value", error.reason))
        return answer(kind=AccessDenied.kind, reason=reason)
    kinds = (kind for kind, cls in BY_KIND.items() if cls is not TeleError)
    return answer(kind=next((k for k in kinds if isinstance(error, BY_KIND[k])), TeleError.kind))


def error_of(answer: StoredChunk) -> TeleError | None:
    """Return why a chunk was not stored, if it was not."""
    if not answer.kind:
        return None
    if answer.kind == AccessDenied.kind:
        return AccessDenied(answer.error, answer.reason)
    return BY_KIND.get(answer.kind, TeleError)(answer.error)
