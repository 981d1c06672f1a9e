"""May they come in, and may they stay? Decided with a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from tele.certs.check import CheckedUser
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.model.access import Denied, Grant, Reason
from tele.model.api.members import ClusterState
from tele.model.identity import HostRole, UserIdentity
from tele.model.joining import WatchRule
from tele.model.resources import (
    Conditions,
    Lock,
    LockMode,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingSettings,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.model.revocation import UserRevocation
from tele.rbac.certificate import PERMIT_AGENT_FORWARDING, PERMIT_PORT_FORWARDING, PERMIT_PTY
from tele.rbac.policy import Policy
from tele.sessions.admission import (
    CLAIM_SECONDS,
    RECORD_SECONDS,
    STRICT_STATE_SECONDS,
    Login,
    SessionAdmission,
    Target,
)

HOUR = timedelta(hours=1)
#: It is not read: it was checked.
NO_CERTIFICATE: Any = None


class FakeSession:
    """A connection of a user."""

    def __init__(self, grant: Grant, number: int) -> None:
        self.grant = grant
        self.context = SimpleNamespace(session_id=f"session-{number}")
        self.expelled_for: list[Denied] = []
        self.ended: Denied | None = None
        self.gone = self.is_proxied = self.began = False

    def logged_in(self) -> None:
        self.began = True

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
    """A member of a cluster whose state the test sets."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.reactor.advance(1_800_000_000)
        moment = now(self.reactor)
        self.member: Any = SimpleNamespace(
            state=ClusterState("c", 1, moment, (), (role("ops"),), (), RecordingSettings()),
            identity=SimpleNamespace(expires=moment + 1000 * HOUR),
            can_record=True,
            bound_labels={},
            recorded=lambda *, or_refused=False: self.refused if or_refused else self.recorded,
        )
        self.recorded: Deferred[None] = succeed(None)
        self.refused: Deferred[None] = succeed(None)
        self.member.policy = Policy.of(self.member.state)
        self.member.expelled = False
        self.labels = {"env": "test"}
        self.sessions: list[FakeSession] = []
        member: Any = self.member
        self.admission = SessionAdmission(self.reactor, member, HostRole.NODE, lambda: self.labels)
        self.admission.review()

    def login(self, user: str = "alice", *roles: str, host_id: str = "host-1") -> Login:
        """Return a login on a host that has the labels."""
        moment = now(self.reactor)
        identity = UserIdentity(
            user, "c", moment + HOUR, roles or ("ops",), ("root",), issued=moment, serial=7,
            login_session="login-1",
        )  # fmt: skip
        extensions = frozenset({PERMIT_PTY, PERMIT_PORT_FORWARDING, PERMIT_AGENT_FORWARDING})
        credentials = CertificateCredentials(
            CheckedUser(identity, extensions=extensions), "root", NO_CERTIFICATE, ("h", 1), ("h", 2)
        )
        return Login.of(credentials, lambda: Target(host_id, self.labels))

    def begin(self, user: str = "alice", *roles: str) -> list[Any]:
        """Begin a session; return what it comes to."""
        answer: list[Any] = []
        Deferred.fromCoroutine(self._begin(self.login(user, *roles))).addBoth(answer.append)
        return answer

    async def _begin(self, login: Login) -> Callable[[], None]:
        session: Any = FakeSession(self.admission.admit(login), len(self.sessions))
        self.sessions.append(session)
        return await self.admission.enter(session, login)

    def log_in(self, user: str = "alice", *roles: str) -> FakeSession:
        self.begin(user, *roles)
        return self.sessions[-1]

    def change(self, **fields: Any) -> None:
        self.member.state = evolve(self.member.state, **fields)
        self.member.policy = Policy.of(self.member.state)
        self.admission.review()


@pytest.fixture
def world() -> World:
    return World()


def test_no_login_before_its_event_is_stored(world: World) -> None:
    """However long the disk takes, a session begins after its start was written."""
    world.recorded = Deferred()
    answer = world.begin()
    assert answer == []
    world.recorded.callback(None)
    assert callable(answer[0])
    assert not world.sessions[0].gone


def test_a_user_locked_while_the_start_is_written_is_refused(world: World) -> None:
    """A lock that comes between the event and the session holds, and the event gets its end."""
    world.recorded = Deferred()
    answer = world.begin()
    world.change(locks=(Lock(Metadata("l"), LockSpec(LockTarget(user="alice"))),))
    world.recorded.callback(None)
    with pytest.raises(AccessDenied, match="locked"):
        answer[0].raiseException()
    assert world.sessions[0].gone


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
    session = world.log_in()
    others = Lock(Metadata("o"), LockSpec(LockTarget(session="session-9")))
    world.change(locks=(others,))
    assert session.expelled_for == []
    lock = Lock(Metadata("l"), LockSpec(LockTarget(**target), "call security"))
    world.change(locks=(others, lock))
    (denied,) = session.expelled_for
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
    session = world.log_in()
    ends = session.grant.expires
    world.reactor.advance(2 * 3600)
    world.change(roles=(role("ops"), role("other")))
    assert session.expelled_for == []
    assert session.grant.expires == ends


