"""Indexes at auth: made once a recording is closed, made again after failures, given to readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from auth_world import Tape, World, result
from recorded_sessions import chunks_of, frame, opened
from tele.auth import recording_indexes
from tele.auth.recording_indexes import INDEX, RecordingIndexes
from tele.errors import AccessDenied, BadRecording, NotFound, TeleError, Unavailable
from tele.model.api import recordings, table
from tele.model.api.keeping import RemoveRecording
from tele.model.api.paging import ById
from tele.model.api.recordings import GetIndex, IndexState
from tele.model.frame import FrameKind
from tele.recording import indexing
from tele.recording.indexing import Indexer, MadeIndex
from tele.tape.index import HEAD_SIZE, read_index, tables_end


class Making:
    """Makes indexes as the real one does, or fails as often as a test says."""

    def __init__(self, world: World) -> None:
        self._real = Indexer(world.clock)
        self.failures: list[TeleError] = []
        self.terminals: list[str] = []
        self.waits: Deferred[None] | None = None

    async def make(self, *arguments: Any) -> MadeIndex:
        self.terminals.append(arguments[-1])
        if self.waits is not None:
            await self.waits
        if self.failures:
            raise self.failures.pop(0)
        return await self._real.make(*arguments)

    def kill(self) -> None:
        self._real.kill()

    async def close(self) -> None:
        await self._real.close()


@pytest.fixture
def making(world: World) -> Iterator[Making]:
    making: Any = Making(world)
    recordings_ = world.parts.recordings
    recordings_.indexes = RecordingIndexes(
        world.backend, world.archive, world.clock, making, recordings_.find
    )
    recordings_.indexes.start()
    yield making
    result(recordings_.indexes.stop())


def session(world: World, user: str = "alice") -> Tape:
    """A session of twenty seconds, uploaded but not closed."""
    tape = Tape(world, user)
    output = (frame(at, FrameKind.OUTPUT, b"line %d\r\n" % at) for at in range(0, 40, 2))
    tape.chunks = chunks_of([opened(), *output], each=8, start=tape.start)
    tape.upload(*range(len(tape.chunks)))
    return tape


def state(world: World, tape: Tape) -> IndexState:
    details = world.do(table.GET_RECORDING, ById(tape.id))
    assert isinstance(details.index, IndexState)
    return details.index


def get(world: World, tape: Tape, start: int = 0, end: int = 0, caller: Any = None) -> bytes:
    data: bytes = world.do(table.GET_INDEX, GetIndex(tape.id, start, end), caller).data
    return data


def test_a_closed_recording_gets_its_index(world: World, making: Making) -> None:
    """The index is there once the recording is closed, and is read in parts."""
    tape = session(world)
    with pytest.raises(NotFound, match="not complete"):
        get(world, tape)
    assert state(world, tape) is IndexState.NONE
    tape.finish()
    assert state(world, tape) is IndexState.READY
    head = get(world, tape, 0, HEAD_SIZE)
    index = read_index(get(world, tape, 0, tables_end(head)))
    assert len(index.chunks) == len(tape.chunks)
    assert index.whole
    assert get(world, tape)[:HEAD_SIZE] == head
    assert get(world, tape, -1) == get(world, tape)[-1:]
    assert get(world, tape, 10**9) == b""


def test_an_index_of_other_chunks_is_sent_whole(world: World, making: Making) -> None:
    """A reader that has a part of an index gets no part of another one."""
    tape = session(world)
    tape.finish()
    one = world.do(table.GET_INDEX, GetIndex(tape.id, 4, 9))
    assert (one.start, len(one.data)) == (4, 5)
    same = world.do(table.GET_INDEX, GetIndex(tape.id, 4, 9, one.tag))
    assert same == one
    other = world.do(table.GET_INDEX, GetIndex(tape.id, 4, 9, "beef"))
    assert (other.start, len(other.data)) == (0, other.total)


def test_a_failed_attempt_is_made_again(world: World, making: Making) -> None:
    """Each attempt waits longer; the last one uses tele's own terminal, whatever is installed."""
    making.failures = [Unavailable("the archive is away"), BadRecording("odd"), Unavailable("no")]
    tape = session(world)
    tape.finish()
    assert state(world, tape) is IndexState.WAITING
    with pytest.raises(NotFound, match="being made"):
        get(world, tape)
    for seconds in recording_indexes.RETRY_SECONDS:
        world.clock.pump([60.0] * int(seconds / 60 + 2))
    assert state(world, tape) is IndexState.READY
    assert len(making.terminals) == recording_indexes.ATTEMPTS
    assert making.terminals[-1] == "own"


