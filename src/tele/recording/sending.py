"""How do the chunks of many recordings get to auth with few calls? In batches.

A chunk is sent at once if there is a free call. While all calls are under way, chunks gather, and
the next call takes as many as fit: under load a call has many, without load none waits.

Invariants:

* The chunks of one recording arrive in order: it is in one call at a time.
* Calls, and the bytes of each, are bounded. What waits is bounded by the caller.
* Each chunk has its own answer. A call that fails is the failure of all its chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.errors import TeleError
from tele.interfaces import IAuthority
from tele.model.api.recordings import PUT_CHUNKS, ChunksStored, PutChunks, StoredChunk
from tele.recording.batch import CHUNKS_LIMIT, HEAD_SIZE, BatchChunk, error_of, pack_chunks

#: Calls at once.
CALLS: Final = 3
#: Bytes of one call, unless one chunk is longer.
BATCH_BYTES: Final = 2 << 20


@frozen(eq=False)
class _Waiting:
    chunk: BatchChunk
    answer: Deferred[StoredChunk]


class ChunkSender:
    """Sends chunks through ``authority``."""

    def __init__(self, authority: IAuthority) -> None:
        self._authority = authority
        self._waiting: list[_Waiting] = []
        #: Recordings that have chunks in a call.
        self._sent: set[str] = set()
        self._calls = 0

    def send(self, chunks: Sequence[BatchChunk]) -> list[Deferred[StoredChunk]]:
        """Send chunks of one recording, in order; each fires with auth's answer to it, or fails."""
        waiting = [_Waiting(chunk, Deferred()) for chunk in chunks]
        self._waiting += waiting
        self._next()
        return [each.answer for each in waiting]

    def _next(self) -> None:
        while self._calls < CALLS and (batch := self._take()):
            self._calls += 1
            self._sent.update(each.chunk.id for each in batch)
            Deferred.fromCoroutine(self._call(batch))

    def _take(self) -> list[_Waiting]:
        """Return the chunks of the next call."""
        taken: list[_Waiting] = []
        left: list[_Waiting] = []
        size = 0
        held = set(self._sent)
        for each in self._waiting:
            length = HEAD_SIZE + len(each.chunk.data)
            full = len(taken) == CHUNKS_LIMIT or (taken and size + length > BATCH_BYTES)
            if full or each.chunk.id in held:
                held.add(each.chunk.id)  # none of its later ones is sent before it
                left.append(each)
            else:
                taken.append(each)
                size += length
        self._waiting = left
        return taken

    async def _call(self, batch: Sequence[_Waiting]) -> None:
        answers: dict[tuple[str, int], StoredChunk] = {}
        failure: Failure | None = None
        try:
            body = pack_chunks(each.chunk for each in batch)
            stored: ChunksStored = await self._authority.perform(PUT_CHUNKS, PutChunks(body))
            answers = {(each.id, each.number): each for each in stored.items}
        except Exception:
            failure = Failure()
        self._calls -= 1
        self._sent.difference_update(each.chunk.id for each in batch)
        for each in batch:
            _answer(each, answers.get((each.chunk.id, each.chunk.number)), failure)
        self._next()


def _answer(waiting: _Waiting, answer: StoredChunk | None, failure: Failure | None) -> None:
    if failure is not None:
        waiting.answer.errback(failure)
    elif answer is None:
        waiting.answer.errback(TeleError("auth did not answer for this chunk"))
    elif (error := error_of(answer)) is not None:
        waiting.answer.errback(error)
    else:
        waiting.answer.callback(answer)
