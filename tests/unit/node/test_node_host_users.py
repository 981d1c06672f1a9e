"""Which sessions need which account: who is connected decides, in order, whatever fails."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from tele.errors import AccessDenied, TeleError, Unavailable
from tele.interfaces import IHostUsers
from tele.model.host_user import Ensured, HostUser, Recovered, Released
from tele.node.host_users import AccountLease, HostUsers, shared

SUDO = HostUser(drop=True, groups=("a", "b"), sudoers=("ALL=ALL", "x=ALL"))
LESS = HostUser(drop=True, groups=("b",), sudoers=("x=ALL",), shell="/bin/bash")
NONE = HostUser(drop=True)


@implementer(IHostUsers)
class Machine:
    """Makes accounts when it is told to, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.waiting: list[Deferred[Any]] = []
        self.made: set[str] = set()

    def recover(self) -> Deferred[Recovered]:
        return self._wait("recover")

    def ensure(self, login: str, wanted: HostUser | None) -> Deferred[Ensured]:
        return self._wait("ensure", login, wanted)

    def release(self, login: str) -> Deferred[Released]:
        return self._wait("release", login)

    def _wait(self, *asked: Any) -> Deferred[Any]:
        self.asked.append(asked)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self, value: object) -> None:
        """Answer what was asked first."""
        waiting = self.waiting.pop(0)
        if isinstance(value, Exception):
            waiting.errback(value)
        else:
            waiting.callback(value)


class World:
    """A node's accounts, its machine and its audit."""

    def __init__(self, enabled: bool = True) -> None:
        self.clock = Clock()
        self.machine = Machine()
        self.events: list[tuple[str, str, str]] = []
        self.users = HostUsers(self.clock, self.machine, self, enabled=enabled)  # type: ignore[arg-type]

    def emit(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields["user"], fields["login"]))

    def acquire(self, wanted: HostUser | None, user: str = "alice") -> list[Any]:
        """Begin to have an account ready; return what it comes to."""
        answer: list[Any] = []
        acquiring = Deferred.fromCoroutine(self.users.acquire("bob", user, wanted))
        acquiring.addBoth(answer.append)
        return answer

    def lease(self, wanted: HostUser | None, user: str = "alice") -> AccountLease:
        """Have it ready."""
        answer = self.acquire(wanted, user)
        while self.machine.waiting:
            self.machine.answer(Ensured(managed=True, made=len(self.machine.asked) == 1))
        (lease,) = answer
        assert isinstance(lease, AccountLease)
        return lease


def test_an_account_is_ready_before_the_login_and_released_after_the_last() -> None:
    """The second login of the same kind asks for nothing; only the last end releases."""
    world = World()
    first = world.acquire(SUDO)
    assert first == []
    world.machine.answer(Ensured(managed=True, made=True))
    second = world.acquire(SUDO)
    assert world.machine.asked == [("ensure", "bob", SUDO)]
    first[0].release()
    assert len(world.machine.asked) == 1
    second[0].release()
    second[0].release()
    assert world.machine.asked[1:] == [("release", "bob")]
    world.machine.answer(Released(removed=True))
    assert world.events == [
        ("host_user.create", "alice", "bob"), ("host_user.remove", "alice", "bob"),
    ]  # fmt: skip
    assert world.users._accounts == {}


def test_users_who_share_an_account_have_what_all_of_them_have() -> None:
    """A user with less is not given another's sudo rights, in any order (attack)."""
    world = World()
    more = world.lease(SUDO)
    less = world.lease(LESS, "mallory")
    both = HostUser(True, ("b",), ("x=ALL",))
    assert world.machine.asked[-1] == ("ensure", "bob", both)
    less.release()
    assert world.machine.asked[-1] == ("ensure", "bob", SUDO)
    world.machine.answer(Ensured(managed=True))
    nothing = world.lease(None, "mallory")
    assert world.machine.asked[-1] == ("ensure", "bob", NONE)
    for lease in (nothing, more):
        lease.release()


def test_a_login_waits_for_a_release_that_has_begun() -> None:
    """An account is not used while it is removed: it is made again."""
    world = World()
    world.lease(SUDO).release()
    again = world.acquire(SUDO)
    assert world.machine.asked == [("ensure", "bob", SUDO), ("release", "bob")]
    world.machine.answer(Released(removed=True))
    assert (again, world.machine.asked[2:]) == ([], [("ensure", "bob", SUDO)])
    world.machine.answer(Ensured(managed=True, made=True))
    assert len(again) == 1