def test_what_cannot_be_indexed_is_named(world: World, making: Making) -> None:
    """After the last attempt there is no index, the reason is stated, and others are made."""
    making.failures = [BadRecording("its frames cannot be read")] * recording_indexes.ATTEMPTS
    bad = session(world)
    bad.finish()
    for seconds in recording_indexes.RETRY_SECONDS:
        world.clock.pump([60.0] * int(seconds / 60 + 2))
    assert state(world, bad) is IndexState.FAILED
    with pytest.raises(NotFound, match="its frames cannot be read"):
        get(world, bad)
    good = session(world)
    good.finish()
    world.clock.pump([1.0] * 3)
    assert state(world, good) is IndexState.READY


def test_a_restart_goes_on(world: World, making: Making) -> None:
    """What was being made when auth stopped is made again, once the claim of that auth is over."""
    making.waits = Deferred()
    tape = session(world)
    tape.finish()
    indexes = world.parts.recordings.indexes
    assert indexes is not None
    result(indexes.stop())
    assert state(world, tape) is IndexState.WAITING
    again: Any = Making(world)
    second = RecordingIndexes(
        world.backend, world.archive, world.clock, again, world.parts.recordings.find
    )
    second.start()
    world.clock.pump([60.0] * 32)
    assert state(world, tape) is IndexState.READY
    result(second.stop())


def test_an_older_recording_gets_one_when_it_is_asked_for(world: World, making: Making) -> None:
    """A recording that was closed by a version without indexes waits once a reader asks."""
    indexes, world.parts.recordings.indexes = world.parts.recordings.indexes, None
    tape = session(world)
    tape.finish()
    world.parts.recordings.indexes = indexes
    assert state(world, tape) is IndexState.NONE
    with pytest.raises(NotFound, match="being made"):
        get(world, tape)
    assert state(world, tape) is IndexState.READY


def test_a_removed_recording_leaves_nothing(world: World, making: Making) -> None:
    """Removed while its index is made: neither the index nor its place in the queue stays."""
    waits = making.waits = Deferred()
    tape = session(world)
    tape.finish()
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    making.waits = None
    waits.callback(None)
    assert not [blob for blob in world.archive.blobs if blob[0] == tape.id]
    for prefix in (recording_indexes.WAITING, recording_indexes.FAILED):
        assert result(world.backend.range(prefix, prefix[:-1] + "0")) == []


def test_attack_the_index_is_as_secret_as_the_session(world: World, making: Making) -> None:
    """It has screens and commands: others need a rule, and each reading is an event."""
    world.add_user("alice", "access")
    world.add_user("mallory", "access")
    tape = session(world)
    tape.finish()
    with pytest.raises(AccessDenied, match="is of alice"):
        get(world, tape, caller=world.user("mallory", "access"))
    assert get(world, tape, caller=world.user("alice", "access"))
    assert [each.fields["of_user"] for each in world.events("recording.access")] == ["alice"]


def test_a_part_of_a_chunk(world: World, making: Making) -> None:
    """A chunk is read in parts, too, with its digest."""
    tape = session(world)
    whole = tape.chunks[1]
    part = world.do(table.GET_CHUNK, recordings.GetChunk(tape.id, 1, 3, 9))
    assert (part.data, part.start, part.total) == (whole[3:9], 3, len(whole))
    assert len(part.tag) == 64
    other = world.do(table.GET_CHUNK, recordings.GetChunk(tape.id, 1, 3, 9, "beef"))
    assert (other.data, other.start) == (whole, 0)


def test_the_blob_is_not_a_chunk(world: World, making: Making) -> None:
    """The number of chunks and the size of a recording do not change by its index."""
    tape = session(world)
    tape.finish()
    assert (tape.id, INDEX) in world.archive.blobs
    details = world.do(table.GET_RECORDING, ById(tape.id))
    assert (details.available, details.missing) == (len(tape.chunks), ())
    assert details.recording.size == sum(map(len, tape.chunks))


def test_a_recording_that_packs_well_gets_its_time(
    world: World, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU that the process may use is by the chunks, not by how small they are packed."""
    given: list[int] = []
    begin = indexing._Process.__init__

    def noted(process: Any, terminal: str, cpu_seconds: int) -> None:
        given.append(cpu_seconds)
        begin(process, terminal, cpu_seconds)

    monkeypatch.setattr(indexing._Process, "__init__", noted)
    tape = session(world)
    tape.finish()
    each = indexing.CPU_PER_CHUNK[making.terminals[0]]
    assert given == [indexing.CPU_SECONDS + each * len(tape.chunks)]
