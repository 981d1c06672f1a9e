"""Auth on a disk that gets full: what is acknowledged is on record, the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from zope.interface import implementer

from auth_world import HOST_ID, Tape, World
from tele.auth.disk import CHECK_SECONDS, ON_FULL_DISK, DiskWatch
from tele.errors import AccessDenied, StorageFull
from tele.https.api_errors import decode_error, encode_error, status_of
from tele.interfaces import IOnDisk
from tele.loop import now as moment
from tele.model.api import audit, recordings, table, users
from tele.model.api.keeping import RemoveRecording
from tele.model.api.locks import PutLock
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, Paged
from tele.model.disk import DiskLevel, DiskSpace
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata

GIB = 1 << 30
OK = DiskSpace(100 * GIB, 50 * GIB, 2, 2)
LOW = DiskSpace(100 * GIB, 5 * GIB, 2, 2)
FULL = DiskSpace(100 * GIB, 0, 2, 1)


@implementer(IOnDisk)
class Disk:
    """A disk of which a test says how full it is."""

    def __init__(self) -> None:
        self.now = OK

    def space(self) -> DiskSpace:
        return self.now


@pytest.fixture
def disk(world: World) -> Iterator[Disk]:
    made = Disk()
    world.parts.disk._disks["store"] = made
    world.parts.disk.start(world.auth.emit)
    yield made
    world.parts.disk.stop()


def test_the_operator_is_warned_before_it_is_full(world: World, disk: Disk) -> None:
    """Each level is said once in the audit, and shown by the health of auth."""
    assert world.do(table.HEALTH, Nothing()).disk is DiskLevel.OK
    for now in (LOW, LOW, FULL, OK):
        disk.now = now
        world.clock.advance(CHECK_SECONDS)
    said = [(e.fields["level"], e.ok) for e in world.events("disk.low")]
    assert said == [("low", False), ("full", False), ("ok", True)]
    disk.now = FULL
    assert world.do(table.HEALTH, Nothing()).disk is DiskLevel.FULL


def test_users_log_in_on_a_full_disk(world: World, disk: Disk) -> None:
    """A log-in is on record, and who administers sees what is there."""
    world.add_user("alice", "access")
    disk.now = FULL
    world.login("alice")
    assert [e.ok for e in world.events("user.login")] == [True]
    world.do(table.LIST_RECORDINGS, recordings.ListRecordings())


def test_nothing_new_begins_on_a_full_disk(world: World, disk: Disk) -> None:
    """What changes something is refused before it does, with what to do about it."""
    tape = Tape(world)
    disk.now = FULL
    with pytest.raises(StorageFull, match="tele recordings rm"):
        world.add_user("bob", "access")
    with pytest.raises(StorageFull):
        world.token()
    with pytest.raises(StorageFull):
        tape.upload(0)
    with pytest.raises(StorageFull):
        world.do(table.EMIT_EVENTS, audit.EmitEvents(()), tape.host)
    assert world.do(table.LIST_USERS, Paged()).items == ()
    disk.now = OK
    tape.upload(0, 1)
    tape.finish()


def test_room_is_made_on_a_full_disk(world: World, disk: Disk) -> None:
    """Recordings are removed, users and hosts locked, and that is in the audit."""
    world.add_user("alice", "access")
    tape = Tape(world)
    ended = recordings.UpdateRecording(tape.id, ended=moment(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    disk.now = FULL
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    lock = Lock(Metadata("stop"), LockSpec(LockTarget(user="alice")))
    world.do(table.PUT_LOCK, PutLock("stop", lock))
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.do(table.DELETE_HOST, ById(HOST_ID))
    for name in ("recording.delete", "lock.create", "user.delete", "node.delete"):
        assert len(world.events(name)) == 1, name


def test_denials_do_not_use_up_the_reserve(world: World, disk: Disk) -> None:
    """They are refused all the same, counted, and said when there is space (attack)."""
    world.add_user("alice", "access")
    disk.now = FULL
    for _ in range(5):
        with pytest.raises(AccessDenied):
            world.login("alice", "wrong")
    assert world.events("user.login") == []
    disk.now = OK
    world.clock.advance(3600)
    with pytest.raises(AccessDenied):
        world.login("alice", "wrong")
    (said,) = world.events("user.login")
    assert said.fields["others_not_listed"] >= 4


def test_what_is_let_through_is_there() -> None:
    """The set names operations of the table, and none that takes what users send."""
    assert set(table.OPERATIONS) >= ON_FULL_DISK
    assert not ON_FULL_DISK & {"put_chunk", "emit_events", "add_user", "join"}


def test_a_store_without_a_disk(world: World) -> None:
    """One that is in memory is never full."""
    watch = DiskWatch(world.backend, world.archive, world.clock)
    assert (watch.is_full, watch.level) == (False, DiskLevel.OK)


def test_a_disk_of_the_recordings_own(world: World, disk: Disk) -> None:
    """It has an event of its own; the store works as before when it is tight."""
    recordings = Disk()
    recordings.now = DiskSpace(100 * GIB, 0, 0, 0)
    world.parts.disk._disks["recordings"] = recordings
    world.clock.advance(CHECK_SECONDS)
    (said,) = world.events("disk.low")
    assert (said.fields["disk"], said.fields["level"]) == ("recordings", "tight")
    assert world.do(table.HEALTH, Nothing()).disk is DiskLevel.TIGHT
    world.add_user("bob", "access")


def test_the_error_crosses_the_api() -> None:
    """A full disk has a status and a kind of its own, 507, unlike an auth that is away."""
    error = StorageFull("auth's disk is full")
    assert status_of(error) == 507
    assert type(decode_error(507, encode_error(error))) is StorageFull
