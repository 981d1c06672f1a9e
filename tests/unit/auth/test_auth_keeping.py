"""Recordings are kept as long as they have to be, and no longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_world import HOST_ID, OTHER_ID, Tape, World, result
from tele.auth.authorizer import LOCAL_ADMIN
from tele.auth.holds import HOLDS, REMOVING
from tele.auth.regular_work import RegularWork
from tele.auth.retention import CHECK_SECONDS, RetentionRules, equal_share
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound, Unavailable
from tele.interfaces import Delete, Put
from tele.loop import now
from tele.model.api import recordings, table
from tele.model.api.keeping import Hold, HoldRecording, ReleaseRecording, RemoveRecording
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, Paged
from tele.model.identity import HostRole
from tele.model.presence import Presence


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.stop()


#: Bytes of each recording here.
TAPE_SIZE = len(b"first") + len(b"second")


def stored(world: World, host_id: str = HOST_ID) -> Tape:
    """A recording that is complete."""
    tape = Tape(world, host_id=host_id)
    tape.upload(0, 1)
    tape.finish()
    return tape


def ids(world: World) -> set[str]:
    listed = world.do(table.LIST_RECORDINGS, recordings.ListRecordings())
    return {row.id for row in listed.items}


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[2J"])
def test_a_removal_needs_a_reason(world: World, reason: str) -> None:
    """The audit says why something is gone; a reason cannot write to a terminal."""
    tape = stored(world)
    with pytest.raises(InvalidInput, match="reason"):
        world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, reason))
    with pytest.raises(InvalidInput, match="reason"):
        world.do(table.HOLD_RECORDING, HoldRecording(tape.id, reason))
    assert ids(world) == {tape.id}
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "asked by the user"))
    (event,) = world.events("recording.delete")
    assert event.fields["reason"] == "asked by the user"


def test_a_held_recording_is_not_removed(world: World) -> None:
    """Not by an administrator either; after the release it can be. Both are events."""
    tape = stored(world)
    world.do(table.HOLD_RECORDING, HoldRecording(tape.id, "case 12"))
    with pytest.raises(Conflict, match="case 12"):
        world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert ids(world) == {tape.id}
    assert world.archive.blobs
    (hold,) = world.do(table.LIST_HOLDS, Paged()).items
    assert (hold.id, hold.reason, hold.by) == (tape.id, "case 12", LOCAL_ADMIN)
    with pytest.raises(Conflict, match="held already"):
        world.do(table.HOLD_RECORDING, HoldRecording(tape.id, "case 13"))
    world.do(table.RELEASE_RECORDING, ReleaseRecording(tape.id, "closed"))
    with pytest.raises(Conflict, match="not held"):
        world.do(table.RELEASE_RECORDING, ReleaseRecording(tape.id, "closed"))
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert ids(world) == set()
    assert [e.fields["reason"] for e in world.events("recording.hold")] == ["case 12"]
    assert [e.fields["reason"] for e in world.events("recording.release")] == ["closed"]
    assert result(world.backend.range(REMOVING, REMOVING + "~")) == []


def test_a_hold_that_meets_a_removal_does_not_succeed_beside_it(world: World) -> None:
    """Whichever came first counts: a hold is never of something that is going (attack)."""
    tape = stored(world)
    result(world.backend.commit(Put(REMOVING + tape.id, b"")))
    with pytest.raises(Conflict, match="being removed"):
        world.do(table.HOLD_RECORDING, HoldRecording(tape.id, "case 12"))
    assert result(world.backend.get(HOLDS + tape.id)) is None
    # A removal that failed half way is done again.
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert ids(world) == set()


def test_a_hold_during_the_removal_stops_it(world: World) -> None:
    """The hold is written between the check and the mark of the removal: nothing is removed."""
    tape = stored(world)
    commit = world.backend.commit

    def hold_first(*changes: Put) -> object:
        if any(change.key.startswith(REMOVING) for change in changes):
            world.backend.commit = commit  # type: ignore[method-assign]
            world.do(table.HOLD_RECORDING, HoldRecording(tape.id, "case 12"))
        return commit(*changes)

    world.backend.commit = hold_first  # type: ignore[method-assign, assignment]
    with pytest.raises(Conflict, match="case 12"):
        world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert world.archive.blobs
    assert result(world.backend.range(REMOVING, REMOVING + "~")) == []


def test_who_may_hold_and_remove(world: World) -> None:
    """Users have no right to their own recordings beside reading; auditors may do both."""
    tape = stored(world)
    world.add_user("alice", "access")
    world.add_user("otto", "auditor")
    world.add_user("edith", "editor")
    for name, role in (("alice", "access"), ("edith", "editor")):
        caller = world.user(name, role)
        for operation, request in (
            (table.DELETE_RECORDING, RemoveRecording(tape.id, "mine")),
            (table.HOLD_RECORDING, HoldRecording(tape.id, "mine")),
            (table.RELEASE_RECORDING, ReleaseRecording(tape.id, "mine")),
            (table.LIST_HOLDS, Paged()),
            (table.LIST_STUCK, Nothing()),
            (table.RETRY_RECORDING, ById(tape.id)),
        ):
            with pytest.raises(AccessDenied):
                world.do(operation, request, caller)
    auditor = world.user("otto", "auditor")
    world.do(table.HOLD_RECORDING, HoldRecording(tape.id, "case 12"), auditor)
    assert world.do(table.LIST_HOLDS, Paged(), auditor).items[0].by == "otto"
    with pytest.raises(NotFound, match="stores at once"):
        world.do(table.RETRY_RECORDING, ById(tape.id), auditor)
    assert world.do(table.LIST_STUCK, Nothing(), auditor).items == ()


# -- retention ------------------------------------------------------------------------
def retention(world: World, rules: RetentionRules) -> RegularWork:
    made, _ = world.auth.regular_work(lambda: rules, world.backend, "auth-1")
    made.start()
    return made


def run(world: World, seconds: float = CHECK_SECONDS) -> None:
    """Let time pass, in steps."""
    world.clock.pump([1.0] * 3)
    world.clock.advance(seconds)
    world.clock.pump([1.0] * 3)


def test_old_recordings_are_removed(world: World) -> None:
    """Those that are held, or still open, stay; each removal is an event with the rule."""
    old, held, opened = stored(world), stored(world), Tape(world)
    opened.upload(0)
    world.do(table.HOLD_RECORDING, HoldRecording(held.id, "case 12"))
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), opened.host)
    world.clock.advance(3600 * 20)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), opened.host)
    young = stored(world)
    keeper = retention(world, RetentionRules(timedelta(hours=10)))
    run(world)
    assert ids(world) == {held.id, opened.id, young.id}
    (event,) = world.events("recording.expire")
    assert (event.session_id, event.fields["reason"]) == (old.id, "older than 10h")
    assert {key[0] for key in world.archive.blobs} == {held.id, opened.id, young.id}
    result(keeper.stop())


def test_the_oldest_are_removed_when_there_are_too_many(world: World) -> None:
    """Until the rest is within the size; a held one counts, and stays."""
    tapes = []
    for _ in range(5):
        tapes.append(stored(world))
        world.clock.advance(60)
    world.do(table.HOLD_RECORDING, HoldRecording(tapes[0].id, "case 12"))
    keeper = retention(world, RetentionRules(max_size=3 * TAPE_SIZE))
    run(world)
    assert ids(world) == {tapes[0].id, tapes[3].id, tapes[4].id}
    result(keeper.stop())


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 3000))
def test_equal_shares_fill_the_room(sizes: list[int], room: int) -> None:
    """All that hosts keep fits; nobody has less than an equal part of the room, and none of it is
    unused while another has more.
    """
    share = equal_share(sizes, room)
    kept = [min(size, share) for size in sizes]
    assert sum(kept) <= room
    if sum(sizes) > room:
        assert share >= room // len(sizes)
        assert sum(kept) > room - len(sizes)
    else:
        assert kept == sizes


def test_attack_a_node_that_floods_loses_its_own_recordings(world: World) -> None:
    """A node that was taken over sends as much as it can: others keep their oldest recordings."""
    others = [stored(world, OTHER_ID) for _ in range(2)]
    world.clock.advance(60)
    flood = []
    for _ in range(6):
        flood.append(stored(world))
        world.clock.advance(60)
    keeper = retention(world, RetentionRules(max_size=4 * TAPE_SIZE))
    run(world)
    assert ids(world) == {each.id for each in (*others, *flood[-2:])}
    reasons = {event.fields["reason"] for event in world.events("recording.expire")}
    assert reasons == {"all recordings have more than 0 MiB, and those of its host more than 0 MiB"}
    result(keeper.stop())


def test_attack_what_a_node_does_not_close_takes_no_room_of_others(world: World) -> None:
    """Open recordings are never removed, so they count for their host alone."""
    other = stored(world, OTHER_ID)
    flood = [Tape(world) for _ in range(6)]
    for each in flood:
        each.upload(0, 1)
        world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), each.host)
    closed = stored(world)
    keeper = retention(world, RetentionRules(max_size=2 * TAPE_SIZE))
    run(world)
    assert other.id in ids(world)
    assert closed.id not in ids(world)
    result(keeper.stop())


def test_what_is_held_takes_room_of_all(world: World) -> None:
    """Who holds recordings decides: with them, and the newest of the others, the size is kept."""
    held = [stored(world, OTHER_ID) for _ in range(2)]
    for each in held:
        world.do(table.HOLD_RECORDING, HoldRecording(each.id, "case 12"))
    world.clock.advance(60)
    tapes = []
    for host in (HOST_ID, OTHER_ID) * 2:
        tapes.append(stored(world, host))
        world.clock.advance(60)
    keeper = retention(world, RetentionRules(max_size=4 * TAPE_SIZE))
    run(world)
    assert ids(world) == {each.id for each in (*held, *tapes[-2:])}
    result(keeper.stop())


def test_attack_holds_do_not_push_out_the_others(world: World) -> None:
    """One who may hold recordings, and remove none, holds more than the whole size: the newest of
    the others still have half of it.
    """
    tapes = []
    for _ in range(9):
        tapes.append(stored(world))
        world.clock.advance(60)
    for each in tapes[:5]:
        world.do(table.HOLD_RECORDING, HoldRecording(each.id, "a pretext"))
    keeper = retention(world, RetentionRules(max_size=4 * TAPE_SIZE))
    run(world)
    assert ids(world) == {each.id for each in (*tapes[:5], *tapes[-2:])}
    result(keeper.stop())


def test_rules_that_change_hold_from_the_next_round_on(world: World) -> None:
    """Those of the cluster's settings: without a restart, and none removes nothing."""
    tape, now = stored(world), [RetentionRules()]
    keeper, _ = world.auth.regular_work(lambda: now[0], world.backend, "auth-1")
    keeper.start()
    world.clock.advance(3600 * 20)
    run(world)
    assert ids(world) == {tape.id}
    now[0] = RetentionRules(timedelta(hours=10))
    run(world)
    assert ids(world) == set()
    result(keeper.stop())


