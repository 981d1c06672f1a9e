"""May they come in, and may they stay? The node's decisions, with a fake clock."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from twisted.conch.interfaces import IConchUser
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tele.certs.check import CheckedUser
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.model.access import Denied, Grant, Reason
from tele.model.api.members import ClusterState
from tele.model.identity import UserIdentity
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingSettings,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.model.revocation import UserRevocation, revoked_before
from tele.node.realm import RECORD_SECONDS, NodeRealm
from tele.rbac.certificate import PERMIT_AGENT_FORWARDING, PERMIT_PORT_FORWARDING, PERMIT_PTY
from tele.rbac.policy import Policy

HOUR = timedelta(hours=1)
#: It is not read: it was checked.
NO_CERTIFICATE: Any = None


class SlowAccounts:
    """Accounts whose lookups wait until the test lets them answer."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    async def check(self, login: str, user: str) -> None:
        self.waiting.append(Deferred())
        await self.waiting[-1]

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)


class FakeAvatar:
    """What the realm needs of one."""

    def __init__(self, grant: Grant, number: int) -> None:
        self.grant = grant
        self.context = SimpleNamespace(session_id=f"session-{number}")
        self.expelled_for: list[Denied] = []
        self.ended: Denied | None = None
        self.gone = False

    def logged_in(self) -> None:
        """Nothing."""

    def logged_out(self) -> None:
        self.gone = True

    def regranted(self, grant: Grant) -> None:
        self.grant = grant

    def expelled(self, denied: Denied) -> None:
        self.ended = denied
        self.expelled_for.append(denied)


def role(name: str, **options: Any) -> Role:
    allow = Conditions(logins=("root",), node_labels={"env": ("test",)})
    return Role(Metadata(name), RoleSpec(allow, options=RoleOptions(**options)))


class World:
    """A node of a cluster whose state the test sets."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.accounts = SlowAccounts()
        self.reactor.advance(1_800_000_000)
        moment = now(self.reactor)
        self.member: Any = SimpleNamespace(
            state=ClusterState("c", 1, moment, (), (role("ops"),), (), RecordingSettings()),
            identity=SimpleNamespace(expires=moment + 1000 * HOUR),
            can_record=True,
            bound_labels={},
            host_id="host-1",
            recorded=lambda *, or_refused=False: self.refused if or_refused else self.recorded,
        )
        self.recorded: Deferred[None] = succeed(None)
        self.refused: Deferred[None] = succeed(None)
        self.member.policy = Policy.of(self.member.state)
        self.member.expelled = False
        self.labels = {"env": "test"}
        self.avatars: list[FakeAvatar] = []
        member: Any = self.member
        accounts: Any = self.accounts
        self.realm = NodeRealm(self.reactor, member, lambda: self.labels, self._receive, accounts)
        self.realm.review()

    def _receive(self, grant: Grant, credentials: CertificateCredentials) -> Any:
        self.avatars.append(FakeAvatar(grant, len(self.avatars)))
        return self.avatars[-1]

    def begin(self, user: str = "alice", *roles: str) -> list[Any]:
        """Begin a log-in; return what it comes to."""
        moment = now(self.reactor)
        identity = UserIdentity(
            user, "c", moment + HOUR, roles or ("ops",), ("root",), issued=moment, serial=7,
            login_session="login-1",
        )  # fmt: skip
        extensions = frozenset({PERMIT_PTY, PERMIT_PORT_FORWARDING, PERMIT_AGENT_FORWARDING})
        credentials: Any = CertificateCredentials(
            CheckedUser(identity, extensions=extensions), "root", NO_CERTIFICATE, ("h", 1), ("h", 2)
        )
        answer: list[Any] = []
        self.realm.requestAvatar(credentials, None, IConchUser).addBoth(answer.append)
        return answer

    def log_in(self, user: str = "alice", *roles: str) -> FakeAvatar:
        self.begin(user, *roles)
        self.accounts.answer()
        return self.avatars[-1]

    def change(self, **fields: Any) -> None:
        self.member.state = evolve(self.member.state, **fields)
        self.member.policy = Policy.of(self.member.state)
        self.realm.review()


@pytest.fixture
def world() -> World:
    return World()


def test_what_changes_during_a_login_counts(world: World) -> None:
    """Looking up an account takes a while; a user who is denied meanwhile is refused."""
    answer = world.begin()
    removed = UserRevocation("alice", removed=revoked_before(now(world.reactor)))
    world.change(revoked_users=(removed,))
    world.accounts.answer()
    with pytest.raises(AccessDenied, match="was removed"):
        answer[0].raiseException()
    assert world.avatars == []


def test_no_login_before_its_event_is_stored(world: World) -> None:
    """However long the disk takes, a session begins after its start was written."""
    world.recorded = Deferred()
    answer = world.begin()
    world.accounts.answer()
    assert answer == []
    world.recorded.callback(None)
    assert answer[0][1] is world.avatars[0]


def test_a_user_locked_while_the_start_is_written_is_refused(world: World) -> None:
    """A lock that comes between the event and the session holds, and the event gets its end."""
    world.recorded = Deferred()
    answer = world.begin()
    world.accounts.answer()
    world.change(locks=(Lock(Metadata("l"), LockSpec(LockTarget(user="alice"))),))
    world.recorded.callback(None)
    with pytest.raises(AccessDenied, match="locked"):
        answer[0].raiseException()
    assert world.avatars[0].gone


@pytest.mark.parametrize(
    "target",
    [
        {"user": "alice"},
        {"role": "ops"},
        {"login": "root"},
        {"host_id": "host-1"},
        {"login_session": "login-1"},
        {"certificate": "7"},
        {"session": "session-0"},
    ],
)
def test_a_lock_ends_what_it_names(world: World, target: dict[str, str]) -> None:
    """Each of its targets; another session, user or role goes on."""
    avatar = world.log_in()
    others = Lock(Metadata("o"), LockSpec(LockTarget(session="session-9")))
    world.change(locks=(others,))
    assert avatar.expelled_for == []
    lock = Lock(Metadata("l"), LockSpec(LockTarget(**target), "call security"))
    world.change(locks=(others, lock))
    (denied,) = avatar.expelled_for
    assert denied.reason is Reason.LOCKED
    assert denied.message.endswith(": call security")


def test_an_end_ends_at_its_moment(world: World) -> None:
    """A user's, and a role's; nothing else has to happen."""
    alice = world.log_in("alice")
    end = now(world.reactor) + HOUR / 2
    brief = evolve(role("brief"), metadata=Metadata("brief", expires=end))
    world.change(
        roles=(role("ops"), brief), revoked_users=(UserRevocation("alice", expires=end + HOUR / 4),)
    )
    # Bob's role came after he did, and carries him as long as it lasts.
    bob = world.log_in("bob", "brief")
    world.reactor.advance(1799)
    assert (alice.expelled_for, bob.expelled_for) == ([], [])
    world.reactor.advance(1)
    assert [d.reason for d in bob.expelled_for] == [Reason.NO_ROLE]
    assert alice.expelled_for == []
    world.reactor.advance(900)
    assert [d.reason for d in alice.expelled_for] == [Reason.REVOKED]


def test_the_end_of_a_certificate_ends_no_connection(world: World) -> None:
    """What runs goes on, as with sshd; nothing new begins, which is the grant's business."""
    avatar = world.log_in()
    ends = avatar.grant.expires
    world.reactor.advance(2 * 3600)
    world.change(roles=(role("ops"), role("other")))
    assert avatar.expelled_for == []
    assert avatar.grant.expires == ends