def test_a_role_that_gives_less_is_the_grant_from_then_on(world: World) -> None:
    """Forwarding that is taken away is gone from the grant; the certificate's limits stay."""
    session = world.log_in()
    assert session.grant.port_forwarding
    world.change(roles=(role("ops", port_forwarding=False, x11_forwarding=True),))
    assert session.expelled_for == []
    assert (session.grant.port_forwarding, session.grant.x11_forwarding) == (False, False)


def test_changed_labels_apply_to_authenticated_users(world: World) -> None:
    """A node whose labels change disconnects users who could not log in to it now."""
    session = world.log_in()
    world.labels = {"env": "prod"}
    world.admission.review()
    assert [denied.reason for denied in session.expelled_for] == [Reason.NODE]


def test_a_closed_connection_is_not_reviewed(world: World) -> None:
    """A connection that is gone is forgotten."""
    answer = world.begin()
    answer[0]()
    world.change(roles=())
    assert world.sessions[0].gone
    assert world.sessions[0].expelled_for == []


def test_break_glass_roles_log_in_without_space_for_the_audit(world: World) -> None:
    """A node without space for its audit accepts ``break_glass`` roles, and no others."""
    world.member.can_record = False
    with pytest.raises(Unavailable, match="its disk is full"):
        world.begin()[0].raiseException()
    world.change(roles=(role("ops"), role("rescue", break_glass=True)))
    world.log_in("alice", "ops", "rescue")
    assert [session.grant.break_glass for session in world.sessions] == [True]


def test_an_emergency_opens_what_its_role_gives_and_no_more(world: World) -> None:
    """Without storage a narrow ``break_glass`` role brings no shell of another role with it, nor
    later, and the session ends with the role (attack).
    """
    rescue = role("rescue", break_glass=True, force_command="df", permit_pty=False)
    world.change(roles=(role("ops"), rescue))
    world.member.can_record = False
    world.log_in("alice", "ops", "rescue")
    (session,) = world.sessions
    assert (session.grant.roles, session.grant.emergency) == (("rescue",), True)
    world.member.can_record = True
    world.change(roles=(role("ops", max_sessions=3), rescue))
    assert session.grant.roles == ("rescue",)
    world.change(roles=(role("ops"), role("rescue", force_command="df")))
    assert [denied.reason for denied in session.expelled_for] == [Reason.RECORDING]


def test_an_event_that_is_not_stored_in_time_leaves_the_emergency(world: World) -> None:
    """A slow disk refuses no one who would get in with a full one."""
    rescue = role("rescue", break_glass=True, force_command="df", permit_pty=False)
    world.change(roles=(role("ops"), rescue))
    world.recorded = Deferred()
    waiting = world.begin("alice", "ops", "rescue")
    world.reactor.advance(RECORD_SECONDS)
    assert callable(waiting[0])
    assert world.sessions[0].grant.roles == ("rescue",)


def test_a_login_waits_a_bounded_time_for_its_event(world: World) -> None:
    """A login that neither the disk nor auth records fails and leaves nothing; a ``break_glass``
    role does not wait for it.
    """
    world.recorded = Deferred()
    waiting = world.begin()
    world.reactor.advance(RECORD_SECONDS - 1)
    assert waiting == []
    world.reactor.advance(1)
    with pytest.raises(Unavailable, match="its disk is full"):
        waiting[0].raiseException()
    assert (world.sessions[0].gone, world.admission.sessions) == (True, ())
    world.change(roles=(role("ops"), role("rescue", break_glass=True)))
    world.recorded = Deferred()
    world.log_in("alice", "ops", "rescue")
    assert len(world.admission.sessions) == 1


def test_each_target_is_decided_by_its_own(world: World) -> None:
    """Of two hosts that one member serves, each has its labels and its id: a lock of one leaves
    users of the other, and no host is entered by another one's labels.
    """
    world.log_in()
    other = world.login("alice", host_id="host-2")
    session: Any = FakeSession(world.admission.admit(other), 1)
    Deferred.fromCoroutine(world.admission.enter(session, other))
    world.change(locks=(Lock(Metadata("l"), LockSpec(LockTarget(host_id="host-2"))),))
    assert world.sessions[0].expelled_for == []
    assert [denied.reason for denied in session.expelled_for] == [Reason.LOCKED]
    prod = evolve(other, target=lambda: Target("host-3", {"env": "prod"}))
    with pytest.raises(AccessDenied) as denied:
        world.admission.admit(prod)
    assert denied.value.reason == Reason.NODE.value


