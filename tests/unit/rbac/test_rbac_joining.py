"""Which sessions of others may a user join, by their roles, locks and certificate?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from tele.errors import InvalidInput
from tele.model.access import CertificateLimits, Denied, Grant, Reason
from tele.model.codec import from_json, to_json
from tele.model.identity import UserIdentity
from tele.model.joining import (
    JoinGrant,
    JoinMode,
    JoinRule,
    JoinTarget,
    Watcher,
    WatchRule,
    join_login,
    joined_session,
)
from tele.model.resources import (
    Conditions,
    Lock,
    LockMode,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.model.revocation import UserRevocation
from tele.rbac.joining import unwatched
from tele.rbac.policy import Policy
from tele.rbac.presets import check_role

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ID = "0f1e2d3c-0000-4000-8000-000000000001"
BOB = UserIdentity("bob", "c", NOW + timedelta(hours=1), ("watch",), issued=NOW)
TARGET = JoinTarget(ID, ("dev", "base"), "host-1", {"env": "prod"})
MODERATOR, OBSERVER, PEER = JoinMode.MODERATOR, JoinMode.OBSERVER, JoinMode.PEER


def rule(*modes: JoinMode, roles: tuple[str, ...] = ("dev",), name: str = "r") -> JoinRule:
    return JoinRule(name, roles, modes or (OBSERVER,))


def role(
    *allow: JoinRule, deny: tuple[JoinRule, ...] = (), name: str = "watch", **options: Any
) -> Role:
    return Role(
        Metadata(name),
        RoleSpec(
            Conditions(join_sessions=allow),
            Conditions(join_sessions=deny),
            RoleOptions(**options),
        ),
    )


def decided(
    *roles: Role,
    who: UserIdentity = BOB,
    target: JoinTarget = TARGET,
    certificate: CertificateLimits | None = None,
    **named: Any,
) -> Any:
    policy = Policy({each.metadata.name: each for each in roles}, **named)
    return policy.decide_join(who, target, NOW, certificate or CertificateLimits())


def modes(decision: Any) -> set[JoinMode]:
    return set(decision.modes) if isinstance(decision, JoinGrant) else set()


def test_nothing_is_joined_by_default() -> None:
    """A role that gives every login gives no session of another user; one that does not exist
    gives nothing.
    """
    everything = Role(
        Metadata("watch"), RoleSpec(Conditions(logins=("root",), node_labels={"*": ("*",)}))
    )
    for decision in (decided(everything), decided(), decided(role(rule(roles=("ops",))))):
        assert isinstance(decision, Denied)
    assert decided(everything).reason is Reason.JOIN


def test_rules_are_about_roles_that_give_the_session() -> None:
    """By name or pattern; each mode includes to see."""
    assert modes(decided(role(rule()))) == {OBSERVER}
    assert modes(decided(role(rule(PEER)))) == {OBSERVER, PEER}
    assert modes(decided(role(rule(MODERATOR, roles=("d*",))))) == {OBSERVER, MODERATOR}
    assert modes(decided(role(rule(roles=("*",))))) == {OBSERVER}
    assert modes(decided(role(rule(), rule(PEER, name="s")))) == {OBSERVER, PEER}
    assert modes(decided(role(rule()), target=evolve(TARGET, roles=("ops",)))) == set()


def test_deny_wins() -> None:
    """Of modes, of all of them with the first, of the node, and by a role that was given since."""
    allow = rule(OBSERVER, MODERATOR, PEER)
    assert modes(decided(role(allow, deny=(rule(PEER),)))) == {OBSERVER, MODERATOR}
    assert modes(decided(role(allow, deny=(rule(),)))) == set()
    assert modes(decided(role(allow, deny=(rule(PEER, roles=("base",)),)))) == {OBSERVER, MODERATOR}
    other = Role(Metadata("no"), RoleSpec(deny=Conditions(node_labels={"env": ("prod",)})))
    both = evolve(BOB, roles=("watch", "no"))
    assert decided(role(allow), other, who=both).reason is Reason.DENIED
    since = UserRevocation("bob", narrowed=NOW + timedelta(seconds=1), roles=("watch", "no"))
    assert decided(role(allow), other, revoked_users=(since,)).reason is Reason.DENIED
    without = UserRevocation("bob", narrowed=NOW + timedelta(seconds=1), roles=())
    assert decided(role(allow), revoked_users=(without,)).reason is Reason.JOIN


@pytest.mark.parametrize(
    "target",
    [{"user": "bob"}, {"role": "watch"}, {"host_id": "host-1"}],
    ids=lambda each: next(iter(each)),
)
def test_locks_come_first(target: dict[str, str]) -> None:
    """On the user, a role of theirs, and the host."""
    lock = Lock(Metadata("l"), LockSpec(LockTarget(**target)))
    assert decided(role(rule()), locks=(lock,)).reason is Reason.LOCKED


def test_obligations_and_limits_of_the_certificate() -> None:
    """What roles that allow it demand is demanded; a certificate without terminals types nothing,
    and one that forces a command joins nothing.
    """
    assert decided(role(rule(), require_mfa=True)).reason is Reason.MFA
    pinned = decided(role(rule(), pin_source_ip=True), certificate=CertificateLimits(pinned=False))
    assert pinned.reason is Reason.ADDRESS
    assert modes(decided(role(rule(PEER)), certificate=CertificateLimits(permit_pty=False))) == {
        OBSERVER
    }
    forced = decided(role(rule()), certificate=CertificateLimits(force_command="id"))
    assert forced.reason is Reason.DENIED
    assert decided(role(rule(), lock=LockMode.STRICT)).strict_locks
    late = evolve(BOB, expires=NOW)
    assert decided(role(rule()), who=late).reason is Reason.EXPIRED


def test_who_may_join_something_is_connected() -> None:
    """To a node without a login there, unless it is denied; others are not."""
    watcher = Policy({"watch": role(rule())})
    assert watcher.may_connect(BOB, {"env": "prod"}, NOW) is None
    assert watcher.may_reach(BOB, {"env": "prod"}, NOW) is not None
    nothing = Policy({"watch": role()})
    assert nothing.may_connect(BOB, {"env": "prod"}, NOW) is not None
    denies = evolve(role(rule()), spec=evolve(role(rule()).spec, deny=Conditions(
        node_labels={"env": ("prod",)})))  # fmt: skip
    refused = Policy({"watch": denies}).may_connect(BOB, {"env": "prod"}, NOW)
    assert refused is not None
    assert refused.reason is Reason.DENIED


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (JoinRule("r", ()), "it names no roles"),
        (JoinRule("r", ("",)), "it names no roles"),
        (JoinRule("r", ("a",), ()), "it names no modes: observer, moderator, peer"),
    ],
)
def test_a_rule_without_effect_is_refused(bad: JoinRule, said: str) -> None:
    """With its side and its name; two rules have two names."""
    with pytest.raises(InvalidInput, match=f"allow: join_sessions: r: {said}"):
        check_role(role(bad))
    with pytest.raises(InvalidInput, match="deny: join_sessions: r: another rule has this name"):
        check_role(role(deny=(rule(), rule())))


def test_who_has_to_watch() -> None:
    """One rule of each role, by different users other than the session's, in the right mode."""
    lead = WatchRule("lead", ("lead-*",))
    two = WatchRule("two", ("peer",), (OBSERVER, PEER), 2)
    bob = Watcher("bob", ("lead-1", "peer"), MODERATOR)
    eve = Watcher("eve", ("peer",), OBSERVER)
    dan = Watcher("dan", ("peer",), PEER)
    assert unwatched((), "alice", ()) == ()
    assert unwatched(((lead,),), "alice", ()) == (lead,)
    assert unwatched(((lead,),), "alice", (bob,)) == ()
    assert unwatched(((lead,),), "bob", (bob,)) == (lead,)
    assert unwatched(((lead,),), "alice", (evolve(bob, mode=OBSERVER),)) == (lead,)
    assert unwatched(((lead, two),), "alice", (eve, dan)) == ()
    assert unwatched(((two,),), "alice", (eve, evolve(eve, mode=PEER))) == (two,)
    assert unwatched(((two,),), "alice", (eve, bob)) == (two,)
    assert unwatched(((lead,), (two,)), "alice", (bob, eve)) == (two,)
    assert unwatched(((lead,), (two,)), "alice", (bob, eve, dan)) == ()


