"""A crowd of sessions: their chunks fill the calls to auth, and what is in memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from spool_world import Place, output, place, start
from tele.interfaces import IAuthority
from tele.model.api.operation import Nothing
from tele.model.api.recordings import ChunksStored, OpenRecordings, RecordingProgress, StoredChunk
from tele.recording import upload
from tele.recording.batch import CHUNKS_LIMIT, BatchChunk, unpack_chunks
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.sending import CALLS
from tele.recording.upload import STEPS_AT_ONCE, Uploader
from tele.recording.upload_memory import UploadMemory

__all__ = ("place",)


@implementer(IAuthority)
@define
class Auth:
    """Answers calls with chunks, and starts of recordings if ``slow``, when the test says so."""

    slow: bool = False
    chunks: list[tuple[list[BatchChunk], Deferred[Any]]] = field(factory=list)
    starts: list[Deferred[Any]] = field(factory=list)

    def perform(self, operation: Any, request: Any) -> Deferred[Any]:
        match operation.name:
            case "put_chunks":
                answer: Deferred[Any] = Deferred()
                self.chunks.append((unpack_chunks(request.data), answer))
                return answer
            case "start_recording" if self.slow:
                self.starts.append(Deferred())
                return self.starts[-1]
            case "recording_progress":
                return succeed(RecordingProgress((), False))
            case "open_recordings":
                return succeed(OpenRecordings(()))
        return succeed(Nothing())

    def follow(
        self, operation: Any, request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        raise NotImplementedError

    def store(self) -> list[BatchChunk]:
        """Answer the first of the calls that wait; returns its chunks."""
        chunks, answer = self.chunks.pop(0)
        answer.callback(ChunksStored(tuple(StoredChunk(c.id, c.number) for c in chunks)))
        return chunks


def crowd(place: Place, count: int, size: int = 10) -> None:
    """Sessions at once, each of which has shown something."""
    for _ in range(count):
        place.open(start()).write(output(1, bytes(size)))
    place.clock.advance(FLUSH_SECONDS)


def test_the_chunks_of_a_crowd_fill_the_calls(place: Place) -> None:
    """As many recordings are uploaded at once as fit into the calls: the time of one call, which a
    slow disk of auth makes long, is shared by many.
    """
    auth = Auth()
    uploader = Uploader(place.recorder, auth)
    uploader.start()
    crowd(place, CHUNKS_LIMIT + CALLS)
    assert len(auth.chunks) == CALLS
    for _ in range(CALLS):  # the first ones went at once, when there was one chunk
        auth.store()
    assert len(auth.store()) == CHUNKS_LIMIT
    while auth.chunks:
        auth.store()
    uploader.stop()


def test_few_recordings_are_begun_at_once(place: Place) -> None:
    """Each needs calls of its own: auth is asked for so many at once, and the others follow."""
    auth = Auth(slow=True)
    uploader = Uploader(place.recorder, auth)
    uploader.start()
    crowd(place, 2 * STEPS_AT_ONCE)
    assert len(auth.starts) == STEPS_AT_ONCE
    for answered in range(STEPS_AT_ONCE):
        auth.starts[answered].callback(Nothing())
    assert len(auth.starts) == 2 * STEPS_AT_ONCE
    uploader.stop()
    while auth.chunks:
        auth.store()


def test_what_is_in_memory_is_bounded(place: Place, monkeypatch: Any) -> None:
    """After a time without auth many recordings have much to send: little is read at once."""
    monkeypatch.setattr(upload, "MEMORY", 10_000)
    auth = Auth()
    uploader = Uploader(place.recorder, auth)
    uploader.start()
    monkeypatch.setattr(place.recorder, "changed", lambda _: None)
    crowd(place, 20, 0)
    taken: list[int] = []
    take = uploader._memory.take

    def counted(size: int) -> Deferred[None]:
        answer = take(size)
        taken.append(uploader._memory.used)
        return answer

    monkeypatch.setattr(uploader._memory, "take", counted)
    for folder in place.spool.folders():
        (folder.path / "00000001.chunk").write_bytes(bytes(4_000))
        uploader.changed(folder.id)
    sent = 0
    while auth.chunks:
        sent += len(auth.store())
    assert sent == 40
    assert max(taken) <= 10_000
    assert uploader._memory.used == 0
    uploader.stop()


def test_who_waits_longest_for_memory_is_next() -> None:
    """A large group is not passed by small ones for ever; and it gets through alone."""
    memory = UploadMemory(100)
    order: list[str] = []
    memory.take(60).addCallback(lambda _: order.append("first"))
    memory.take(200).addCallback(lambda _: order.append("large"))
    memory.take(10).addCallback(lambda _: order.append("small"))
    assert order == ["first"]
    memory.give(60)
    assert order == ["first", "large"]
    memory.give(200)
    assert (order, memory.used) == (["first", "large", "small"], 10)
