"""Which sessions of others may a user join, and in which modes?

Invariants:

* Nothing may be joined by default; deny wins over allow; a role allows within its ``valid_times``.
* A session is joined by the roles that give its user a terminal, whatever other roles the user has:
  a rule for the sessions of one role shows nothing that this role does not give.
* Who may not see a session may not do anything else in it.
* What a role or the certificate demands of a login is demanded of those who join, too.
* That no rule allows a session, and that there is no such session, are the same denial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from tele.errors import InvalidInput
from tele.model.access import CertificateLimits, Denied, Reason
from tele.model.identity import UserIdentity
from tele.model.joining import JoinGrant, JoinMode, JoinRule, JoinTarget, Watcher, WatchRule
from tele.model.patterns import matches
from tele.model.resources import Conditions, Lock, LockMode, Role
from tele.rbac.decision import explain, hits, in_time, obliged, roles_of
from tele.rbac.labels import denies

NOT_HERE: Final = Denied(
    Reason.JOIN,
    "no such session runs on this node, or no role of yours (join_sessions) lets you join it",
)

AT_PROXIES: Final = Denied(
    Reason.RECORDING,
    "sessions of this cluster are recorded by its proxies (session_recording), and cannot be joined"
    " there: watch the recording as it grows, with tele play",
)


def decide_join(
    identity: UserIdentity,
    target: JoinTarget,
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    certificate: CertificateLimits,
    present: UserIdentity,
) -> JoinGrant | Denied:
    """Decide whether ``identity`` may join ``target``.

    The other arguments are those of :func:`tele.rbac.decision.decide`.
    """
    denied = _stopped(identity, target, roles, locks, now, present)
    if denied is not None:
        return denied
    allowing: dict[str, Role] = {}
    allowed: set[JoinMode] = set()
    for role in roles_of(identity, roles, now):
        modes = _modes(role.spec.allow, target.roles) if in_time(role, now) else set()
        if modes:
            allowing[role.metadata.name] = role
            allowed |= modes
    refused: set[JoinMode] = set()
    for role in roles_of(present, roles, now):
        refused |= _modes(role.spec.deny, target.roles)
    if not certificate.permit_pty:
        refused.add(JoinMode.PEER)
    if not allowed or JoinMode.OBSERVER in refused:
        return NOT_HERE
    if certificate.force_command is not None:
        return Denied(
            Reason.DENIED,
            "your certificate forces a command, which is not to join a session",
        )
    options = {name: role.spec.options for name, role in allowing.items()}
    unmet = obliged(options, certificate)
    if unmet is not None:
        return unmet
    return JoinGrant(
        identity,
        identity.expires,
        frozenset((allowed | {JoinMode.OBSERVER}) - refused),
        any(each.lock is LockMode.STRICT for each in options.values()),
    )


def may_join_some(identity: UserIdentity, roles: Mapping[str, Role], now: datetime) -> bool:
    """Whether there may be sessions that ``identity`` may join: it is connected to their hosts."""
    return any(
        role.spec.allow.join_sessions and in_time(role, now)
        for role in roles_of(identity, roles, now)
    )


def _stopped(
    identity: UserIdentity,
    target: JoinTarget,
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    present: UserIdentity,
) -> Denied | None:
    """Return what stops ``identity`` whatever is allowed, or None."""
    if identity.expires <= now:
        return Denied(
            Reason.EXPIRED, f"the certificate of {identity.user} has expired: log in again"
        )
    lock = next((k for k in locks if hits(k, present, now, target.host_id, None, "")), None)
    if lock is not None:
        return Denied(Reason.LOCKED, explain(lock, identity.user))
    for role in roles_of(present, roles, now):
        side = role.spec.deny
        if denies(side, target.labels, present) or denies(side, target.labels, identity):
            return Denied(
                Reason.DENIED, f"role {role.metadata.name} denies this node to {identity.user}"
            )
    return None


def _modes(side: Conditions, held: Iterable[str]) -> set[JoinMode]:
    """Return the modes that one side of a role names for sessions that the roles ``held`` give."""
    names = tuple(held)
    return {
        mode
        for rule in side.join_sessions
        if any(matches(pattern, name) for pattern in rule.roles for name in names)
        for mode in rule.modes
    }


def unwatched(
    required: Iterable[Iterable[WatchRule]], user: str, watchers: Iterable[Watcher]
) -> tuple[WatchRule, ...]:
    """Return the rules of which one would have to be met, or none if a session of ``user`` is
    watched as ``required``: by one rule of each role. Its user does not count.
    """
    there = [each for each in watchers if each.user != user]
    for rules in map(tuple, required):
        if not any(_is_met(rule, there) for rule in rules):
            return rules
    return ()


def _is_met(rule: WatchRule, watchers: Iterable[Watcher]) -> bool:
    users = {
        each.user
        for each in watchers
        if each.mode in rule.modes
        and any(matches(pattern, role) for pattern in rule.roles for role in each.roles)
    }
    return len(users) >= rule.count


def watch_text(rule: WatchRule) -> str:
    """Return what a rule demands."""
    who = "a user" if rule.count == 1 else f"{rule.count} users"
    modes = " or ".join(each.value for each in rule.modes)
    return f"{who} with a role of {', '.join(rule.roles)} watches the session as {modes}"


def check_joins(role: Role) -> None:
    """Raise :class:`tele.errors.InvalidInput` for a rule that has no effect."""
    several: tuple[tuple[str, Sequence[JoinRule | WatchRule]], ...] = (
        ("allow: join_sessions", role.spec.allow.join_sessions),
        ("deny: join_sessions", role.spec.deny.join_sessions),
        ("options: require_session_join", role.spec.options.require_session_join),
    )
    for where, rules in several:
        seen: set[str] = set()
        for rule in rules:
            problem = _problem(rule)
            if rule.name in seen:
                problem = "another rule has this name"
            seen.add(rule.name)
            if problem:
                raise InvalidInput(f"{where}: {rule.name}: {problem}")


def _problem(rule: JoinRule | WatchRule) -> str:
    if not rule.roles or "" in rule.roles:
        return 'it names no roles; "*" is all of them'
    if not rule.modes:
        known = ", ".join(each.value for each in JoinMode)
        return f"it names no modes: {known}"
    return ""
