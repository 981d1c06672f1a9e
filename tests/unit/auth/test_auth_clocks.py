"""Auth's clock is set: who is online, who waits and what is due depends on elapsed time."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, Tape, World, result
from tele.audit.chain import event
from tele.auth.guessing import FAILURES, FIRST_WAIT, LONGEST_WAIT, Guard, Outcome
from tele.auth.presence import HOSTS, Announcement, Hosts
from tele.errors import Conflict, Unavailable
from tele.interfaces import Put
from tele.loop import now
from tele.model.api import audit, recordings, table
from tele.model.api.hosts import ListHosts
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import Presence, Status
from tele.tape.verify import to_sign
from tele.testing import SettableClock

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
STEPS = pytest.mark.parametrize("hours", [-3, 3], ids=["back", "forward"])


def announce(world: World, host_id: str = HOST_ID, **words: Any) -> Any:
    return world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, **words), world.host(host_id))


def status(world: World) -> list[Status]:
    return [host.status for host in world.do(table.LIST_HOSTS, ListHosts()).items]


@STEPS
def test_a_host_lives_however_the_clock_is_set(world: World, hours: int) -> None:
    """It is online until 90 seconds have passed since its last announcement, and again after the
    next.
    """
    world.join(world.token())
    announce(world)
    world.clock.set_wall(hours * 3600)
    assert status(world) == [Status.ONLINE]
    world.clock.pump([5.0] * 17)
    assert status(world) == [Status.ONLINE]
    world.clock.pump([5.0] * 2)
    assert status(world) == [Status.OFFLINE]
    announce(world, labels={"a": "b"})
    (host,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert (host.status, host.last_seen) == (Status.ONLINE, now(world.clock))
    assert host.labels == {"a": "b"}, "what it says now counts, whatever its date"


@STEPS
def test_an_announcement_at_another_auth_counts_from_then_on(world: World, hours: int) -> None:
    """Auths on one store whose clocks differ agree about who lives."""
    world.join(world.token())
    announce(world)
    world.clock.advance(80)
    said = Presence("web1", HostRole.NODE, labels={"heard": "elsewhere"})
    word = Announcement(HOST_ID, said, now(world.clock) + timedelta(hours=hours), said.labels)
    result(world.backend.commit(Put(f"{HOSTS}node/{HOST_ID}", encode(word))))
    world.clock.advance(60)
    (host,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert (host.status, host.labels) == (Status.ONLINE, {"heard": "elsewhere"})


def test_after_a_restart_dates_decide_what_is_online(world: World) -> None:
    """A host that was silent long before auth stopped is not online because the clock was set back
    since.
    """
    for age, expected in ((30, True), (600, False), (-7200, True)):
        backend, clock = world.backend, SettableClock()
        clock.advance(world.clock.seconds())
        said = Presence("web1", HostRole.NODE)
        word = Announcement(HOST_ID, said, now(clock) - timedelta(seconds=age))
        result(backend.commit(Put(f"{HOSTS}node/{HOST_ID}", encode(word))))
        hosts = Hosts(backend, clock)
        result(hosts.start())
        assert hosts.is_online(HostRole.NODE, HOST_ID) is expected
        clock.advance(90)
        assert not hosts.is_online(HostRole.NODE, HOST_ID)
        result(hosts.stop())


@STEPS
def test_a_name_is_free_five_minutes_after_the_start(world: World, hours: int) -> None:
    """How long offline hosts may reconnect depends on elapsed time."""
    world.join(world.token())
    world.clock.advance(100)
    world.clock.set_wall(hours * 3600)
    with pytest.raises(Unavailable, match="in 200 s"):
        world.join(world.token(replaces=("web1",)), OTHER_ID, name="web1")
    world.clock.advance(200)
    world.join(world.token(replaces=("web1",)), OTHER_ID, name="web1")


def test_a_new_host_keeps_its_name_while_the_clock_is_set_a_little(world: World) -> None:
    """A host that has not announced itself yet is there, and not from the future."""
    world.clock.advance(400)
    world.join(world.token())
    world.clock.set_wall(-30)
    with pytest.raises(Conflict, match="online"):
        world.join(world.token(replaces=("web1",)), OTHER_ID, name="web1")


# -- wrong passwords -------------------------------------------------------------------


#: The state of a user without failed logins.
UNHARMED = Guard()


def guessed(count: int, guard: Guard = UNHARMED, at: datetime = NOON) -> Guard:
    for _ in range(count):
        _, guard = guard.attempt("n", False, at)
    return guard


def test_a_wait_is_as_long_as_it_was_when_the_clock_is_set_back() -> None:
    """No client waits for hours because of that, and none is accepted sooner."""
    guard = guessed(FAILURES)
    early = NOON - timedelta(hours=3)
    outcome, guard = guard.attempt("n", True, early)
    assert outcome is Outcome.LOCKED_OUT
    outcome, guard = guard.attempt("n", True, early + FIRST_WAIT / 2)
    assert outcome is Outcome.LOCKED_OUT
    outcome, _ = guard.attempt("n", True, early + FIRST_WAIT)
    assert outcome is Outcome.GOOD


def test_going_on_guessing_while_the_clock_is_back_gains_nothing() -> None:
    """Failures are still counted, and the waits still double up to the longest."""
    guard, at = guessed(FAILURES), NOON - timedelta(days=2)
    for _ in range(40):
        _, guard = guard.attempt("n", False, at)
        source = guard.sources["n"]
        assert source.wait_until is not None
        at = max(at, source.wait_until)
    assert guard.sources["n"].failures > FAILURES + 10
    assert at - (NOON - timedelta(days=2)) > 10 * LONGEST_WAIT


def test_guesses_of_unknown_sources_are_given_back_by_the_hour_after_a_step() -> None:
    """What all unknown sources have used up is less after an hour of the new time."""
    guard = Guard()
    for number in range(30):
        _, guard = guard.attempt(f"n{number}", False, NOON)
    early = NOON - timedelta(hours=3)
    assert guard.attempt("other", True, early)[0] is Outcome.ALL_LOCKED_OUT
    _, guard = guard.attempt("other", True, early)
    assert guard.attempt("other", True, early + timedelta(hours=1))[0] is Outcome.GOOD


# -- the audit and the members ---------------------------------------------------------
def test_the_audit_is_intact_and_has_the_new_date(world: World) -> None:
    """Events of an earlier date come after those of a later one; the chain is by number."""
    world.add_user("alice")
    world.clock.set_wall(-7200)
    world.add_user("bob")
    listed = world.do(table.LIST_EVENTS, audit.ListEvents(event="user.create")).items
    assert listed[0].time > listed[1].time
    outcome = result(world.parts.audit.verify())
    assert not outcome.problem, outcome


@STEPS
def test_the_response_to_an_announcement_has_auths_date(world: World, hours: int) -> None:
    """So each member knows by how much its own clock differs."""
    world.join(world.token())
    world.clock.set_wall(hours * 3600)
    assert announce(world).time == now(world.clock)


@pytest.mark.parametrize("name", ["clock.step", "clock.skew"])
@pytest.mark.parametrize("role", [HostRole.NODE, HostRole.PROXY])
def test_hosts_report_their_clocks(world: World, name: str, role: HostRole) -> None:
    """Such an event is about a machine, not a user."""
    caller = world.proxy() if role is HostRole.PROXY else world.host()
    if role is HostRole.NODE:
        world.join(world.token())
    host_id = PROXY_ID if role is HostRole.PROXY else HOST_ID
    made = event(name, "e-1", now(world.clock), "c", server_id=host_id, seconds=-7200.0)
    world.do(table.EMIT_EVENTS, audit.EmitEvents((made,)), caller)
    (stored,) = world.events(name)
    assert (stored.user, stored.fields["seconds"]) == ("", -7200.0)


def test_a_recording_outlives_a_clock_set_back_by_days(world: World) -> None:
    """One that began before auth's clock was set back by more than a day is completed."""
    tape = Tape(world)
    tape.upload(0)
    manifest = tape.manifest()
    world.clock.set_wall(-48 * 3600)
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    tape.upload(1)
    tape.finish(manifest)
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert row.complete
    assert row.started <= row.ended


def test_a_date_that_cannot_be_refuses_nothing_for_good(world: World) -> None:
    """A session whose dates are days ahead of auth's clock, or a year behind, is taken when the
    clocks are set; until then its node gets an error with the wrong date, and tries again.
    """
    tape = Tape(world)
    start = evolve(tape.start, id=str(uuid.uuid4()))
    again = recordings.StartRecording(start.id, start)
    world.clock.set_wall(-2 * 86400)
    with pytest.raises(Unavailable, match="set the clock that is wrong"):
        world.do(table.START_RECORDING, again, tape.host)
    world.clock.set_wall(2 * 86400)
    world.do(table.START_RECORDING, again, tape.host)
    old = evolve(start, id=str(uuid.uuid4()), started=start.started - timedelta(days=400))
    with pytest.raises(Unavailable, match="set the clock that is wrong"):
        world.do(table.START_RECORDING, recordings.StartRecording(old.id, old), tape.host)
    tape.upload(0, 1)
    late = evolve(tape.manifest(), ended=now(world.clock) + timedelta(days=2), signature=b"")
    with pytest.raises(Unavailable, match="set the clock that is wrong"):
        tape.finish(evolve(late, signature=tape.key.sign(to_sign(late))))
