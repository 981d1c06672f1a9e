"""What happened: recordings and events come from those whom they concern, and stay."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, fail

from auth_world import HOST_ID, OTHER_ID, Tape, World, result
from tele.audit.chain import event
from tele.auth.recording_claims import check_claims
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound, StorageFull, TeleError
from tele.https.large_json import LargeJson
from tele.interfaces import Delete, Put
from tele.loop import now
from tele.model.api import audit, recordings, table, users
from tele.model.api.keeping import RemoveRecording
from tele.model.api.paging import ById, Paged
from tele.model.codec import encode
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import OFFLINE_AFTER, Presence
from tele.model.session import SessionStatus
from tele.recording.batch import BatchChunk, pack_chunks


def test_a_recording_is_uploaded_and_read(world: World) -> None:
    """Chunks and manifest are returned as they were sent; everything may be sent again."""
    tape = Tape(world)
    tape.upload(0, 0, 1)
    progress = world.do(table.RECORDING_PROGRESS, ById(tape.id), tape.host)
    assert (progress.chunks, progress.complete) == ((0, 1), False)
    tape.finish()
    tape.finish()
    tape.upload(0)
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert (row.complete, row.interactive, row.size, row.chunks) == (True, True, 11, 2)
    details = world.do(table.GET_RECORDING, ById(tape.id))
    assert details.manifest == tape.manifest()
    assert world.do(table.GET_CHUNK, recordings.GetChunk(tape.id, 1)).data == b"second"
    assert len(world.events("recording.upload")) == 1
    assert len(world.events("recording.access")) == 1


def test_a_recording_cannot_be_changed(world: World) -> None:
    """Neither another chunk under a number, nor another manifest, nor one not signed."""
    tape = Tape(world)
    tape.upload(0, 1)
    with pytest.raises(Conflict):
        put = recordings.PutChunk(tape.id, 0, b"other")
        world.do(table.PUT_CHUNK, put, tape.host)
    good = tape.manifest()
    for bad in (
        evolve(good, signature=b""),
        evolve(good, frames=99),
        evolve(good, chunks=good.chunks[:1], signature=good.signature),
    ):
        with pytest.raises(InvalidInput):
            tape.finish(bad)
    tape.finish(good)
    with pytest.raises(Conflict):
        put = recordings.PutChunk(tape.id, 1, b"other!")
        world.do(table.PUT_CHUNK, put, tape.host)


def test_a_truncated_recording_does_not_pass_for_whole(world: World) -> None:
    """A manifest that names chunks that auth does not have is refused."""
    tape = Tape(world)
    tape.upload(0)
    with pytest.raises(TeleError):
        tape.finish()


def test_hosts_write_their_own_recordings_only(world: World) -> None:
    """Another host can neither start, extend, close nor read this one's recording."""
    tape = Tape(world)
    world.join(world.token(), OTHER_ID)
    thief = world.host(OTHER_ID)
    for operation, request in (
        (table.START_RECORDING, recordings.StartRecording(tape.id, tape.start)),
        (table.PUT_CHUNK, recordings.PutChunk(tape.id, 0, b"x")),
        (table.UPDATE_RECORDING, recordings.UpdateRecording(tape.id, True)),
        (table.FINISH_RECORDING, recordings.FinishRecording(tape.id, tape.manifest())),
        (table.RECORDING_PROGRESS, ById(tape.id)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, thief)


def test_several_chunks_are_stored_each_for_itself(world: World) -> None:
    """Of several recordings in one call; what is wrong with one keeps no other one back."""
    one, two = Tape(world), Tape(world)
    world.join(world.token(), OTHER_ID)
    others = Tape(world, host_id=OTHER_ID)
    one.upload(0)
    sent = (
        BatchChunk(one.id, 0, b"other"),
        BatchChunk(two.id, 0, two.chunks[0]),
        BatchChunk(one.id, 1, b"after it"),
        BatchChunk(others.id, 0, b"of another host"),
        BatchChunk(two.id, 1, two.chunks[1]),
        BatchChunk(str(uuid.uuid4()), 0, b"of nothing"),
    )
    stored = world.do(table.PUT_CHUNKS, recordings.PutChunks(pack_chunks(sent)), two.host)
    kinds = {(each.id, each.number): each.kind for each in stored.items}
    assert [kinds[each.id, each.number] for each in sent] == [
        "conflict", "", "conflict", "denied", "", "not_found",
    ]  # fmt: skip
    assert world.do(table.RECORDING_PROGRESS, ById(two.id), two.host).chunks == (0, 1)
    assert world.do(table.RECORDING_PROGRESS, ById(one.id), one.host).chunks == (0,)
    assert world.do(table.RECORDING_PROGRESS, ById(others.id), others.host).chunks == ()


def test_proxies_send_chunks_of_their_own_recordings_only(world: World) -> None:
    """A proxy may call, and stores nothing in what a node records (attack)."""
    tape = Tape(world)
    batch = pack_chunks([BatchChunk(tape.id, 0, b"x")])
    (stored,) = world.do(table.PUT_CHUNKS, recordings.PutChunks(batch), world.proxy()).items
    assert stored.kind == "denied"


@pytest.mark.parametrize(
    "claim",
    [
        {"recorder_id": OTHER_ID},
        {"recorder": HostRole.PROXY, "recorder_id": HOST_ID},
        {"recorder": HostRole.PROXY, "node_id": OTHER_ID, "recorder_id": HOST_ID},
        {"recorder": HostRole.AUTH, "recorder_id": HOST_ID},
        {"recorder_id": HOST_ID, "node_id": OTHER_ID},
        {"node_id": OTHER_ID},
    ],
)
def test_a_node_records_its_own_sessions_only(world: World, claim: dict[str, Any]) -> None:
    """It cannot call itself a proxy, nor name another host as node or recorder."""
    tape = Tape(world)
    start = evolve(tape.start, id=str(uuid.uuid4()), **claim)
    with pytest.raises(AccessDenied, match="its own sessions only"):
        world.do(table.START_RECORDING, recordings.StartRecording(start.id, start), tape.host)


def test_auth_records_nothing(world: World) -> None:
    """Only nodes and proxies record sessions."""
    tape = Tape(world)
    other = HostIdentity(HOST_ID, "auth", "c", HostRole.AUTH, now(world.clock))
    start = evolve(tape.start, recorder=HostRole.AUTH, recorder_id=HOST_ID)
    with pytest.raises(AccessDenied):
        check_claims(other, tape.id, start)


def test_a_host_in_another_role_is_another_host(world: World) -> None:
    """A proxy with the node's id, on the same machine, owns nothing of the node's recordings."""
    tape = Tape(world)
    same = HostIdentity(HOST_ID, "gate", "c", HostRole.PROXY, now(world.clock))
    for work in (
        world.parts.uploads.put_chunk(same, tape.id, 0, b"x"),
        world.parts.uploads.update(same, recordings.UpdateRecording(tape.id, True)),
        world.parts.uploads.progress(same, tape.id),
        world.parts.uploads.own_chunk(same, tape.id, 0),
    ):
        with pytest.raises(AccessDenied, match="another host's"):
            result(work)


@pytest.mark.parametrize("bad", ["../../x", "", "a" * 36, HOST_ID.upper()])
def test_recording_ids_are_uuids(world: World, bad: str) -> None:
    """An id is never a path."""
    tape = Tape(world)
    with pytest.raises(TeleError):
        request = recordings.StartRecording(bad, evolve(tape.start, id=bad))
        world.do(table.START_RECORDING, request, tape.host)
    with pytest.raises(NotFound):
        world.do(table.GET_RECORDING, ById(bad))


def test_ones_own_recordings_are_visible(world: World) -> None:
    """Without a rule a user sees their own recordings only."""
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    mine, other = Tape(world, "alice"), Tape(world, "bob")
    alice = world.user("alice", "access")
    rows = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(), alice).items
    assert [row.id for row in rows] == [mine.id]
    world.do(table.GET_RECORDING, ById(mine.id), alice)
    with pytest.raises(AccessDenied):
        world.do(table.GET_RECORDING, ById(other.id), alice)
    with pytest.raises(AccessDenied):
        world.do(table.GET_CHUNK, recordings.GetChunk(other.id, 0), alice)


