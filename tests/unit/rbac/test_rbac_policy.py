"""A certificate counts for what it says, less what was revoked since it was issued."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from attrs import evolve

from tele.model.access import Denied, Grant, Reason
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.model.revocation import HostRevocation, UserRevocation, revoked_before
from tele.rbac.policy import Policy

NOW = datetime(2026, 11, 29, 12, 0, 0, 300_000, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
EVERYWHERE = {"*": ("*",)}
DEV = Role(
    Metadata("dev"),
    RoleSpec(Conditions(logins=("{{internal.logins}}",), node_labels=EVERYWHERE)),
)
ROOT = Role(Metadata("root"), RoleSpec(Conditions(logins=("root",), node_labels=EVERYWHERE)))
ROLES = {"dev": DEV, "root": ROOT}
ALICE = UserIdentity(
    "alice",
    "example",
    NOW + timedelta(hours=12),
    ("dev", "root"),
    ("alice", "root"),
    {"logins": ("alice", "deploy")},
    issued=NOW.replace(microsecond=0),
)
WEB1 = HostIdentity(
    "11111111-1111-4111-8111-111111111111", "web1", "example", HostRole.NODE,
    NOW + timedelta(hours=24), NOW.replace(microsecond=0),
)  # fmt: skip


def _decide(policy: Policy, who: UserIdentity, login: str, at: datetime = LATER) -> object:
    decision = policy.decide(who, login, {"env": "prod"}, at)
    return decision.reason if isinstance(decision, Denied) else type(decision)


def test_a_removed_users_certificate_is_void() -> None:
    """A removed user reaches nothing, also with a certificate of the same second."""
    policy = Policy(ROLES, (), [UserRevocation("alice", removed=revoked_before(NOW))])
    assert _decide(policy, ALICE, "alice") is Reason.REVOKED
    denied = policy.refuses_user(ALICE, LATER)
    assert denied is not None
    assert denied.reason is Reason.REVOKED
    assert policy.may_reach(ALICE, {"env": "prod"}, LATER) is not None


def test_a_user_of_the_same_name_is_not_touched() -> None:
    """A later user of the name is not affected by the removal."""
    again = evolve(ALICE, issued=revoked_before(NOW))
    policy = Policy(ROLES, (), [UserRevocation("alice", removed=revoked_before(NOW))])
    assert _decide(policy, again, "alice") is Grant
    assert policy.refuses_user(again, LATER) is None


def test_a_removed_user_gains_nothing_by_a_later_narrowing() -> None:
    """Roles of the later user of a name do not revive certificates of the earlier one."""
    revoked = UserRevocation(
        "alice", revoked_before(NOW), revoked_before(LATER), ("dev",), {"logins": ("alice",)}
    )
    assert _decide(Policy(ROLES, (), [revoked]), ALICE, "alice") is Reason.REVOKED


def test_roles_and_logins_that_were_taken_away_count_no_more() -> None:
    """A certificate gives no role, and no login of a trait, that its user has lost."""
    revoked = UserRevocation(
        "alice", narrowed=revoked_before(NOW), roles=("dev",), traits={"logins": ("alice",)}
    )
    policy = Policy(ROLES, (), [revoked])
    assert _decide(policy, ALICE, "alice") is Grant
    assert _decide(policy, ALICE, "root") is Reason.LOGIN
    assert _decide(policy, ALICE, "deploy") is Reason.LOGIN
    assert _decide(policy, evolve(ALICE, issued=LATER), "root", LATER) is Grant


def test_a_narrowing_gives_nothing() -> None:
    """A role that the certificate does not have does not come from a revocation."""
    plain = evolve(ALICE, roles=("dev",))
    revoked = UserRevocation(
        "alice", narrowed=revoked_before(NOW), roles=("dev", "root"), traits=ALICE.traits
    )
    assert _decide(Policy(ROLES, (), [revoked]), plain, "root") is Reason.LOGIN


def test_what_was_given_since_denies_and_limits() -> None:
    """A role that a user is given denies, locks and limits at once, by old certificates, too; what
    it gives they do not have.
    """
    suspended = Role(Metadata("suspended"), RoleSpec(deny=Conditions(node_labels=EVERYWHERE)))
    no_root = Role(Metadata("no-root"), RoleSpec(deny=Conditions(logins=("{{internal.never}}",))))
    files = evolve(
        DEV, metadata=Metadata("files"),
        spec=evolve(DEV.spec, options=RoleOptions(force_command="internal-sftp", max_sessions=3)),
    )  # fmt: skip
    roles = {**ROLES, "suspended": suspended, "no-root": no_root, "files": files}

    def given(role: str, *locks: Lock) -> Policy:
        traits = {**ALICE.traits, "never": ("root",)}
        now = UserRevocation(
            "alice", narrowed=revoked_before(NOW), roles=(*ALICE.roles, role), traits=traits
        )
        return Policy(roles, locks, [now])

    denied = given("suspended")
    assert _decide(denied, ALICE, "alice") is Reason.DENIED
    assert denied.may_reach(ALICE, {"env": "prod"}, LATER) is not None
    assert _decide(given("no-root"), ALICE, "root") is Reason.DENIED
    assert _decide(given("no-root"), ALICE, "alice") is Grant
    locked = given("files", Lock(Metadata("f"), LockSpec(LockTarget(role="files"))))
    assert _decide(locked, ALICE, "alice") is Reason.LOCKED
    assert locked.refuses_user(ALICE, LATER) is not None
    forced = given("files").decide(ALICE, "alice", {"env": "prod"}, LATER)
    assert isinstance(forced, Grant)
    assert ("files" in forced.roles, forced.max_sessions) == (False, 3)


def test_the_clusters_keepalive_holds_where_no_role_has_another() -> None:
    """At a node for the roles that allow the login, at a proxy for all roles of a user."""
    minute = timedelta(minutes=1)
    often = evolve(
        DEV, spec=evolve(DEV.spec, options=RoleOptions(client_keepalive=timedelta(seconds=5)))
    )
    for roles, cluster, expected in (
        (ROLES, None, timedelta(0)),
        (ROLES, minute, minute),
        ({**ROLES, "dev": often}, minute, timedelta(seconds=5)),
    ):
        policy = Policy(roles, client_keepalive=cluster)
        grant = policy.decide(ALICE, "alice", {"env": "prod"}, LATER)
        assert isinstance(grant, Grant)
        assert grant.client_keepalive == expected
        assert policy.client_keepalive(ALICE, LATER) == expected


def test_an_expired_user_is_out_when_the_time_comes() -> None:
    """The end of a user is the end of their certificates, at that time and not before."""
    policy = Policy(ROLES, (), [UserRevocation("alice", expires=LATER)])
    assert _decide(policy, ALICE, "alice", LATER - timedelta(seconds=1)) is Grant
    assert _decide(policy, ALICE, "alice", LATER) is Reason.REVOKED
    assert _decide(policy, evolve(ALICE, issued=LATER), "alice", LATER) is Grant


def test_a_removed_host_is_refused_and_a_later_one_of_its_id_is_not() -> None:
    """A revocation is of certificates that were issued before it, in that role."""
    revoked = HostRevocation(WEB1.host_id, HostRole.NODE, "web1", revoked_before(NOW))
    policy = Policy(ROLES, (), (), [revoked])
    denied = policy.refuses_host(WEB1, LATER)
    assert denied is not None
    assert denied.reason is Reason.REVOKED
    assert policy.refuses_host(evolve(WEB1, issued=revoked.before), LATER) is None
    assert policy.refuses_host(evolve(WEB1, role=HostRole.PROXY), LATER) is None


def test_a_locked_host_and_a_locked_user_are_refused() -> None:
    """Locks of hosts and of users hold while they last; their message is in the denial."""
    host = Lock(Metadata("h", expires=LATER), LockSpec(LockTarget(host_id=WEB1.host_id)))
    person = Lock(Metadata("p"), LockSpec(LockTarget(role="root"), "call security"))
    policy = Policy(ROLES, [host, person])
    assert policy.refuses_host(WEB1, NOW) is not None
    assert policy.refuses_host(WEB1, LATER) is None
    denied = policy.refuses_user(ALICE, NOW)
    assert denied is not None
    assert denied.message.endswith("locked by p: call security")
    assert policy.refuses_user(evolve(ALICE, roles=("dev",)), NOW) is None