def test_what_is_watched_forwards_nothing() -> None:
    """Whichever role allows the login and gives it; the rule is checked when it is written."""
    watch = WatchRule("w", ("lead",))
    side = Conditions(logins=("root",), node_labels={"*": ("*",)})
    options = RoleOptions(require_session_join=(watch,), forward_agent=True, x11_forwarding=True)
    known = {
        "watched": Role(Metadata("watched"), RoleSpec(side, options=options)),
        "free": Role(Metadata("free"), RoleSpec(side, options=RoleOptions(port_forwarding=True))),
    }
    who = evolve(BOB, roles=("free", "watched"))
    grant = Policy(known).decide(who, "root", {}, NOW)
    assert isinstance(grant, Grant)
    assert grant.require_session_join == ((watch,),)
    assert (grant.port_forwarding, grant.agent_forwarding, grant.x11_forwarding) == (False,) * 3
    assert grant.permit_pty
    bad = evolve(known["watched"], spec=evolve(
        known["watched"].spec, options=RoleOptions(require_session_join=(evolve(watch, roles=()),))
    ))  # fmt: skip
    with pytest.raises(InvalidInput, match="options: require_session_join: w: it names no roles"):
        check_role(bad)


def test_the_name_of_a_client_that_joins() -> None:
    """It has the id of a session, and nothing else is one."""
    assert joined_session(join_login(ID)) == ID
    for login in ("root", ID, f"join+{ID.upper()}", f"join+{ID}x", f"xjoin+{ID}", "join+", ""):
        assert joined_session(login) == ""


def test_a_role_without_rules_is_written_as_before() -> None:
    """Parts of an earlier version read it; one with rules is read back."""
    assert "join_sessions" not in str(to_json(role()))
    assert from_json(Role, to_json(role(rule(PEER)))) == role(rule(PEER))