def test_resources_of_a_removed_user_are_not_their_namesakes(world: World) -> None:
    """A new user with a removed user's name sees neither their recordings nor their sessions
    (attack).
    """
    world.add_user("alice", "access")
    theirs = Tape(world, "alice")
    theirs.upload(0)
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.clock.advance(60)
    world.add_user("alice", "access")
    mine = Tape(world, "alice")
    alice = world.user("alice", "access")
    rows = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(), alice).items
    assert [row.id for row in rows] == [mine.id]
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), mine.host)
    sessions = world.do(table.LIST_SESSIONS, Paged(), alice).items
    assert [session.id for session in sessions] == [mine.id]
    for operation, request in (
        (table.GET_RECORDING, ById(theirs.id)),
        (table.GET_CHUNK, recordings.GetChunk(theirs.id, 0)),
    ):
        with pytest.raises(AccessDenied, match="an earlier user"):
            world.do(operation, request, alice)
    world.do(table.GET_RECORDING, ById(mine.id), alice)


def test_recordings_are_listed_newest_first_in_pages(world: World) -> None:
    """A page continues where the last one ended."""
    tapes = []
    for _ in range(5):
        world.clock.advance(1)
        tapes.append(Tape(world))
    first = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(limit=3))
    rest = world.do(table.LIST_RECORDINGS, recordings.ListRecordings(limit=3, after=first.next))
    listed = [row.id for row in (*first.items, *rest.items)]
    assert listed == [tape.id for tape in reversed(tapes)]
    assert rest.next == ""