@pytest.mark.parametrize("error", [AccessDenied("no", "account"), Unavailable("later")])
def test_a_login_is_refused_with_the_reason(error: TeleError) -> None:
    """And nothing of it is left; the next one tries again."""
    world = World()
    refused = world.acquire(SUDO)
    world.machine.answer(error)
    assert refused[0].value is error
    assert world.users._accounts == {}
    world.lease(SUDO)


def test_a_change_of_rights_is_an_event() -> None:
    """Sudo rights that come into force, also of an account that was kept, are in the audit."""
    world = World()
    world.acquire(SUDO)
    world.machine.answer(Ensured(managed=True, changed=True))
    assert world.events == [("host_user.update", "alice", "bob")]


def test_a_busy_account_is_released_later() -> None:
    """Unless it is used again before."""
    world = World()
    world.lease(SUDO).release()
    world.machine.answer(Released(busy=True))
    world.clock.advance(60)
    assert world.machine.asked[-2:] == [("release", "bob"), ("release", "bob")]
    world.machine.answer(Unavailable("locked"))
    lease = world.lease(SUDO)
    count = len(world.machine.asked)
    world.clock.advance(600)
    assert len(world.machine.asked) == count
    lease.release()
    world.machine.answer(Released(removed=True))
    assert world.clock.getDelayedCalls() == []


def test_a_change_of_roles_that_fails_takes_rights_away() -> None:
    """A running session keeps no sudo rights because a change could not be made."""
    world = World()
    lease = world.lease(SUDO)
    lease.update(LESS)
    world.machine.answer(Unavailable("the disk is full"))
    asked = world.machine.asked[-1]
    assert asked[:2] == ("ensure", "bob")
    assert (asked[2].groups, asked[2].sudoers) == ((), ())
    world.machine.answer(Unavailable("the disk is full"))
    lease.update(SUDO)
    assert world.machine.asked[-1] == ("ensure", "bob", SUDO)


def test_the_start_after_a_crash() -> None:
    """What was dropped is released; what was kept loses what roles do not give any more."""
    world = World()
    starting = Deferred.fromCoroutine(world.users.start())
    world.machine.answer(Recovered(("bob",), ("carol",)))
    assert starting.called
    assert world.machine.asked == [("recover",), ("release", "carol")]
    world.machine.answer(Released(removed=True))
    assert world.events == [("host_user.remove", "", "carol")]
    world.acquire(None)
    assert world.machine.asked[-1] == ("ensure", "bob", None)


def test_a_node_that_makes_no_accounts_any_more() -> None:
    """Roles have nothing made; what was made before is still released."""
    world = World(enabled=False)
    Deferred.fromCoroutine(world.users.start())
    world.machine.answer(Recovered(("bob",), ()))
    answer = world.acquire(SUDO)
    assert world.machine.asked[-1] == ("ensure", "bob", None)
    world.machine.answer(Ensured(managed=True))
    answer[0].update(SUDO)
    assert len(world.machine.asked) == 2
    other = Deferred.fromCoroutine(world.users.acquire("dave", "alice", SUDO))
    assert other.called


def test_an_account_that_no_role_wants_costs_nothing() -> None:
    """The machine is not asked about logins whose accounts were not made here."""
    world = World()
    answer = world.acquire(None)
    assert len(answer) == 1
    answer[0].release()
    assert world.machine.asked == []
    assert world.users._accounts == {}


def test_a_stop_waits_for_releases_for_a_while() -> None:
    """What takes longer is left for the next start."""
    world = World()
    world.lease(SUDO).release()
    stopping = Deferred.fromCoroutine(world.users.stop())
    assert not stopping.called
    world.clock.advance(11)
    assert stopping.called


def test_what_connections_share() -> None:
    """Dropped only if all say so; the order of connections changes neither groups nor sudoers."""
    keep = HostUser(drop=False, groups=("a",))
    assert shared([]) is None
    assert shared([None, None]) is None
    assert shared([SUDO]) == SUDO
    assert shared([SUDO, keep]) == HostUser(False, ("a",))
    for order in ([SUDO, LESS, None], [None, LESS, SUDO]):
        found = shared(order)
        assert found is not None
        assert (found.drop, found.groups, found.sudoers) == (True, (), ())
