"""Why may a user log in to a node, or why not? Role by role, for administrators.

Invariants:

* The decision is that of :func:`tele.rbac.decision.decide`; here it is only explained.
* Each role of the user is listed, also those that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from typing import Final

from attrs import Factory, frozen

from tele.model.access import Denied, Grant, RoleGrant
from tele.model.access_tests import Action
from tele.model.codec import format_duration
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Lock, LockMode, Role, RoleOptions, SessionRecording
from tele.rbac import labels as conditions
from tele.rbac import reach as reaching
from tele.rbac.decision import decide
from tele.rbac.joining import watch_text
from tele.rbac.logins import denied as denied_login
from tele.rbac.logins import expand
from tele.rbac.windows import within


class Effect(str, Enum):
    """What a role does to this login."""

    ALLOWS = "allows"
    DENIES = "denies"
    NOTHING = "nothing"


@frozen
class RoleEffect:
    """What one role does, and why: one sentence for each part of the role."""

    role: str
    effect: Effect
    why: tuple[str, ...]


@frozen
class Explanation:
    """A decision. ``reason`` is the code of a denial, ``message`` its text for the user.

    ``actions`` has the roles that give each action of
    :class:`tele.model.access_tests.Action`; empty if access is denied.
    """

    user: str
    login: str
    node: str
    allowed: bool
    reason: str
    message: str
    roles: tuple[RoleEffect, ...]
    actions: Mapping[str, tuple[str, ...]]
    max_sessions: int = 0
    #: The destinations and paths of each kind; empty if access is denied.
    reach: Mapping[str, reaching.Reach] = Factory(dict)


def explain(
    identity: UserIdentity,
    login: str,
    node: str,
    labels: Mapping[str, str],
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    host_id: str = "",
) -> Explanation:
    """Explain what :func:`decide` says of a user who logs in now, with a new certificate."""
    several = list(locks)
    decided = decide(identity, login, labels, roles, several, now, host_id)
    effects = tuple(
        effect_of(name, roles.get(name), identity, login, labels, now)
        for name in sorted(set(identity.roles))
    )
    if isinstance(decided, Denied):
        reason, message = decided.reason.value, decided.message
        return Explanation(identity.user, login, node, False, reason, message, effects, {})
    return Explanation(
        identity.user, login, node, True, "", "", effects, actions_of(decided),
        decided.max_sessions, reaching.reach_of(decided),
    )  # fmt: skip


def actions_of(grant: Grant) -> dict[str, tuple[str, ...]]:
    """Return the roles that give each action, by the name of the action."""
    found: dict[str, tuple[str, ...]] = {}
    for action, gives in _GIVES.items():
        giving = tuple(each.role for each in grant.given if gives(grant, each))
        if giving:
            found[action.value] = giving
    return found


_GIVES: Final[dict[Action, Callable[[Grant, RoleGrant], bool]]] = {
    Action.SHELL: lambda grant, given: given.force_command is None and not grant.restricts(given),
    Action.COMMAND: lambda _, given: given.force_command is not None,
    Action.TERMINAL: lambda _, given: given.permit_pty,
    Action.PORT_FORWARDING: lambda _, given: given.port_forwarding,
    Action.AGENT_FORWARDING: lambda _, given: given.agent_forwarding,
    Action.X11_FORWARDING: lambda _, given: given.x11_forwarding,
    Action.BREAK_GLASS: lambda _, given: given.break_glass,
}


def effect_of(
    name: str,
    role: Role | None,
    identity: UserIdentity,
    login: str,
    labels: Mapping[str, str],
    now: datetime,
) -> RoleEffect:
    """Return what one role does to a login."""
    if role is None:
        return RoleEffect(name, Effect.NOTHING, ("there is no such role",))
    expires = role.metadata.expires
    if expires is not None and expires <= now:
        return RoleEffect(name, Effect.NOTHING, (f"the role has expired: {expires.isoformat()}",))
    denying = tuple(_denials(role.spec.deny, identity, login, labels))
    taken = tuple(_taken_from_account(role.spec.deny))
    if denying:
        return RoleEffect(name, Effect.DENIES, (*denying, *taken))
    missing = tuple(_missing(role.spec.allow, identity, login, labels))
    if missing:
        return RoleEffect(name, Effect.NOTHING, (*missing, *taken))
    times = role.spec.options.valid_times
    if not within(times, now):
        only = "; ".join(each.text for each in times)
        return RoleEffect(name, Effect.NOTHING, (f"its valid_times are {only}",))
    why = [f"allow.logins has {login}", "allow matches the labels of the node"]
    why += [*_account_of(role), *taken]
    if role.spec.options.force_command:
        why.append(f"it forces {role.spec.options.force_command!r}")
    why.extend(_obligations(role.spec.options))
    return RoleEffect(name, Effect.ALLOWS, tuple(why))


def _obligations(options: RoleOptions) -> Iterator[str]:
    """Yield what a role asks of each connection that it is about, whichever role allows it."""
    if options.require_mfa:
        yield "it requires a second factor (require_mfa)"
    if options.pin_source_ip:
        yield "it requires a certificate for one address (pin_source_ip)"
    if options.record is SessionRecording.STRICT:
        yield "it requires a recording (record: strict)"
    if options.lock is LockMode.STRICT:
        yield "it requires a host that knows the locks of now (lock: strict)"
    if options.max_connections is not None:
        yield f"it permits {options.max_connections} connections (max_connections)"
    if options.client_idle_timeout:
        idle = format_duration(options.client_idle_timeout)
        yield f"it ends a connection that is idle for {idle} (client_idle_timeout)"
    for rule in options.require_session_join:
        yield f"it requires that {watch_text(rule)} (require_session_join)"
    if options.disconnect_expired_cert:
        yield "it ends a connection with its certificate (disconnect_expired_cert)"


def _denials(
    side: Conditions, who: UserIdentity, login: str, labels: Mapping[str, str]
) -> Iterator[str]:
    for each in side.logins:
        if denied_login((each,), login, who.traits):
            yield f"deny.logins has {login}, by {each!r}"
    for key, patterns in side.node_labels.items():
        if conditions.denies(Conditions(node_labels={key: patterns}), labels, who):
            yield f"deny.node_labels has {_label(key, labels)}"
    text = side.node_labels_expression
    if text and conditions.denies(Conditions(node_labels_expression=text), labels, who):
        yield f"deny.node_labels_expression is true: {text}"


def _missing(
    side: Conditions, who: UserIdentity, login: str, labels: Mapping[str, str]
) -> Iterator[str]:
    allowed = expand(side.logins, who.traits)
    if login not in allowed:
        yield f"allow.logins is {', '.join(allowed) or 'empty'}"
    if not side.node_labels and not side.node_labels_expression:
        yield "allow has no node_labels: it matches no node"
    for key, patterns in side.node_labels.items():
        if not conditions.allows(Conditions(node_labels={key: patterns}), labels, who):
            yield f"allow.node_labels wants {key}={'|'.join(patterns)}; {_label(key, labels)}"
    text = side.node_labels_expression
    if text and not conditions.allows(Conditions(node_labels_expression=text), labels, who):
        yield f"allow.node_labels_expression is false: {text}"


def _label(key: str, labels: Mapping[str, str]) -> str:
    if key == "*":
        return "every node"
    return f"the node has {key}={labels[key]}" if key in labels else f"the node has no {key}"


def _account_of(role: Role) -> Iterator[str]:
    """What it says of an account that a node makes (:mod:`tele.rbac.host_users`)."""
    mode = role.spec.options.create_host_user.value
    if mode != "off":
        yield f"create_host_user is {mode}"
    for name in role.spec.allow.host_groups:
        yield f"allow.host_groups has {name}"
    for line in role.spec.allow.host_sudoers:
        yield f"allow.host_sudoers has {line!r}"


def _taken_from_account(side: Conditions) -> Iterator[str]:
    for name in side.host_groups:
        yield f"deny.host_groups has {name}"
    for line in side.host_sudoers:
        yield f"deny.host_sudoers has {line!r}"