def test_a_refusal_names_the_part(world: World) -> None:
    """Users of a proxy that serves sessions read that it is the proxy which cannot."""
    proxy = SessionAdmission(world.reactor, world.member, HostRole.PROXY, lambda: None)
    world.member.can_record = False
    with pytest.raises(Unavailable, match="this proxy accepts no logins: its disk is full"):
        proxy.admit(world.login())
    world.member.expelled = "it was removed"
    with pytest.raises(Unavailable, match="this proxy accepts no logins: it was removed"):
        proxy.admit(world.login())
    world.reactor.advance(1000 * 3600)
    with pytest.raises(Unavailable, match="the certificate of this proxy has expired"):
        proxy.admit(world.login())


def test_a_session_that_has_to_be_watched_ends_at_no_proxy(world: World) -> None:
    """There nothing can be joined: it does not begin, and ends when its role gets the rule; on a
    node it is for the session to wait.
    """
    proxy = SessionAdmission(world.reactor, world.member, HostRole.PROXY, lambda: None)
    proxy.review()
    login = world.login()
    session: Any = FakeSession(proxy.admit(login), 1)
    Deferred.fromCoroutine(proxy.enter(session, login))
    watched = role("ops", require_session_join=(WatchRule("w", ("lead",)),))
    world.change(roles=(watched,))
    proxy.review()
    assert [denied.reason for denied in session.expelled_for] == [Reason.MODERATED]
    with pytest.raises(AccessDenied, match="require_session_join"):
        proxy.admit(world.login())
    assert world.admission.admit(world.login()).require_session_join


# -- connections of a user over all hosts ----------------------------------------------
class FakeAuth:
    """Auth that counts connections as the test says."""

    def __init__(self) -> None:
        self.claims: list[Any] = []
        self.answer: Callable[[], Any] = lambda: succeed(None)

    def perform(self, operation: Any, request: Any) -> Any:
        self.claims.append(request)
        return self.answer()


@pytest.fixture
def auth(world: World) -> FakeAuth:
    """Auth, and a role with a limit of two."""
    world.member.authority = FakeAuth()
    world.change(roles=(role("ops", max_connections=2),))
    made: FakeAuth = world.member.authority
    return made


def test_a_connection_is_counted_before_it_begins(world: World, auth: FakeAuth) -> None:
    """One that auth denies has no start, and no end, in the audit."""
    (leave,) = world.begin()
    assert callable(leave)
    (claimed,) = auth.claims
    assert (claimed.id, claimed.user, claimed.limit) == ("session-0", "alice", 2)
    auth.answer = lambda: fail(AccessDenied("2 connections are open", Reason.CONNECTIONS.value))
    (denied,) = world.begin()
    with pytest.raises(AccessDenied, match="2 connections are open"):
        denied.raiseException()
    assert (world.sessions[1].began, world.sessions[1].gone) == (False, True)
    assert world.admission.sessions == ("session-0",)


def test_without_auth_a_host_counts_its_own(world: World, auth: FakeAuth) -> None:
    """Those of another user do not count. It waits for an answer for a few seconds."""
    auth.answer = lambda: fail(Unavailable("auth is away"))
    world.begin("bob")
    (leave,) = world.begin()
    auth.answer = Deferred
    waiting = world.begin()
    assert waiting == []
    world.reactor.advance(CLAIM_SECONDS)
    assert callable(waiting[0])
    (denied,) = world.begin()
    with pytest.raises(AccessDenied, match="2 connections are open for alice on this node"):
        denied.raiseException()
    leave()
    world.begin()
    world.reactor.advance(CLAIM_SECONDS)
    assert world.sessions[-1].began


def test_a_session_behind_a_proxy_is_counted_there(world: World, auth: FakeAuth) -> None:
    """The node behind it asks nobody, and users without a limit cost no question."""
    login = world.login()
    session: Any = FakeSession(world.admission.admit(login), 1)
    session.is_proxied = True
    Deferred.fromCoroutine(world.admission.enter(session, login))
    world.change(roles=(role("ops"),))
    world.begin()
    assert auth.claims == []
    assert session.began


def test_strict_locks_need_word_from_auth(world: World) -> None:
    """A role that wants the locks of now refuses logins where they may be five minutes old; a role
    without that does not, and a session that runs goes on.
    """
    world.change(roles=(role("ops"), role("strict", lock=LockMode.STRICT)))
    world.member.state_age = STRICT_STATE_SECONDS
    session = world.log_in("alice", "strict")
    for age, said in ((STRICT_STATE_SECONDS + 1, "for 5 min"), (inf, "since it was started")):
        world.member.state_age = age
        for held in (("strict",), ("ops", "strict")):
            (refused,) = world.begin("alice", *held)
            assert refused.check(AccessDenied)
            assert refused.value.reason == "stale"
            assert said in str(refused.value)
        assert not world.log_in("bob", "ops").gone
    world.change(revision=2)
    assert (session.ended, session.gone) == (None, False)
    world.member.state_age = 0.0
    assert world.log_in("alice", "strict") is not session
