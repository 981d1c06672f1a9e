"""Guessing passwords: a client that guesses waits, and no other client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from auth_world import FAST, Threads, World, result
from counting import calls, is_linear
from tele.auth.guessing import (
    FAILURES,
    FIRST_WAIT,
    GUESSES,
    LONGEST_WAIT,
    SOURCES,
    Guard,
    Outcome,
)
from tele.auth.passwords import (
    AT_ONCE,
    WAITING,
    WAITING_PER_NAME,
    WAITING_PER_SOURCE,
    Attempt,
    Passwords,
)
from tele.certs.device import REMEMBERED
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied, Unavailable
from tele.interfaces import Put
from tele.loop import now
from tele.model.api import table, users

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def wrong(world: World, address: str, **words: Any) -> None:
    with pytest.raises(AccessDenied):
        world.login(password="wrong password", address=address, **words)


# -- lock-outs -------------------------------------------------------------------------
def test_guessing_locks_out_the_guesser_and_not_the_user(world: World) -> None:
    """Five wrong passwords from one network do not lock out clients of another."""
    world.add_user("alice", "access")
    for _ in range(FAILURES):
        wrong(world, "198.51.100.66")
    with pytest.raises(AccessDenied):
        world.login(address="198.51.100.66")
    world.login()
    world.do(table.RESET_USER, users.ResetUser("alice", "another horse"))
    world.login(password="another horse", address="198.51.100.66")


def test_a_device_is_not_kept_out_by_others_at_its_address(world: World) -> None:
    """Behind one address, a client that logged in before does not wait for one that guesses."""
    world.add_user("alice", "access")
    line = world.login().ssh
    device = (world.ssh, line)
    for _ in range(FAILURES):
        wrong(world, "192.0.2.7")
    with pytest.raises(AccessDenied):
        world.login()
    world.login(device=device)
    world.clock.advance(12 * 3600)
    for _ in range(FAILURES):
        wrong(world, "192.0.2.7")
    assert world.login(device=device).ssh != line, "an expired certificate shows it as well"


def test_a_device_has_its_own_failures(world: World) -> None:
    """A stolen device guesses no faster than other clients."""
    world.add_user("alice", "access")
    line = world.login().ssh
    device = (world.ssh, line)
    for _ in range(FAILURES):
        wrong(world, "192.0.2.7", device=device)
    with pytest.raises(AccessDenied):
        world.login(device=device)
    assert world.events("user.locked_out")[0].fields["source"].startswith("device SHA256:")
    world.login()


@pytest.mark.parametrize("case", ["other user", "other key", "too old", "not ours", "no line"])
def test_a_proof_that_proves_nothing_counts_for_nothing(world: World, case: str) -> None:
    """A certificate of another user, without its key, of long ago or of another cluster makes
    no known device; the attempt is one from its address.
    """
    world.add_user("alice", "access")
    world.add_user("bob", "access")
    line = world.login("bob" if case == "other user" else "alice").ssh
    key = world.ssh
    for _ in range(FAILURES):
        wrong(world, "192.0.2.7")
    if case == "other key":
        key = PrivateKey.generate()
    elif case == "too old":
        world.clock.advance((REMEMBERED + timedelta(hours=13)).total_seconds())
        for _ in range(FAILURES):
            wrong(world, "192.0.2.7")
    elif case == "not ours":
        other = World()
        other.add_user("alice", "access")
        line, key = other.login().ssh, other.ssh
        other.stop()
    elif case == "no line":
        line = "x" * 100_000
    with pytest.raises(AccessDenied):
        world.login(device=(key, line))


def test_guesses_from_many_networks_are_slowed_together(world: World) -> None:
    """A botnet has so many guesses an hour; from where the user logged in before, she logs in."""
    world.add_user("alice", "access")
    world.login(address="203.0.113.5")
    for number in range(GUESSES):
        wrong(world, f"198.51.100.{number}")
    (event,) = world.events("user.locked_out")
    assert event.fields["source"] == "all unknown sources"
    with pytest.raises(AccessDenied):
        world.login(address="192.0.2.7")
    world.login(address="203.0.113.5")
    world.clock.advance(3600 / GUESSES + 1)
    world.login(address="192.0.2.7")


def test_each_failure_more_is_a_longer_wait() -> None:
    """The wait doubles up to an hour, and failures are forgotten in half a day."""
    guard, moment = Guard(), NOON
    waits: list[Any] = []
    for _ in range(FAILURES + 11):
        outcome, guard = guard.attempt("a", False, moment)
        waits.append(guard.sources["a"].wait_until)
        assert outcome is (Outcome.WRONG if waits[-1] is None else Outcome.LAST)
        if waits[-1] is not None:
            assert guard.attempt("a", True, moment)[0] is Outcome.LOCKED_OUT
            waits[-1], moment = waits[-1] - moment, waits[-1]
    assert waits[: FAILURES + 1] == [None] * (FAILURES - 1) + [FIRST_WAIT, 2 * FIRST_WAIT]
    assert waits[-1] == LONGEST_WAIT
    assert guard.attempt("a", False, moment + timedelta(hours=12))[0] is Outcome.WRONG


def test_the_guard_of_one_user_is_bounded() -> None:
    """However many networks try, so many are stored, and those of the user last."""
    guard = Guard()
    _, guard = guard.attempt("home", True, NOON)
    for number in range(1000):
        _, guard = guard.attempt(f"net{number}", False, NOON + timedelta(hours=1 + number))
    assert len(guard.sources) == SOURCES + 1
    assert guard.sources["home"].known == NOON


def test_logins_from_many_networks_make_guessing_no_easier() -> None:
    """Many known networks and devices leave room to remember who guesses."""
    guard = Guard()
    for number in range(3 * SOURCES):
        moment = NOON + timedelta(minutes=number)
        _, guard = guard.attempt(f"net{number}", True, moment)
        _, guard = guard.attempt(f"device {number}", True, moment, device=True)
    assert len(guard.sources) == SOURCES
    outcomes: list[Any] = [None] * FAILURES
    for number in range(FAILURES):
        outcomes[number], guard = guard.attempt("guesser", False, moment)
    assert outcomes[-1] is Outcome.LAST
    assert guard.attempt("guesser", True, moment)[0] is Outcome.LOCKED_OUT


def test_a_password_of_an_older_version_is_still_one(world: World) -> None:
    """What an older auth stored is read, and a lock-out of its kind is over."""
    world.add_user("alice", "access")
    stored = result(world.backend.get("/passwords/alice"))
    assert stored is not None
    old = stored.value.decode().replace(
        '"failures":[]', '"failures":["2026-11-24T12:00:00.000Z"]'
    ).replace('"locked_until":null', '"locked_until":"2099-01-01T00:00:00.000Z"')  # fmt: skip
    result(world.backend.commit(Put("/passwords/alice", old.encode())))
    world.login()


# -- order of waiting calls -------------------------------------------------------------
class Hashing:
    """Passwords whose hashes finish when the test says so."""

    def __init__(self, world: World) -> None:
        self.threads = Threads()
        self.passwords = Passwords(
            world.backend, lambda: now(world.clock), lambda n: b"x" * n, self.threads, FAST
        )
        warm = Deferred.fromCoroutine(self.passwords.warm_up())
        self.threads.finish()
        result(warm)

    def check(self, name: str, source: str, **words: Any) -> Deferred[Outcome]:
        return Deferred.fromCoroutine(self.passwords.check(name, "y", Attempt(source, **words)))

    def one(self) -> None:
        answer, work = self.threads.waiting.pop(0)
        answer.callback(work())


def test_a_flood_of_logins_holds_its_share_of_the_queue(world: World) -> None:
    """One source, and one name from it, hold so many places; the rest has to try again."""
    hashing = Hashing(world)
    one_name = [hashing.check("x", "flood") for _ in range(WAITING_PER_NAME + AT_ONCE + 5)]
    assert sum(check.called for check in one_name) == 5
    names = [hashing.check(f"n{n}", "flood") for n in range(WAITING_PER_SOURCE)]
    assert sum(check.called for check in names) == WAITING_PER_NAME
    for check in (*one_name, *names):
        if check.called:
            with pytest.raises(Unavailable):
                result(check)
    hashing.threads.finish()
    for check in (*one_name, *names):
        check.addErrback(lambda failure: failure.trap(Unavailable))


def test_a_flood_of_logins_does_not_make_others_wait(world: World) -> None:
    """A client from elsewhere, or with another name, waits for one or two hashes only."""
    hashing = Hashing(world)
    flood = [hashing.check("x", "flood") for _ in range(WAITING_PER_NAME)]
    flood += [hashing.check(f"n{n}", "flood") for n in range(20)]
    alice = hashing.check("alice", "home")
    for _ in range(AT_ONCE + 1):
        hashing.one()
    assert [alice.called for _ in range(1)] == [False]
    hashing.one()
    assert result(alice) is Outcome.UNKNOWN
    assert sum(check.called for check in flood) < AT_ONCE + 3
    hashing.threads.finish()
    assert all(check.called for check in flood)


def test_many_sources_that_fill_the_queue_make_room(world: World) -> None:
    """When all places are taken, a source that holds many gives one to a source that holds none."""
    hashing = Hashing(world)
    sources = WAITING // WAITING_PER_SOURCE
    flood = [
        hashing.check(f"n{n}", f"flood{s}")
        for s in range(sources)
        for n in range(WAITING_PER_SOURCE)
    ]
    more = [hashing.check(f"m{n}", "flood0") for n in range(AT_ONCE)]
    alice = hashing.check("alice", "home")
    assert not alice.called
    refused = [check for check in (*flood, *more) if check.called]
    assert len(refused) == 1
    with pytest.raises(Unavailable):
        result(refused[0])
    hashing.threads.finish()
    assert result(alice) is Outcome.UNKNOWN


def test_nothing_is_hashed_for_clients_that_left(world: World) -> None:
    """A connection that has gone gives its place back, and costs no hash."""
    hashing = Hashing(world)
    here = True
    busy = [hashing.check("b", "home") for _ in range(AT_ONCE)]
    gone = [hashing.check("x", "flood", present=lambda: here) for _ in range(WAITING_PER_NAME)]
    here = False
    late = hashing.check("x", "flood")
    assert not late.called, "those who left gave their places"
    for check in gone:
        with pytest.raises(Unavailable):
            result(check)
    assert len(hashing.threads.waiting) == AT_ONCE
    hashing.threads.finish()
    assert [result(check) for check in (*busy, late)] == [Outcome.UNKNOWN] * 3


def test_twice_as_many_logins_are_twice_the_work(world: World) -> None:
    """What a flood costs beside hashing grows with it and no faster."""
    hashing = Hashing(world)

    def work(size: int) -> int:
        def run() -> None:
            checks = [hashing.check(f"n{n}", f"s{n // 100}") for n in range(size)]
            hashing.threads.finish()
            assert all(check.called for check in checks)

        return calls(run)

    work(500)  # as many sources are remembered as there will be
    assert is_linear(work)


def test_administrators_set_passwords_while_others_flood(world: World) -> None:
    """Setting a password does not wait behind those who guess."""
    hashing = Hashing(world)
    flood = [hashing.check(f"n{n}", "flood") for n in range(100)]
    setting = Deferred.fromCoroutine(hashing.passwords.replacement("alice", "correct horse"))
    for _ in range(AT_ONCE + 2):
        hashing.one()
    assert setting.called
    hashing.threads.finish()
    assert all(check.called for check in flood)


def test_a_user_who_is_removed_meanwhile_is_unknown(world: World) -> None:
    """A user who is removed while the password is hashed does not log in."""
    world.add_user("alice", "access")
    hashing = Hashing(world)
    checked = Deferred.fromCoroutine(hashing.passwords.check("alice", "correct horse"))
    result(world.backend.commit(hashing.passwords.removal("alice")))
    hashing.threads.finish()
    assert result(checked) is Outcome.UNKNOWN