def test_a_clock_that_jumps_removes_nothing(world: World) -> None:
    """A date far in the future is more likely wrong than right: a day is waited."""
    tape = stored(world)
    keeper = retention(world, RetentionRules(timedelta(days=10)))
    keeper.clock_was_set(86400 * 365.0)
    world.clock.set_wall(86400 * 365.0)
    for _ in range(100):
        run(world)
    assert ids(world) == {tape.id}
    for _ in range(60):
        run(world)
    assert ids(world) == set()
    result(keeper.stop())


def test_another_auth_does_not_do_it_too(world: World) -> None:
    """One auth of a store removes; when it is gone another one does."""
    first = retention(world, RetentionRules(timedelta(days=10)))
    run(world)
    rules = RetentionRules(timedelta(days=10))
    second, _ = world.auth.regular_work(lambda: rules, world.backend, "auth-2")
    assert result(second.lease.take()) is False
    result(first.stop())
    world.clock.advance(3 * CHECK_SECONDS)
    assert result(second.lease.take()) is True


def test_an_archive_that_is_away_is_waited_for(world: World) -> None:
    """What could not be removed is removed in a later round, with one event."""
    tape = stored(world)
    world.clock.advance(86400 * 20)
    remove = world.archive.remove

    def fails(recording_id: str) -> object:
        raise Unavailable("the bucket does not answer")

    world.archive.remove = fails  # type: ignore[method-assign, assignment]
    keeper = retention(world, RetentionRules(timedelta(days=10)))
    run(world)
    assert ids(world) == {tape.id}
    world.archive.remove = remove  # type: ignore[method-assign]
    run(world)
    assert ids(world) == set()
    assert len(world.events("recording.expire")) == 1
    result(keeper.stop())


def test_attack_a_hold_between_two_removals(world: World) -> None:
    """A removal that finds the hold takes back its own mark, and not that of one that goes on: the
    hold of what is going fails.
    """
    tape = stored(world)
    holds, commit = world.parts.recordings.holds, world.backend.commit

    async def between(changes: Sequence[Put | Delete]) -> None:
        await holds.begin_removal(tape.id)  # it goes on

        def hold_first(*mark: Put) -> object:
            world.backend.commit = commit  # type: ignore[method-assign]
            result(commit(*changes))
            return commit(*mark)

        world.backend.commit = hold_first  # type: ignore[method-assign, assignment]
        with pytest.raises(Conflict, match="is held"):
            await holds.begin_removal(tape.id)

    hold = Hold(tape.id, "case 12", "otto", now(world.clock))
    with pytest.raises(Conflict, match="being removed"):
        result(holds.hold(hold, between))
    assert result(holds.find(tape.id)) is None
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert result(world.backend.range(REMOVING, REMOVING + "~")) == []
