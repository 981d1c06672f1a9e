"""Recordings that cannot be completed: they are closed, say so, and do not run any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import HOST_ID, OTHER_ID, Tape, World, result
from tele.auth.manifests import MISSING_LIMIT
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound
from tele.loop import now
from tele.model.api import recordings, table
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById
from tele.model.session import ChunkDigest, Manifest, RecordingState
from tele.tape.verify import to_sign


def close(world: World, tape: Tape, reason: str = "its node is gone", **words: Any) -> bool:
    """Close a recording as auth does by itself."""
    recordings = world.parts.recordings
    closing = recordings.close_incomplete(tape.id, reason, **words)
    return bool(result(Deferred.fromCoroutine(closing)))


def details(world: World, tape: Tape) -> recordings.RecordingDetails:
    found: recordings.RecordingDetails = world.do(table.GET_RECORDING, ById(tape.id))
    return found


def signed(tape: Tape, manifest: Manifest) -> Manifest:
    unsigned = evolve(manifest, signature=b"")
    return evolve(unsigned, signature=tape.key.sign(to_sign(unsigned)))


def running(world: World, tape: Tape) -> bool:
    open_ones = world.do(table.OPEN_RECORDINGS, Nothing(), tape.host)
    return tape.id in open_ones.ids


def test_auth_closes_recordings_without_a_node(world: World) -> None:
    """A recording that auth closes has an end and a reason, and its session runs no more."""
    tape = Tape(world)
    tape.upload(0)
    assert running(world, tape)
    ended = now(world.clock) + timedelta(seconds=2)
    world.clock.advance(60)
    assert close(world, tape, ended=ended)
    assert not close(world, tape, "another reason")
    found = details(world, tape)
    assert found.state is RecordingState.INCOMPLETE
    assert (found.recording.incomplete, found.recording.ended) == ("its node is gone", ended)
    assert not running(world, tape)


def test_a_node_that_reconnects_resumes(world: World) -> None:
    """What auth closed in its node's absence runs again when the node says so, and is completed."""
    tape = Tape(world)
    tape.upload(0)
    close(world, tape)
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    assert running(world, tape)
    assert details(world, tape).recording.ended is None
    close(world, tape)
    tape.upload(1)
    tape.finish()
    found = details(world, tape)
    assert (found.state, found.recording.incomplete) == (RecordingState.COMPLETE, "")
    assert not close(world, tape), "what is complete stays complete"


def test_a_node_closes_what_it_cannot_complete(world: World) -> None:
    """A node that gives a recording up says why; the audit has it once, as a warning."""
    tape = Tape(world)
    tape.upload(0)
    for _ in range(2):
        request = recordings.UpdateRecording(tape.id, ended=now(world.clock), incomplete="lost")
        world.do(table.UPDATE_RECORDING, request, tape.host)
    assert details(world, tape).state is RecordingState.INCOMPLETE
    (event,) = world.events("recording.incomplete")
    assert (event.session_id, event.user, event.ok, event.error) == (
        tape.id,
        "alice",
        False,
        "lost",
    )
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert row.incomplete == "lost"


def test_a_hole_is_named_and_closed(world: World) -> None:
    """With a chunk that exists nowhere any more the recording is closed by a manifest that is
    signed, and that chunk is named; nothing more is taken then.
    """
    tape = Tape(world)
    tape.chunks.append(b"third")
    tape.upload(0, 2)
    assert details(world, tape).missing == (1,)
    manifest = tape.manifest()
    with pytest.raises(NotFound):
        tape.finish()
    finish = recordings.FinishRecording(tape.id, manifest, missing=(1,))
    for _ in range(2):
        world.do(table.FINISH_RECORDING, finish, tape.host)
    found = details(world, tape)
    assert (found.state, found.missing, found.available) == (RecordingState.INCOMPLETE, (1,), 2)
    assert found.recording.size == len(b"firstthird")
    assert "chunks are lost: 1" in found.recording.incomplete
    assert not running(world, tape)
    (event,) = world.events("recording.incomplete")
    assert event.fields["missing"] == [1]
    assert not world.events("recording.upload")
    with pytest.raises(Conflict):
        tape.upload(1)
    with pytest.raises(Conflict):
        tape.finish(signed(tape, evolve(manifest, frames=9)))
    progress = world.do(table.RECORDING_PROGRESS, ById(tape.id), tape.host)
    assert (progress.chunks, progress.complete, progress.closed) == ((0, 2), False, True)


def test_what_auth_has_cannot_be_given_up(world: World) -> None:
    """A host can neither leave out a chunk that was acknowledged by calling it missing, nor name
    one twice or one that the manifest does not have.
    """
    tape = Tape(world)
    tape.upload(0)
    manifest = tape.manifest()
    blank = (manifest.chunks[0], ChunkDigest(1, 0, ""))
    for missing in ((0,), (0, 1), (1, 1), (2,), (-1,), (1, 10**8)):
        with pytest.raises(InvalidInput):
            finish = recordings.FinishRecording(tape.id, manifest, missing=missing)
            world.do(table.FINISH_RECORDING, finish, tape.host)
    with pytest.raises(InvalidInput, match="not the one"):
        bad = signed(tape, evolve(manifest, chunks=(ChunkDigest(0, 0, ""), manifest.chunks[1])))
        world.do(table.FINISH_RECORDING, recordings.FinishRecording(tape.id, bad, (1,)), tape.host)
    unknown = signed(tape, evolve(manifest, chunks=blank))
    world.do(table.FINISH_RECORDING, recordings.FinishRecording(tape.id, unknown, (1,)), tape.host)
    assert details(world, tape).missing == (1,)


def test_a_node_reads_the_chunk_that_it_resumes_after(world: World) -> None:
    """A node gets the chunks of its own recordings that are open; not those of another node, and
    none of a recording that is closed.
    """
    tape = Tape(world)
    tape.upload(0, 1)
    get = recordings.GetChunk(tape.id, 1)
    assert world.do(table.GET_CHUNK, get, tape.host).data == b"second"
    world.join(world.token(), OTHER_ID)
    other = world.host(OTHER_ID)
    with pytest.raises(AccessDenied):
        world.do(table.GET_CHUNK, get, other)
    assert world.do(table.OPEN_RECORDINGS, Nothing(), other).ids == ()
    tape.finish()
    with pytest.raises(AccessDenied):
        world.do(table.GET_CHUNK, get, tape.host)


def test_a_recording_without_a_user(world: World) -> None:
    """Closing what auth does not know is an error."""
    tape = Tape(world, host_id=HOST_ID)
    tape.id = OTHER_ID
    with pytest.raises(NotFound):
        close(world, tape)


def test_attack_a_chunk_that_is_far_away(world: World) -> None:
    """One chunk with the last number there is made auth list ten million missing ones, for each
    reader and each report: it is refused. What may be missing is as much as a manifest may state.
    """
    tape = Tape(world)
    tape.upload(0)
    far = recordings.PutChunk(tape.id, 9_999_999, b"far")
    with pytest.raises(InvalidInput, match="too far"):
        world.do(table.PUT_CHUNK, far, tape.host)
    last = recordings.PutChunk(tape.id, 1 + MISSING_LIMIT, b"last")
    world.do(table.PUT_CHUNK, last, tape.host)
    with pytest.raises(InvalidInput, match="too far"):
        world.do(table.PUT_CHUNK, evolve(last, number=2 + MISSING_LIMIT), tape.host)
    found = details(world, tape)
    assert (found.available, len(found.missing)) == (2, MISSING_LIMIT)