def test_hosts_report_their_own_events_only(world: World) -> None:
    """A host cannot speak for another one, nor chain events itself."""
    world.join(world.token())
    good = event("exec", "e1", now(world.clock), "c", server_id=HOST_ID, user="alice", command="ls")
    world.do(table.EMIT_EVENTS, audit.EmitEvents((good, good)), world.host())
    assert len(world.events("exec")) == 1
    for bad in (evolve(good, server_id=OTHER_ID), evolve(good, cluster="d")):
        with pytest.raises(InvalidInput):
            world.do(table.EMIT_EVENTS, audit.EmitEvents((bad,)), world.host())
    assert len(world.events("auth.denied")) == 2
    with pytest.raises(InvalidInput):
        chained = evolve(good, id="e2", hash="00")
        world.do(table.EMIT_EVENTS, audit.EmitEvents((chained,)), world.host())


def test_sessions_are_there_while_they_run(world: World) -> None:
    """A session is listed from its start to its end, to its user and to those with a rule."""
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    world.add_user("otto", "auditor")
    tape = Tape(world, "alice")
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    update = recordings.UpdateRecording(tape.id, interactive=True)
    world.do(table.UPDATE_RECORDING, update, tape.host)

    def listed(name: str, role: str) -> list[Any]:
        return list(world.do(table.LIST_SESSIONS, Paged(), world.user(name, role)).items)

    (session,) = listed("otto", "auditor")
    assert listed("alice", "access") == [session]
    assert listed("bob", "access") == []
    assert (session.user, session.remote_addr, session.interactive) == (
        "alice", "192.0.2.7:1", True,
    )  # fmt: skip
    seen = now(world.clock)
    world.clock.advance(OFFLINE_AFTER.total_seconds())
    (unknown,) = listed("otto", "auditor")
    assert (unknown.status, unknown.node_seen) == (SessionStatus.UNKNOWN, seen)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    ended = recordings.UpdateRecording(tape.id, ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    assert listed("otto", "auditor") == []
    late = recordings.UpdateRecording(tape.id, interactive=True)
    world.do(table.UPDATE_RECORDING, late, tape.host)
    assert listed("otto", "auditor") == []


def test_a_removed_recording_leaves_nothing_but_its_event(world: World) -> None:
    """Rows, indexes and bytes are gone, but for a key that says so; the audit has who did it."""
    tape = Tape(world)
    tape.upload(0, 1)
    tape.finish()
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    left = [item.key for item in result(world.backend.range("/", "0"))]
    assert [key for key in left if tape.id in key] == [f"/recordings/removed/{tape.id}"]
    assert world.archive.blobs == {}
    assert world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items == ()
    assert [e.session_id for e in world.events("recording.delete")] == [tape.id]


def test_closing_continues_after_a_crash(world: World) -> None:
    """Auth that died between storing the manifest and saying so takes it again."""
    tape = Tape(world)
    tape.upload(0, 1)
    result(world.archive.put(tape.id, "manifest", encode(tape.manifest())))
    tape.finish()
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert row.complete


@pytest.mark.parametrize("complete", [False, True])
def test_a_removed_recording_stays_removed(world: World, complete: bool) -> None:
    """A recording was removed, perhaps before its node learned that it is complete: the node
    learns that it is closed; nothing of it is stored or listed again; another host learns
    nothing of it.
    """
    tape = Tape(world)
    tape.upload(0)
    if complete:
        tape.upload(1)
        tape.finish()
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    again = recordings.StartRecording(tape.id, tape.start)
    world.do(table.START_RECORDING, again, tape.host)
    progress = world.do(table.RECORDING_PROGRESS, ById(tape.id), tape.host)
    assert (progress.chunks, progress.closed) == ((), True)
    with pytest.raises(NotFound):
        tape.upload(0, 1)
    with pytest.raises(NotFound):
        tape.finish()
    assert world.archive.blobs == {}
    assert world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items == ()
    assert world.do(table.LIST_SESSIONS, Paged()).items == ()
    world.join(world.token(), OTHER_ID)
    with pytest.raises(NotFound):
        world.do(table.RECORDING_PROGRESS, ById(tape.id), world.host(OTHER_ID))


def test_what_runs_is_not_removed(world: World) -> None:
    """The recording of a session that runs on a node that is online stays until it has ended, so
    so that no session runs without being listed (attack).
    """
    tape = Tape(world)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    with pytest.raises(Conflict, match="tele sessions kill"):
        world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert [each.id for each in world.do(table.LIST_SESSIONS, Paged()).items] == [tape.id]
    ended = recordings.UpdateRecording(tape.id, ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items == ()


def test_a_removal_and_its_event_are_one(world: World) -> None:
    """A recording is still listed if the event of its removal cannot be kept; it is removed by the
    next try.
    """
    tape = Tape(world)
    tape.upload(0, 1)
    tape.finish()
    commit = world.backend.commit

    def fails(*changes: Put | Delete) -> Deferred[int]:
        if any(change.key.startswith("/audit/") for change in changes):
            return fail(StorageFull("auth's disk is full"))
        return commit(*changes)

    world.backend.commit = fails  # type: ignore[method-assign]
    with pytest.raises(StorageFull):
        world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    world.backend.commit = commit  # type: ignore[method-assign]
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert row.id == tape.id
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items == ()
    assert [e.session_id for e in world.events("recording.delete")] == [tape.id]


def test_a_large_manifest_is_read_for_its_reader(world: World) -> None:
    """In a thread, as one of the reader's calls: who reads, and not whose session it is, waits."""
    tape = Tape(world)
    tape.upload(0, 1)
    tape.finish()
    asked: list[tuple[str, int]] = []

    class Large(LargeJson):
        def call(self, key: str, size: int, function: Any, *arguments: Any) -> Any:
            asked.append((key, size))
            return super().call(key, size, function, *arguments)

    world.parts.recordings.large = Large()
    world.add_user("otto", "auditor")
    details = world.do(table.GET_RECORDING, ById(tape.id), world.user("otto", "auditor"))
    assert len(details.manifest.chunks) == 2
    ((key, size),) = asked
    assert key == "user otto"
    assert size > len(world.archive.blobs[tape.id, "manifest"])
