"""May this user log in to that node as that account, and call that operation of the API?

Invariants:

* Nothing is allowed by default; deny wins over allow; a role that does not exist any more, or has
  expired, allows and denies nothing. Outside of its times a role denies, and allows nothing.
* The decision is one value, a Grant or a Denied, and its text is for the user.
* Options belong to the role that grants: each role that allows login and node gives what it says,
  and takes nothing from another. Only denials, obligations and limits hold for all of them.
* A role that was given after the certificate was issued denies and limits at once, and allows
  nothing until there is a new certificate.
* What the certificate withholds, no role gives back.
* The order of roles never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from tele.model.access import (
    INTERNAL_SFTP,
    CertificateLimits,
    Denied,
    Grant,
    Reason,
    RecordingPlan,
    RoleGrant,
    has_break_glass,
)
from tele.model.actions import ANY_FILES, ForwardRules, TransferRules
from tele.model.identity import UserIdentity
from tele.model.resources import (
    Lock,
    LockMode,
    LockTarget,
    RecordingSettings,
    Role,
    RoleOptions,
    SessionRecording,
)
from tele.model.trace import Handovers, TraceKind
from tele.rbac import labels as conditions
from tele.rbac.forced import trouble_with
from tele.rbac.forwards import any_port, denied_by, given_by
from tele.rbac.host_users import host_user
from tele.rbac.logins import denied as denied_login
from tele.rbac.logins import expand
from tele.rbac.predicates import Facts
from tele.rbac.rules import has_rule
from tele.rbac.transfers import denied_files, files_of
from tele.rbac.windows import within

NO_LIMITS: Final = CertificateLimits()
BY_NODES: Final = RecordingSettings()


def decide(
    identity: UserIdentity,
    login: str,
    node_labels: Mapping[str, str],
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    host_id: str = "",
    certificate: CertificateLimits = NO_LIMITS,
    session_id: str = "",
    present: UserIdentity | None = None,
    recording: RecordingSettings = BY_NODES,
) -> Grant | Denied:
    """Decide whether ``identity`` may log in as ``login`` to a node with ``node_labels``.

    ``roles`` are all of the cluster, by name; ``locks`` those in force; ``certificate`` is what the
    certificate of this connection withholds. A running session has a ``session_id``. ``present`` is
    the identity that a new certificate would have, if it is known to differ. ``recording`` is what
    the cluster says about recordings.
    """
    present = present or identity
    matching = _matching(
        identity, node_labels, roles, locks, now, host_id, login, session_id, present
    )
    if isinstance(matching, Denied):
        return matching
    for role in roles_of(present, roles, now):
        listed = role.spec.deny.logins
        if listed and denied_login(listed, login, present.traits):
            return Denied(
                Reason.DENIED, f"role {role.metadata.name} denies login {login} to {identity.user}"
            )
    sometimes = [role for role in matching if _allows_login(role, login, identity)]
    allowing = [role for role in sometimes if in_time(role, now)]
    if not allowing:
        return _not_now(sometimes, identity) or Denied(
            Reason.LOGIN,
            f"no role of {identity.user} ({', '.join(identity.roles)}) allows login {login} here",
        )
    binding = {role.metadata.name: role.spec.options for role in allowing}
    if present is not identity:
        binding |= {
            role.metadata.name: role.spec.options
            for role in roles_of(present, roles, now)
            if in_time(role, now)
            and conditions.allows(role.spec.allow, node_labels, present)
            and _allows_login(role, login, present)
        }
    refused = obliged(binding, certificate, host_id)
    if refused is not None:
        return refused
    denying = roles_of(present, roles, now)
    denied_forwards, no_files = denied_by(denying), denied_files(denying)
    watches = dict.fromkeys(
        each.require_session_join
        for _, each in sorted(binding.items())
        if each.require_session_join
    )
    gifts = [
        _gift(role, certificate, denied_forwards, no_files, watched=bool(watches))
        for role in allowing
    ]
    given = tuple(each for each in gifts if isinstance(each, RoleGrant))
    if not given:
        return next(each for each in gifts if isinstance(each, Denied))
    account = host_user(allowing, denying, identity.traits)
    glass = [role for role in allowing if role.spec.options.break_glass]
    emergency = host_user(glass, denying, identity.traits)
    options = binding.values()
    strictly = any(o.record is SessionRecording.STRICT for o in options)
    return Grant(
        identity=identity,
        login=login,
        expires=identity.expires,
        given=given,
        host_user=account,
        emergency_user=emergency,
        max_sessions=min(o.max_sessions for o in options),
        client_keepalive=keepalive_of(options),
        max_forwards=min(o.max_forwards for o in options),
        denied_forwards=denied_forwards,
        denied_files=no_files,
        recording=RecordingPlan.of(
            recording,
            input=any(o.record_input for o in options),
            strict=strictly and not (has_break_glass(given) and account == emergency),
            trace=_traced(options),
            syscalls=tuple(sorted({name for o in options for name in o.traced_syscalls})),
            no_handovers=any(o.handovers is Handovers.DENY for o in options),
            count_opens=any(o.count_repeated_opens for o in options),
        ),
        client_idle_timeout=_shortest(o.client_idle_timeout for o in options),
        disconnect_expired_cert=_any_of(o.disconnect_expired_cert for o in options),
        max_connections=min(
            (o.max_connections for o in options if o.max_connections is not None), default=None
        ),
        strict_locks=any(o.lock is LockMode.STRICT for o in options),
        require_session_join=tuple(watches),
    )


def _traced(options: Iterable[RoleOptions]) -> tuple[TraceKind, ...]:
    """Return the kinds that one of the roles wants traced."""
    wanted = {kind for each in options for kind in each.enhanced_recording}
    return tuple(kind for kind in TraceKind if kind in wanted)


def keepalive_of(options: Iterable[RoleOptions]) -> timedelta | None:
    """Return the shortest interval of keepalives of roles; 0 is never, None is not set."""
    return _shortest(each.client_keepalive for each in options)


def _shortest(given: Iterable[timedelta | None]) -> timedelta | None:
    """Return the shortest of some times, of which 0 is never; None if none is set."""
    times = [each for each in given if each is not None]
    return min((each for each in times if each), default=timedelta(0)) if times else None


def _any_of(given: Iterable[bool | None]) -> bool | None:
    """Return whether one of them is true; None if none is set."""
    said = [each for each in given if each is not None]
    return any(said) if said else None


def obliged(
    binding: Mapping[str, RoleOptions], certificate: CertificateLimits, host_id: str = ""
) -> Denied | None:
    """Return why an obligation of roles, by name, is not met on a host; or None."""
    for name, options in sorted(binding.items()):
        if options.require_mfa and (not host_id or certificate.mfa_host != host_id):
            return Denied(
                Reason.MFA,
                f"role {name} requires a second factor for each session (require_mfa): type tele"
                " login once, then tele ssh, which asks for it",
            )
        if options.pin_source_ip and not certificate.pinned:
            return Denied(
                Reason.ADDRESS,
                f"role {name} requires a certificate that is valid for your address only"
                " (pin_source_ip): log in again",
            )
    return None


def _allows_login(role: Role, login: str, identity: UserIdentity) -> bool:
    return login in expand(role.spec.allow.logins, identity.traits)


def in_time(role: Role, now: datetime) -> bool:
    """Whether ``role`` allows anything now."""
    windows = role.spec.options.valid_times
    return not windows or within(windows, now)


def _not_now(roles: Iterable[Role], identity: UserIdentity) -> Denied | None:
    """Return the denial of what ``roles`` allow at other times, or None without roles."""
    role = next(iter(roles), None)
    if role is None:
        return None
    times = "; ".join(each.text for each in role.spec.options.valid_times)
    return Denied(
        Reason.TIME, f"role {role.metadata.name} allows this to {identity.user} only {times}"
    )


def _allows_node(
    role: Role, labels: Mapping[str, str], identity: UserIdentity, present: UserIdentity
) -> bool:
    """Whether ``role`` allows a node, by what the certificate says, and by what is true now.

    An expression may ask that the user has *not* a trait: losing one, or getting one, since then
    must not allow anything.
    """
    side = role.spec.allow
    return conditions.allows(side, labels, identity) and (
        present is identity or conditions.allows(side, labels, present)
    )


def _gift(
    role: Role,
    certificate: CertificateLimits,
    denied: ForwardRules,
    no_files: TransferRules,
    *,
    watched: bool,
) -> RoleGrant | Denied:
    """Return what ``role`` gives with such a certificate, or why that is nothing.

    ``denied`` and ``no_files`` are what no role gives. What is ``watched`` forwards nothing: no one
    sees what passes.
    """
    name, options = role.metadata.name, role.spec.options
    command = options.force_command or None
    certified = certificate.force_command
    if certified is not None:
        if command not in (None, certified):
            return Denied(
                Reason.DENIED, f"the certificate and role {name} force different commands"
            )
        command = certified
    trouble = None if command is None else trouble_with(command)
    if trouble is not None:
        source = f"role {name}" if certified is None else "the certificate"
        return Denied(Reason.DENIED, f"{source}: {trouble}")
    files = files_of(role)
    restricted = files is not None or no_files != ANY_FILES
    if restricted and not options.force_command and command not in (None, INTERNAL_SFTP):
        text = "which could transfer others; force internal-sftp there, or nothing"
        return Denied(
            Reason.DENIED,
            f"only some files may be transferred, and the certificate forces a command, {text}",
        )
    narrow = command is not None or restricted
    forward, forwards = given_by(role, forced=narrow), not watched
    return RoleGrant(
        role=name,
        permit_pty=certificate.permit_pty
        and options.permit_pty
        and (command is not None or not restricted),
        port_forwarding=forwards and certificate.port_forwarding and any_port(forward),
        agent_forwarding=forwards
        and certificate.agent_forwarding
        and bool(forward.agent and not denied.agent),
        x11_forwarding=forwards
        and certificate.x11_forwarding
        and bool(forward.x11 and not denied.x11),
        forward=forward,
        files=files,
        force_command=command,
        break_glass=options.break_glass,
    )


def may_reach(
    identity: UserIdentity,
    node_labels: Mapping[str, str],
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    host_id: str = "",
    login: str | None = None,
    session_id: str = "",
    present: UserIdentity | None = None,
) -> Denied | None:
    """Decide whether ``identity`` may reach such a node at all; None is yes.

    ``present``: see :func:`decide`.
    """
    matching = _matching(
        identity, node_labels, roles, locks, now, host_id, login, session_id, present or identity
    )
    return matching if isinstance(matching, Denied) else None


def _matching(
    identity: UserIdentity,
    node_labels: Mapping[str, str],
    roles: Mapping[str, Role],
    locks: Iterable[Lock],
    now: datetime,
    host_id: str,
    login: str | None,
    session_id: str,
    present: UserIdentity,
) -> list[Role] | Denied:
    """Return the roles that allow a node; one of them at least allows it now."""
    if identity.expires <= now:
        return Denied(
            Reason.EXPIRED, f"the certificate of {identity.user} has expired: log in again"
        )
    lock = next((k for k in locks if hits(k, present, now, host_id, login, session_id)), None)
    if lock is not None:
        return Denied(Reason.LOCKED, explain(lock, identity.user))
    mine = roles_of(identity, roles, now)
    if not mine:
        named = ", ".join(identity.roles) or "none"
        return Denied(Reason.NO_ROLE, f"{identity.user} has no role that exists (roles: {named})")
    for role in roles_of(present, roles, now):
        side = role.spec.deny
        if conditions.denies(side, node_labels, present) or (
            present is not identity and conditions.denies(side, node_labels, identity)
        ):
            return Denied(
                Reason.DENIED, f"role {role.metadata.name} denies this node to {identity.user}"
            )
    allowing = [role for role in mine if _allows_node(role, node_labels, identity, present)]
    if not any(in_time(role, now) for role in allowing):
        return _not_now(allowing, identity) or Denied(
            Reason.NODE,
            f"no role of {identity.user} ({', '.join(identity.roles)}) allows this node",
        )
    return allowing


def permits(
    held: Iterable[str],
    roles: Mapping[str, Role],
    resource: str,
    verb: str,
    now: datetime | None = None,
) -> bool:
    """Whether a user with the roles ``held`` may ``verb`` a ``resource`` through the API.

    With ``now``, roles that have expired do not count.
    """
    return refusal(held, roles, resource, verb, now) is None


def refusal(
    held: Iterable[str],
    roles: Mapping[str, Role],
    resource: str,
    verb: str,
    now: datetime | None = None,
    facts: Facts | None = None,
    *,
    possibly: bool = False,
) -> Denied | None:
    """Return why :func:`permits` is false, or None.

    With ``facts`` it is about one object (:mod:`tele.rbac.rules`). ``possibly``: whether there may
    be an object for which it is allowed.
    """
    names = list(held)
    what = f"{verb} {'an' if resource[:1] in 'aeio' else 'a'} {resource}"  # a user, an event
    mine = [roles[name] for name in names if name in roles and _in_force(roles[name], now)]
    for role in mine:
        if has_rule(role.spec.deny.rules, resource, verb, facts, unknown=not possibly):
            return Denied(Reason.RULE, f"role {role.metadata.name} denies to {what}")
    allowing = [
        role
        for role in mine
        if has_rule(role.spec.allow.rules, resource, verb, facts, unknown=possibly)
    ]
    if any(now is None or in_time(role, now) for role in allowing):
        return None
    named = ", ".join(names) or "none"
    here = "" if facts is None else ", or none whose condition (where) is true here"
    return Denied(Reason.RULE, f"no role ({named}) has a rule that allows to {what}{here}")


def locked(locks: Iterable[Lock], identity: UserIdentity, now: datetime) -> Lock | None:
    """Return a lock in force on the user ``identity``, or None."""
    return next((lock for lock in locks if hits(lock, identity, now, "", None, "")), None)


def explain(lock: Lock, user: str) -> str:
    """Return a text for ``user`` about a lock that stops them."""
    target, message = lock.spec.target, f": {lock.spec.message}" if lock.spec.message else ""
    if target.session is not None:
        by = f" by {lock.spec.created_by}" if lock.spec.created_by else ""
        return f"this session was ended{by}{message}"
    if target.role is not None:
        what = f"role {target.role}"
    elif target.login is not None:
        what = f"login {target.login}"
    elif target.host_id is not None:
        what = "this node"
    elif target.login_session is not None:
        what = f"this login of {user}"
    elif target.certificate is not None:
        what = f"this certificate of {user}"
    else:
        what = user
    return f"{what} is locked by {lock.metadata.name}{message}"


def host_locked(locks: Iterable[Lock], host_id: str, now: datetime) -> Lock | None:
    """Return a lock in force on a host, or None."""
    return next((k for k in locks if _lasts(k, now) and k.spec.target.host_id == host_id), None)


def _in_force(role: Role, now: datetime | None) -> bool:
    expires = role.metadata.expires
    return expires is None or now is None or now < expires


def roles_of(identity: UserIdentity, roles: Mapping[str, Role], now: datetime) -> list[Role]:
    """Return the roles of ``identity`` that exist now, each once, by name."""
    names = sorted(set(identity.roles))
    return [roles[name] for name in names if name in roles and _in_force(roles[name], now)]


def _lasts(lock: Lock, now: datetime) -> bool:
    return lock.metadata.expires is None or now < lock.metadata.expires


def hits(
    lock: Lock,
    identity: UserIdentity,
    now: datetime,
    host_id: str,
    login: str | None,
    session_id: str,
) -> bool:
    """Whether ``lock`` is in force on one of these."""
    if not _lasts(lock, now):
        return False
    target: LockTarget = lock.spec.target
    return (
        (target.user is not None and target.user == identity.user)
        or (target.role is not None and target.role in identity.roles)
        or (target.login is not None and target.login == login)
        or (target.host_id is not None and target.host_id == host_id)
        or (target.login_session is not None and target.login_session == identity.login_session)
        or (target.certificate is not None and target.certificate == str(identity.serial))
        or (target.session is not None and target.session == session_id)
    )
