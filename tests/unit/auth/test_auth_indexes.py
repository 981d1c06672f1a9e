"""Indexes at auth: made once a recording is closed, made again after failures, given to readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from os import urandom
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import OTHER_ID, Tape, World, result
from recorded_sessions import chunks_of, frame, opened
from tele.auth import index_blobs, recording_indexes
from tele.auth.manifests import chunk_name
from tele.auth.recording_indexes import INDEX, RecordingIndexes
from tele.auth.recording_keys import RecordingEncryption
from tele.errors import AccessDenied, BadRecording, NotFound, TeleError, Unavailable
from tele.interfaces import Delete
from tele.model.api import recordings, table
from tele.model.api.keeping import RemoveRecording
from tele.model.api.paging import ById
from tele.model.api.recordings import GetIndex, IndexState
from tele.model.frame import FrameKind
from tele.recording import index_program
from tele.recording.index_program import IndexProcess, IndexProgram, MadeIndex
from tele.recording.indexing import Indexer
from tele.tape.index import HEAD_SIZE, read_index, tables_end
from tele.tape.layout import digest
from tele.tape.sealed_index import open_index
from tele.tape.sealing import DataKey, public_key, wrap
from tele.tape.verify import to_sign


class Making:
    """Makes indexes as the real one does, or fails as often as a test says."""

    def __init__(self, world: World) -> None:
        self._real = Indexer(world.clock)
        self.failures: list[TeleError] = []
        self.terminals: list[str] = []
        self.waits: Deferred[None] | None = None

    async def make(self, *arguments: Any) -> MadeIndex:
        self.terminals.append(arguments[5])
        if self.waits is not None:
            await self.waits
        if self.failures:
            raise self.failures.pop(0)
        return await self._real.make(*arguments)

    async def digest(self, data: bytes) -> str:
        return await self._real.digest(data)

    async def check(self, data: bytes, check: Any) -> None:
        await self._real.check(data, check)

    def kill(self) -> None:
        self._real.kill()

    async def close(self) -> None:
        await self._real.close()


@pytest.fixture
def making(world: World) -> Iterator[Making]:
    making: Any = Making(world)
    recordings_ = world.parts.recordings
    recordings_.indexes = RecordingIndexes(
        world.backend, world.archive, world.clock, making, recordings_.find,
        keys=recordings_.keys,
    )  # fmt: skip
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
    with pytest.raises(NotFound, match="not closed"):
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
    for prefix in (recording_indexes.WAITING, recording_indexes.FAILED, index_blobs.INDEXED):
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
    begin = IndexProgram.start

    def noted(program: IndexProgram, cpu_seconds: int) -> IndexProcess:
        given.append(cpu_seconds)
        return begin(program, cpu_seconds)

    monkeypatch.setattr(IndexProgram, "start", noted)
    tape = session(world)
    tape.finish()
    each = index_program.CPU_PER_CHUNK[making.terminals[0]]
    assert given == [index_program.CPU_SECONDS + each * len(tape.chunks)]


def test_attack_very_many_chunks_do_not_get_days(
    world: World, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of a few bytes unpack to megabytes: a recording of many keeps others waiting for a
    bounded time.
    """
    given: list[int] = []

    def noted(_program: IndexProgram, cpu_seconds: int) -> IndexProcess:
        given.append(cpu_seconds)
        raise OSError("no more of it")

    monkeypatch.setattr(IndexProgram, "start", noted)
    monkeypatch.setattr(index_program, "CPU_PER_CHUNK", {"ghostty": 40_000, "own": 40_000})
    session(world).finish()
    assert given == [index_program.CPU_LIMIT[making.terminals[0]]]


def test_attack_hosts_and_users_with_many_recordings_wait(world: World, making: Making) -> None:
    """A host whose recordings take long, and a user with many of them, come after others: it does
    not help that a host chooses its ids, which are the order in the store.
    """
    making.waits = Deferred()
    first = session(world, "mallory")
    first.finish()  # it is made now, and takes long
    world.clock.advance(1000)
    slow = [session(world, user) for user in ("mallory", "mallory", "alice")]
    other = session(world, "mallory")
    for tape in (*slow, other):
        tape.finish()
    indexes, row = world.parts.recordings.indexes, result(world.parts.recordings.get(other.id))
    assert indexes is not None
    result(world.backend.commit(indexes.wait(evolve(row, node_id=OTHER_ID))))
    made: list[str] = []
    make = making.make

    async def noted(*arguments: Any) -> MadeIndex:
        made.append(arguments[1])
        return await make(*arguments)

    making.make = noted  # type: ignore[method-assign]
    making.waits.callback(None)
    making.waits = None
    for _ in range(8):
        world.clock.advance(1)
    assert made[:2] == [other.id, slow[2].id]
    assert sorted(made[2:]) == sorted(tape.id for tape in slow[:2])


