"""Who gets an avatar of a node? Decided about its labels, before and after its account is found."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from twisted.conch.interfaces import IConchUser
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from grants import changed, one_role
from tele.certs.check import CheckedUser
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.model.access import Denied, Grant, Reason, RecordingPlan, RoleGrant
from tele.model.identity import UserIdentity
from tele.model.resources import RecordingMode
from tele.node.avatars import is_recorded
from tele.node.host_users import AccountLease, HostUsers
from tele.node.realm import NodeRealm

LATER = datetime(2099, 1, 1, tzinfo=UTC)
#: It is not read: it was checked.
NO_CERTIFICATE: Any = None
#: No user joins a session.
NO_JOINS: Any = None
#: No account is made.
NO_AUDIT: Any = None


class World:
    """A realm; its policy gives ``answer``, and its lookups of accounts wait."""

    def __init__(self) -> None:
        identity = UserIdentity("alice", "c", LATER, ("ops",), ("root",))
        self.grant = one_role(identity, "root", "ops")
        self.answer: Grant | Denied = self.grant
        #: Labels and host of each decision.
        self.asked: list[tuple[Any, Any]] = []
        self.avatars: list[Any] = []
        self.looking: list[Deferred[None]] = []
        self.credentials = CertificateCredentials(
            CheckedUser(identity), "root", NO_CERTIFICATE, ("h", 1), ("h", 2)
        )
        member: Any = SimpleNamespace(
            state=SimpleNamespace(recording=SimpleNamespace(problem="")),
            policy=SimpleNamespace(decide=self._decide),
            identity=SimpleNamespace(expires=LATER),
            can_record=True,
            expelled="",
            bound_labels={"env": "prod"},
            host_id="host-1",
            recorded=lambda **_: succeed(None),
        )
        own = {"env": "test", "team": "a"}
        accounts: Any = SimpleNamespace(check=self._look)
        self.realm = NodeRealm(
            Clock(),
            member,
            lambda: own,
            self._make,
            accounts,
            HostUsers(Clock(), None, NO_AUDIT),
            NO_JOINS,
        )

    def _decide(
        self, identity: object, login: str, labels: object, moment: object, host_id: str, *_: object
    ) -> Grant | Denied:
        self.asked.append((labels, host_id))
        return self.answer

    async def _look(self, login: str, user: str) -> None:
        assert (login, user) == ("root", "alice")
        self.looking.append(Deferred())
        await self.looking[-1]

    def _make(self, grant: Grant, credentials: CertificateCredentials) -> Any:
        self.avatars.append(NotingAvatar(grant))
        return self.avatars[-1]

    def begin(self, interface: Any = IConchUser) -> list[Any]:
        """Begin a login; return what it comes to."""
        answer: list[Any] = []
        self.realm.requestAvatar(self.credentials, None, interface).addBoth(answer.append)
        return answer


class NotingAvatar:
    """An avatar that notes its login and its end."""

    ended: Denied | None = None
    is_proxied = False
    shared = None

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.events: list[str] = []
        self.context = SimpleNamespace(session_id="session-1")

    def use_account(self, lease: AccountLease) -> None:
        assert lease.wanted is self.grant.host_user

    def logged_in(self) -> None:
        self.events.append("in")

    def logged_out(self) -> None:
        self.events.append("out")


def test_a_login_and_its_end() -> None:
    """The avatar is made when its account is known, and leaves the sessions at its end; labels that
    the cluster bound to the node win over its own.
    """
    world = World()
    answer = world.begin()
    assert (answer, world.avatars) == ([], [])
    world.looking[0].callback(None)
    interface, avatar, leave = answer[0]
    assert (interface, avatar) == (IConchUser, world.avatars[0])
    assert world.realm.admission.sessions == ("session-1",)
    assert world.asked == [({"env": "prod", "team": "a"}, "host-1")] * 2
    leave()
    assert avatar.events == ["in", "out"]
    assert len(world.realm.admission.sessions) == 0


def by_proxy(world: World, target: str, serial: int = 7) -> None:
    """Log in with a certificate for a session that a proxy ends."""
    identity = evolve(world.grant.identity, serial=3)
    checked = CheckedUser(identity, session="session-1", target=target, serial=serial)
    world.credentials = evolve(world.credentials, checked=checked)


def test_a_certificate_for_another_host_is_refused() -> None:
    """What a proxy got for a session on one host opens none on another (attack)."""
    world = World()
    for target in ("host-2", ""):
        by_proxy(world, target)
        with pytest.raises(AccessDenied, match="another host"):
            world.begin()[0].raiseException()
    by_proxy(world, "host-1")
    assert world.begin() == []


def test_a_certificate_for_one_login_is_used_once() -> None:
    """One that is stolen, or used again by the proxy, opens no second session (attack)."""
    world = World()
    for serial in (7, 8):
        by_proxy(world, "host-1", serial)
        assert world.begin() == []
        with pytest.raises(AccessDenied, match="was used"):
            world.begin()[0].raiseException()


@pytest.mark.parametrize("mode", [RecordingMode.PROXY, RecordingMode.PROXY_SYNC])
def test_users_do_not_get_around_the_proxies(mode: RecordingMode) -> None:
    """While proxies record, a user's own certificate opens nothing here (attack)."""
    world = World()
    world.answer = evolve(world.grant, recording=RecordingPlan(mode))
    with pytest.raises(AccessDenied, match="recorded by its proxies"):
        world.begin()[0].raiseException()
    by_proxy(world, "host-1")
    assert world.begin() == []
    rescue = World()
    rescue.answer = changed(world.grant, recording=RecordingPlan(mode), break_glass=True)
    assert rescue.begin() == []  # its account is looked up
    narrow = World()
    both = (RoleGrant("df", force_command="df", break_glass=True), RoleGrant("ops"))
    narrow.answer = evolve(world.grant, recording=RecordingPlan(mode), given=both)
    narrow.begin()
    narrow.looking[0].callback(None)
    assert narrow.avatars[0].grant.roles == ("df",)


@pytest.mark.parametrize("mode", RecordingMode)
def test_nodes_record_what_old_certificates_open(mode: RecordingMode) -> None:
    """A proxy that was taken over has certificates from when proxies recorded: what it opens with
    them afterwards, the node records (attack).
    """
    grant = evolve(World().grant, recording=RecordingPlan(mode))
    assert is_recorded(grant, "") is (mode is not RecordingMode.OFF)
    elsewhere = (RecordingMode.OFF, RecordingMode.PROXY, RecordingMode.PROXY_SYNC)
    assert is_recorded(grant, "session-1") is (mode not in elsewhere)


def test_what_changes_during_a_login_counts() -> None:
    """Looking up an account takes a while; a user who is denied meanwhile is refused (attack)."""
    world = World()
    answer = world.begin()
    world.answer = Denied(Reason.REVOKED, "alice was removed")
    world.looking[0].callback(None)
    with pytest.raises(AccessDenied, match="was removed"):
        answer[0].raiseException()
    assert world.avatars == []


def test_no_account_is_looked_up_for_who_is_denied() -> None:
    """Roles are asked first: name services learn nothing of users without a role here (attack)."""
    world = World()
    world.answer = Denied(Reason.NO_ROLE, "no role")
    with pytest.raises(AccessDenied, match="no role"):
        world.begin()[0].raiseException()
    assert world.looking == []


def test_what_is_no_ssh_user_is_refused() -> None:
    """A portal that asks for another interface gets nothing."""
    with pytest.raises(Unavailable, match="SSH users only"):
        World().begin(SimpleNamespace)[0].raiseException()
