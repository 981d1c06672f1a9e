"""Chunks of many recordings go to auth in few calls, each with its own answer."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.errors import (
    AccessDenied,
    BadRecording,
    InvalidInput,
    StorageFull,
    TeleError,
    Unreachable,
)
from tele.interfaces import IAuthority
from tele.model.api.recordings import CHUNK, ChunksStored, PutChunks, StoredChunk
from tele.recording.batch import (
    CHUNKS_LIMIT,
    BatchChunk,
    error_of,
    pack_chunks,
    refused,
    unpack_chunks,
)
from tele.recording.sending import BATCH_BYTES, CALLS, ChunkSender

IDS = [str(uuid.UUID(int=number)) for number in range(400)]


@implementer(IAuthority)
class Auth:
    """Answers calls when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[BatchChunk], Deferred[Any]]] = []

    def perform(self, operation: Any, request: PutChunks) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.calls.append((unpack_chunks(request.data), answer))
        return answer

    def follow(self, operation: Any, request: Any, receiver: Any) -> Deferred[None]:
        raise NotImplementedError

    def answer(self, number: int = 0) -> list[BatchChunk]:
        """Store all chunks of one call; return them."""
        chunks, answer = self.calls.pop(number)
        answer.callback(ChunksStored(tuple(StoredChunk(c.id, c.number) for c in chunks)))
        return chunks


def chunk(number: int, at: int = 0, size: int = 10) -> BatchChunk:
    return BatchChunk(IDS[number], at, bytes(size))


def send(sender: ChunkSender, *chunks: BatchChunk) -> list[Any]:
    """Send chunks of one recording; return what their answers will be."""
    results: list[Any] = []
    for answer in sender.send(chunks):
        answer.addBoth(results.append)
    return results


def test_a_batch_is_read_as_it_was_written() -> None:
    """Ids, numbers and bytes, an empty chunk among them."""
    chunks = [chunk(0), chunk(0, 1, 0), chunk(1, CHUNK.greatest)]
    assert unpack_chunks(pack_chunks(chunks)) == chunks
    assert unpack_chunks(b"") == []


@pytest.mark.parametrize(
    "bad",
    [
        pack_chunks([chunk(0)])[:-1],
        pack_chunks([chunk(0)]) + b"x",
        b"\xff" + pack_chunks([chunk(0)])[1:],
        pack_chunks([chunk(0)] * (CHUNKS_LIMIT + 1)),
        pack_chunks([chunk(0, CHUNK.greatest + 1)]),
    ],
)
def test_a_bad_batch_is_refused_before_anything_is_stored(bad: bytes) -> None:
    """Lengths are compared with what is there, and the number of chunks is bounded."""
    with pytest.raises(InvalidInput):
        unpack_chunks(bad)


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("no", "host"),
        StorageFull("full"),
        BadRecording("bad"),
        InvalidInput("x"),
        TeleError("y"),
    ],
)
def test_an_error_keeps_its_kind(error: TeleError) -> None:
    """What a node does about it depends on that."""
    found = error_of(refused(chunk(0), error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert getattr(found, "reason", "") == getattr(error, "reason", "")


def test_a_chunk_goes_at_once_and_others_gather() -> None:
    """A thousand recordings need few calls; none waits without need."""
    auth = Auth()
    sender = ChunkSender(auth)
    results = [send(sender, chunk(number)) for number in range(300)]
    assert [len(chunks) for chunks, _ in auth.calls] == [1] * CALLS
    count = 0
    while auth.calls:
        auth.answer()
        count += 1
    assert count == CALLS + 3
    assert all(isinstance(result[0], StoredChunk) for result in results)


def test_chunks_of_one_recording_stay_in_order() -> None:
    """It is in one call at a time; others are not held back by that."""
    auth = Auth()
    sender = ChunkSender(auth)
    send(sender, chunk(0, 0), chunk(0, 1))
    send(sender, chunk(0, 2))
    send(sender, chunk(1, 0))
    assert [[(c.id, c.number) for c in chunks] for chunks, _ in auth.calls] == [
        [(IDS[0], 0), (IDS[0], 1)],
        [(IDS[1], 0)],
    ]
    auth.answer()
    assert [c.number for c in auth.calls[-1][0]] == [2]


def test_a_call_has_a_limited_size() -> None:
    """What does not fit goes with the next one, in order; one long chunk goes alone."""
    auth = Auth()
    sender = ChunkSender(auth)
    for number in range(CALLS):
        send(sender, chunk(number))
    send(sender, chunk(10, 0, BATCH_BYTES - 1000), chunk(10, 1, 2000), chunk(10, 2, 1))
    send(sender, chunk(11, 0, BATCH_BYTES * 2))
    auth.answer()
    assert [(c.id, c.number) for c in auth.calls[-1][0]] == [(IDS[10], 0)]
    auth.answer(-1)
    assert [(c.id, c.number) for c in auth.calls[-1][0]] == [(IDS[10], 1), (IDS[10], 2)]
    auth.answer(-1)
    assert [(c.id, c.number) for c in auth.calls[-1][0]] == [(IDS[11], 0)]


def test_each_chunk_has_its_own_answer() -> None:
    """One that is refused, or not answered, fails alone; a call that fails takes all along."""
    auth = Auth()
    sender = ChunkSender(auth)
    for number in range(CALLS):
        send(sender, chunk(number))
    results = [send(sender, chunk(number)) for number in (5, 6, 7)]
    auth.answer()
    chunks, answer = auth.calls.pop()
    answer.callback(
        ChunksStored((StoredChunk(chunks[0].id, 0), refused(chunks[1], InvalidInput("bad"))))
    )
    assert isinstance(results[0][0], StoredChunk)
    assert isinstance(results[1][0], Failure)
    assert results[1][0].check(InvalidInput)
    assert results[2][0].check(TeleError)
    while auth.calls:
        auth.answer()
    lost = [send(sender, chunk(number)) for number in range(CALLS + 2)]
    while auth.calls:
        auth.calls.pop()[1].errback(Unreachable("away"))
    assert all(each[0].check(Unreachable) for each in lost)