def test_attack_a_recording_that_cannot_be_stored_ends_nothing(
    world: World, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that was not foreseen is one of that recording: others get their index."""
    indexes = world.parts.recordings.indexes
    assert indexes is not None

    async def overflow(*_: Any) -> None:
        raise OverflowError("a number is too large")

    monkeypatch.setattr(indexes, "_made", overflow)
    bad = session(world)
    bad.finish()
    world.clock.advance(1)
    assert state(world, bad) is IndexState.WAITING
    monkeypatch.undo()
    good = session(world)
    good.finish()
    world.clock.advance(1)
    assert state(world, good) is IndexState.READY


# -- what is damaged, and what has no manifest -----------------------------------------------
def damage(world: World, tape: Tape, how: str) -> None:
    """Do to the index what a bad disk or an intruder does."""
    blob = world.archive.blobs[tape.id, INDEX]
    tables, whole = tables_end(blob[:HEAD_SIZE]), len(blob)
    if how == "another recording":
        other = session(world)
        other.finish()
        blob = world.archive.blobs[other.id, INDEX]
    elif how == "cut off":
        blob = blob[:tables]
    elif how == "empty":
        blob = b""
    else:
        at = {"head": 2, "length": 44, "tables": (HEAD_SIZE + tables) // 2, "state": whole - 9}[how]
        blob = blob[:at] + bytes((blob[at] ^ 0x10,)) + blob[at + 1 :]
    world.archive.blobs[tape.id, INDEX] = blob


@pytest.mark.parametrize(
    "how", ["head", "length", "tables", "state", "cut off", "empty", "another recording"]
)
def test_a_damaged_index_is_made_again(world: World, making: Making, how: str) -> None:
    """The first reader makes auth notice; the next one gets an index that is right."""
    tape = session(world)
    tape.finish()
    good = get(world, tape)
    world.clock.advance(index_blobs.CHECK_SECONDS)
    damage(world, tape, how)
    if how in ("head", "cut off", "empty"):  # an answer cannot even begin
        with suppress(NotFound):
            get(world, tape)
    else:
        get(world, tape)
    world.clock.pump([1.0] * 3)
    assert state(world, tape) is IndexState.READY
    assert get(world, tape) == good
    assert len(making.terminals) == (3 if how == "another recording" else 2)


def test_a_good_index_is_compared_and_kept(world: World, making: Making) -> None:
    """Once an hour, not each time that it is read; nothing is made again."""
    tape = session(world)
    tape.finish()
    for _ in range(3):
        get(world, tape)
        world.clock.pump([1.0] * 3)
    assert len(making.terminals) == 1
    assert state(world, tape) is IndexState.READY
    assert [name for _, name in world.archive.blobs if name.startswith(INDEX)] == [INDEX]


def test_an_index_of_an_older_version_is_checked_part_by_part(world: World, making: Making) -> None:
    """Its digest was not noted: each state of it is read."""
    tape = session(world)
    tape.finish()
    result(world.backend.commit(Delete(index_blobs.INDEXED + tape.id)))
    get(world, tape)
    world.clock.pump([1.0] * 3)
    assert len(making.terminals) == 1
    world.clock.advance(index_blobs.CHECK_SECONDS)
    damage(world, tape, "state")
    get(world, tape)
    world.clock.pump([1.0] * 3)
    assert len(making.terminals) == 2


def test_a_recording_that_its_node_never_closed_gets_an_index(world: World, making: Making) -> None:
    """Auth closed it: its chunks are indexed as far as they go, each after the one before."""
    tape = session(world)
    result(world.parts.recordings.close_incomplete(tape.id, "its node is gone"))
    world.clock.pump([1.0] * 3)
    assert state(world, tape) is IndexState.READY
    index = read_index(get(world, tape))
    assert len(index.chunks) == len(tape.chunks)
    assert index.digest == digest(tape.chunks[-1])


def test_its_index_is_made_again_when_its_node_completes_it(world: World, making: Making) -> None:
    """The node came back after all, with more: the index is of all that there is."""
    tape = session(world)
    world.archive.blobs.pop((tape.id, chunk_name(len(tape.chunks) - 1)))
    result(world.parts.recordings.close_incomplete(tape.id, "its node is gone"))
    world.clock.pump([1.0] * 3)
    assert len(read_index(get(world, tape)).chunks) == len(tape.chunks) - 1
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    tape.upload(len(tape.chunks) - 1)
    tape.finish()
    world.clock.pump([1.0] * 3)
    assert len(read_index(get(world, tape)).chunks) == len(tape.chunks)


def test_a_chunk_in_its_middle_is_not_another_recordings(world: World, making: Making) -> None:
    """Without a manifest the chain tells: no index is made of what does not belong together."""
    tape, other = session(world), session(world)
    name = chunk_name(1)
    world.archive.blobs[tape.id, name] = world.archive.blobs[other.id, name]
    result(world.parts.recordings.close_incomplete(tape.id, "its node is gone"))
    world.clock.pump([1.0] * 3)
    with pytest.raises(NotFound, match="being made"):
        get(world, tape)
    (waiting,) = result(world.backend.range(recording_indexes.WAITING, "/recordings/unindexee"))
    assert b"does not follow the one before" in waiting.value


def test_nothing_of_it_arrived(world: World, making: Making) -> None:
    """A recording without a chunk has no index, and says so."""
    tape = Tape(world)
    result(world.parts.recordings.close_incomplete(tape.id, "its node is gone"))
    world.clock.pump([1.0] * 3)
    with pytest.raises(NotFound, match="nothing of it has arrived"):
        get(world, tape)


# -- sealed recordings -----------------------------------------------------------------------
AUTH_KEY, RECOVERY, SECRET = bytes([1]) * 32, bytes([8]) * 32, bytes(range(32))


def sealed_session(world: World, private: bytes = AUTH_KEY, **words: Any) -> Tape:
    """A session that is sealed for ``private``, closed. ``words`` are of the configuration."""
    encryption = RecordingEncryption(True, AUTH_KEY, (public_key(RECOVERY),), **words)
    world.parts.recordings.keys._encryption = encryption
    tape = Tape(world, seal=lambda id_: (wrap(1, SECRET, public_key(private), id_),))
    output = (frame(at, FrameKind.OUTPUT, b"line %d\r\n" % at) for at in range(0, 40, 2))
    key = DataKey(1, SECRET, urandom)
    tape.chunks = chunks_of([opened(), *output], each=8, start=tape.start, seal=key)
    tape.upload(*range(len(tape.chunks)))
    manifest = evolve(tape.manifest(), keys=1)
    tape.finish(evolve(manifest, signature=tape.key.sign(to_sign(manifest))))
    return tape


def test_the_index_of_a_sealed_recording_is_sealed(world: World, making: Making) -> None:
    """Auth makes it, with the key that it has; it opens with the recording's data key alone."""
    tape = sealed_session(world)
    assert state(world, tape) is IndexState.READY
    blob = get(world, tape)
    with pytest.raises(BadRecording):
        read_index(blob)
    index, read = open_index(blob, {1: SECRET}, tape.id)
    assert len(index.chunks) == len(tape.chunks)
    last = index.keyframes[-1]
    assert b"line" in read(last, blob[index.states + last.offset :][: last.packed])
    with pytest.raises(BadRecording):
        open_index(blob, {1: bytes(32)}, tape.id)


@pytest.mark.parametrize("searchable", [False, True])
def test_the_text_of_a_sealed_recording_is_kept_only_on_request(
    world: World, making: Making, searchable: bool
) -> None:
    """For the search it would be in clear: by default auth does not keep it."""
    kept: list[str] = []

    async def made(row: Any, index: MadeIndex) -> None:
        kept.append(row.id)

    indexes = world.parts.recordings.indexes
    assert indexes is not None
    indexes._made = made
    clear = session(world)
    clear.finish()
    tape = sealed_session(world, searchable=searchable)
    world.clock.pump([1.0] * 3)
    assert kept == [clear.id, tape.id] if searchable else kept == [clear.id]


def test_without_its_key_there_is_no_index(world: World, making: Making) -> None:
    """It is sealed for a recovery key alone: auth says so, and tries again later."""
    tape = sealed_session(world, RECOVERY)
    assert state(world, tape) is IndexState.WAITING
    (waiting,) = result(world.backend.range(recording_indexes.WAITING, "/recordings/unindexee"))
    assert b"this auth has no key for it" in waiting.value
