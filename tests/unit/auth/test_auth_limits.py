"""What the recordings of one session, user and node may take of the archive."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from attrs import evolve

from auth_world import Tape, World
from tele.auth.limits import DAY, USERS, RecordingLimits, RecordingUse
from tele.auth.local import LocalAuthority
from tele.errors import Unavailable
from tele.model.api import recordings, table
from tele.model.identity import HostRole
from tele.recording.batch import BatchChunk, pack_chunks


def limited(world: World, **limits: int) -> None:
    """Have auth serve with these limits."""
    world.parts = evolve(world.parts, limits=RecordingLimits(**limits))
    world.auth = LocalAuthority(world.parts, world.clock, lambda: world.next_id)


def put(world: World, tape: Tape, number: int, size: int) -> str:
    """Send a chunk; return which limit the recording is over."""
    data = hashlib.sha256(b"%d" % number).digest() * (size // 32)
    answer: Any = world.do(table.PUT_CHUNK, recordings.PutChunk(tape.id, number, data), tape.host)
    return str(answer.over)


def test_a_session_over_its_limit(world: World) -> None:
    """The chunk is stored all the same, the response names the limit, and there is one event."""
    limited(world, session=1 << 20, user=0)
    tape, other = Tape(world), Tape(world)
    assert put(world, tape, 0, 1 << 20) == ""
    for number in (1, 2):
        assert put(world, tape, number, 1 << 20) == "over the limit of 1 MiB for one session"
    assert put(world, other, 0, 1 << 20) == ""
    (said,) = world.events("recording.limit")
    assert (said.session_id, said.user, said.ok) == (tape.id, "alice", False)


def test_a_user_over_the_limit_of_a_day(world: World) -> None:
    """All sessions of one user count together; the use is given back in a day."""
    limited(world, session=0, user=2 << 20)
    one, two, bobs = Tape(world), Tape(world), Tape(world, "bob")
    assert put(world, one, 0, 1 << 20) == ""
    assert put(world, two, 0, 1 << 20) == ""
    assert put(world, two, 1, 1 << 20) == "over the limit of 2 MiB a day for one user"
    assert put(world, bobs, 0, 1 << 20) == ""
    world.clock.advance(DAY)
    one.host = world.host()
    assert put(world, one, 1, 1 << 20) == ""


def test_a_batch_cannot_go_around_a_limit(world: World) -> None:
    """Each of its chunks counts as if it came alone (attack)."""
    limited(world, session=0, user=0, node=2 << 20)
    tape = Tape(world)
    chunks = [BatchChunk(tape.id, number, bytes(1 << 20)) for number in range(4)]
    request = recordings.PutChunks(pack_chunks(chunks))
    stored = world.do(table.PUT_CHUNKS, request, tape.host)
    assert [each.kind for each in stored.items] == ["", "", "unavailable", "unavailable"]


def test_a_node_over_its_limit_has_to_wait(world: World) -> None:
    """A node that sends more than its limit has to try again later."""
    limited(world, session=0, user=0, node=2 << 20)
    tape = Tape(world)
    for number in (0, 1):
        put(world, tape, number, 1 << 20)
    with pytest.raises(Unavailable, match="quota"):
        put(world, tape, 2, 1 << 20)
    (said,) = world.events("node.quota")
    assert said.fields["quota"] == "chunk_bytes"
    world.clock.advance(DAY / 2)
    assert put(world, tape, 2, 1 << 20) == ""


def test_no_limits(world: World) -> None:
    """0 is none."""
    limited(world, session=0, user=0, node=0)
    tape = Tape(world)
    for number in range(8):
        assert put(world, tape, number, 4 << 20) == ""


def row_of(node_id: str, user: str = "alice") -> Any:
    """What counts of a recording's row."""
    return type("Row", (), {"user": user, "size": 0, "recorded_by": (HostRole.NODE, node_id)})()


def test_one_node_uses_up_no_users_limit_elsewhere() -> None:
    """A node that was taken over cannot have a user's sessions on other nodes go unrecorded."""
    use = RecordingUse(RecordingLimits(session=0, user=1 << 20))
    assert use.add(row_of("bad"), 100 << 20, 0.0) != ""
    assert use.add(row_of("web1"), 768 << 10, 0.0) == ""
    # Honest nodes count together.
    assert use.add(row_of("web1"), 1, 0.0) != ""
    assert use.add(row_of("web2"), 512 << 10, 0.0) == ""
    assert use.add(row_of("web2"), 1, 0.0) != ""
    assert use.add(row_of("bad", "bob"), 1, 0.0) == ""


def test_the_clock_counts_only_forward() -> None:
    """What was used is never less than nothing, however long nothing was sent."""
    use = RecordingUse(RecordingLimits(session=0, user=1 << 20))
    row = row_of("web1")
    assert use.add(row, 1 << 20, 0.0) == ""
    assert use.add(row, 1 << 20, 10 * DAY) == ""
    assert use.add(row, 1, 10 * DAY) != ""


def test_attack_users_that_a_node_invents_are_forgotten() -> None:
    """Use that is given back is not kept for each name that a node has ever claimed."""
    use = RecordingUse(RecordingLimits(session=0, user=1 << 30))
    for number in range(5 * USERS):
        use.add(row_of("bad", f"user{number}"), 1000, number * 1.0)
    assert len(use._users) <= 2 * USERS