def test_a_role_that_gives_less_is_the_grant_from_then_on(world: World) -> None:
    """Forwarding that is taken away is gone from the grant; the certificate's limits stay."""
    avatar = world.log_in()
    assert avatar.grant.port_forwarding
    world.change(roles=(role("ops", port_forwarding=False, x11_forwarding=True),))
    assert avatar.expelled_for == []
    assert (avatar.grant.port_forwarding, avatar.grant.x11_forwarding) == (False, False)


def test_changed_labels_apply_to_authenticated_users(world: World) -> None:
    """A node whose labels change disconnects users who could not log in to it now."""
    avatar = world.log_in()
    world.labels = {"env": "prod"}
    world.realm.review()
    assert [denied.reason for denied in avatar.expelled_for] == [Reason.NODE]


def test_a_closed_connection_is_not_reviewed(world: World) -> None:
    """A connection that is gone is forgotten."""
    answer = world.begin()
    world.accounts.answer()
    _, _, logged_out = answer[0]
    logged_out()
    world.change(roles=())
    assert world.avatars[0].gone
    assert world.avatars[0].expelled_for == []


def test_break_glass_roles_log_in_without_space_for_the_audit(world: World) -> None:
    """A node without space for its audit accepts ``break_glass`` roles, and no others."""
    world.member.can_record = False
    with pytest.raises(Unavailable, match="its disk is full"):
        world.begin()[0].raiseException()
    world.change(roles=(role("ops"), role("rescue", break_glass=True)))
    world.log_in("alice", "ops", "rescue")
    assert [avatar.grant.break_glass for avatar in world.avatars] == [True]


def test_a_login_waits_a_bounded_time_for_its_event(world: World) -> None:
    """A login that neither the disk nor auth records fails and leaves nothing; a ``break_glass``
    role does not wait for it.
    """
    world.recorded = Deferred()
    waiting = world.begin()
    world.accounts.answer()
    world.reactor.advance(RECORD_SECONDS - 1)
    assert waiting == []
    world.reactor.advance(1)
    with pytest.raises(Unavailable, match="its disk is full"):
        waiting[0].raiseException()
    assert (world.avatars[0].gone, world.realm.sessions) == (True, ())
    world.change(roles=(role("ops"), role("rescue", break_glass=True)))
    world.recorded = Deferred()
    world.log_in("alice", "ops", "rescue")
    assert len(world.realm.sessions) == 1
