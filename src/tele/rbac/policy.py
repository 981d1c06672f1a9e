"""What do the cluster's roles, locks and revocations allow a user or a host now?

A policy is made once for each state of the cluster.

Invariants:

* An identity has the roles and traits of its certificate, without those revoked since; roles that
  were given since deny and limit, and allow nothing.
* A lock or a revocation of a user or a host comes before every role.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar

from attrs import evolve

from tele.model.access import CertificateLimits, Denied, Grant, Reason
from tele.model.api.members import ClusterState
from tele.model.cluster_settings import HostSettings
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.joining import JoinGrant, JoinTarget
from tele.model.resources import Lock, RecordingSettings, Role
from tele.model.revocation import HostRevocation, UserRevocation
from tele.rbac import decision
from tele.rbac.joining import decide_join, may_join_some
from tele.rbac.windows import next_change

_DEFAULTS: Final = HostSettings()
T = TypeVar("T")


def _or(chosen: T | None, usual: T) -> T:
    """Return what a role has chosen, or else what is usual in the cluster."""
    return usual if chosen is None else chosen


class Policy:
    """Roles by name, locks in force, and revocations."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        locks: Iterable[Lock] = (),
        revoked_users: Iterable[UserRevocation] = (),
        revoked_hosts: Iterable[HostRevocation] = (),
        client_keepalive: timedelta | None = None,
        recording: RecordingSettings = decision.BY_NODES,
        settings: HostSettings = _DEFAULTS,
    ) -> None:
        self._settings = settings
        self._recording = recording
        self._client_keepalive = client_keepalive or timedelta(0)
        self.roles = dict(roles)
        self._locks: dict[tuple[str, str], list[Lock]] = {}
        for lock in locks:
            self._locks.setdefault(lock.spec.target.what, []).append(lock)
        self._users = {each.user: each for each in revoked_users}
        self._hosts = {(each.role, each.host_id): each for each in revoked_hosts}

    @classmethod
    def of(cls, state: ClusterState) -> Policy:
        """Make the policy of a state."""
        roles = {role.metadata.name: role for role in state.roles}
        return cls(
            roles,
            state.locks,
            state.revoked_users,
            state.revoked_hosts,
            state.client_keepalive,
            state.recording,
            state.settings,
        )

    # -- hosts ------------------------------------------------------------------------
    def refuses_host(self, host: HostIdentity, now: datetime) -> Denied | None:
        """Return why a host is not accepted any more, or None."""
        revoked = self._hosts.get((host.role, host.host_id))
        if revoked is not None and host.issued < revoked.before:
            return Denied(
                Reason.REVOKED,
                f"{host.role.value} {host.name} ({host.host_id}) was removed from the cluster"
                " or replaced",
            )
        return self.locks_host(host.host_id, now)

    def locks_host(self, host_id: str, now: datetime) -> Denied | None:
        """Return the lock on a host by its id, or None."""
        lock = decision.host_locked(self._on(("host_id", host_id)), host_id, now)
        if lock is None:
            return None
        return Denied(Reason.LOCKED, f"host {host_id} is locked by {lock.metadata.name}")

    def revoked_hosts(self, role: HostRole) -> frozenset[HostRevocation]:
        """Return the revocations of hosts in one role."""
        return frozenset(each for each in self._hosts.values() if each.role is role)

    # -- users ------------------------------------------------------------------------
    def narrowed(self, identity: UserIdentity, now: datetime) -> UserIdentity | Denied:
        """Return ``identity`` without what was revoked, or why it is not accepted."""
        revoked = self._users.get(identity.user)
        if revoked is None:
            return identity
        if revoked.removed is not None and identity.issued < revoked.removed:
            return Denied(Reason.REVOKED, f"user {identity.user} was removed from the cluster")
        expires = revoked.expires
        if expires is not None and identity.issued < expires <= now:
            return Denied(Reason.REVOKED, f"user {identity.user} has expired")
        if revoked.narrowed is None or identity.issued >= revoked.narrowed:
            return identity
        return evolve(
            identity,
            roles=tuple(role for role in identity.roles if role in revoked.roles),
            traits={
                name: tuple(v for v in values if v in revoked.traits.get(name, ()))
                for name, values in identity.traits.items()
            },
        )

    def _present(self, identity: UserIdentity) -> UserIdentity:
        """Return the identity that a new certificate of the user would have."""
        revoked = self._users.get(identity.user)
        if revoked is None or revoked.narrowed is None or identity.issued >= revoked.narrowed:
            return identity
        return evolve(identity, roles=revoked.roles, traits=revoked.traits)

    def refuses_user(self, identity: UserIdentity, now: datetime) -> Denied | None:
        """Return why a user is not accepted now, on any node, or None."""
        counted = self.narrowed(identity, now)
        if isinstance(counted, Denied):
            return counted
        # A lock on a role stops users who had it by their certificate, or have it now.
        roles = (*identity.roles, *self._present(identity).roles)
        either = evolve(identity, roles=tuple(dict.fromkeys(roles)))
        lock = decision.locked(self._locks_on(either), either, now)
        if lock is None:
            return None
        return Denied(Reason.LOCKED, decision.explain(lock, identity.user))

    def _counted(self, identity: UserIdentity, now: datetime) -> UserIdentity | Denied:
        """Return ``identity`` for a decision about a node, which checks the remaining locks."""
        counted = self.narrowed(identity, now)
        if counted is identity or isinstance(counted, Denied):
            return counted
        return self.refuses_user(identity, now) or counted

    def decide(
        self,
        identity: UserIdentity,
        login: str,
        node_labels: Mapping[str, str],
        now: datetime,
        host_id: str = "",
        certificate: CertificateLimits = decision.NO_LIMITS,
        session_id: str = "",
    ) -> Grant | Denied:
        """Decide about a login to a node; see :func:`tele.rbac.decision.decide`."""
        counted = self._counted(identity, now)
        if isinstance(counted, Denied):
            return counted
        present = self._present(identity)
        locks = self._locks_on(present, login=login, host_id=host_id, session=session_id)
        decided = decision.decide(
            counted, login, node_labels, self.roles, locks, now, host_id, certificate, session_id,
            present, self._recording,
        )  # fmt: skip
        if isinstance(decided, Denied):
            return decided
        return evolve(
            decided,
            client_keepalive=_or(decided.client_keepalive, self._client_keepalive),
            client_idle_timeout=_or(
                decided.client_idle_timeout, self._settings.client_idle_timeout
            ),
            disconnect_expired_cert=_or(
                decided.disconnect_expired_cert, self._settings.disconnect_expired_cert
            ),
        )

    def client_keepalive(self, identity: UserIdentity, now: datetime) -> timedelta:
        """Return the interval of keepalives for a client that logs in to no node; 0 is never."""
        mine = decision.roles_of(self._present(identity), self.roles, now)
        interval = decision.keepalive_of(role.spec.options for role in mine)
        return self._client_keepalive if interval is None else interval

    def may_reach(
        self,
        identity: UserIdentity,
        node_labels: Mapping[str, str],
        now: datetime,
        host_id: str = "",
    ) -> Denied | None:
        """Return why a user may not reach a node, with any login, or None."""
        counted = self._counted(identity, now)
        if isinstance(counted, Denied):
            return counted
        present = self._present(identity)
        locks = self._locks_on(present, host_id=host_id)
        return decision.may_reach(
            counted, node_labels, self.roles, locks, now, host_id, present=present
        )

    def may_connect(
        self,
        identity: UserIdentity,
        node_labels: Mapping[str, str],
        now: datetime,
        host_id: str = "",
    ) -> Denied | None:
        """Return why a user may not be connected to a node, to log in or to join a session there,
        or None. The node decides which sessions may be joined.
        """
        denied = self.may_reach(identity, node_labels, now, host_id)
        if denied is None or denied.reason not in (Reason.NODE, Reason.TIME):
            return denied
        counted = self._counted(identity, now)
        if isinstance(counted, Denied) or not may_join_some(counted, self.roles, now):
            return denied
        return None

    def decide_join(
        self,
        identity: UserIdentity,
        target: JoinTarget,
        now: datetime,
        certificate: CertificateLimits = decision.NO_LIMITS,
    ) -> JoinGrant | Denied:
        """Decide about joining a session; see :func:`tele.rbac.joining.decide_join`."""
        counted = self._counted(identity, now)
        if isinstance(counted, Denied):
            return counted
        present = self._present(identity)
        locks = self._locks_on(present, host_id=target.host_id)
        return decide_join(counted, target, self.roles, locks, now, certificate, present)

    # -- locks ------------------------------------------------------------------------
    def _on(self, *targets: tuple[str, str]) -> list[Lock]:
        return [lock for target in targets for lock in self._locks.get(target, ())]

    def _locks_on(self, identity: UserIdentity, **more: str) -> list[Lock]:
        """Return the locks that can concern a user: a decision does not read all the others."""
        if not self._locks:
            return []
        return self._on(
            ("user", identity.user),
            *(("role", role) for role in dict.fromkeys(identity.roles)),
            ("login_session", identity.login_session),
            ("certificate", str(identity.serial)),
            *more.items(),
        )

    # -- time -------------------------------------------------------------------------
    def next_end(self, now: datetime) -> datetime | None:
        """Return when a role or a user expires next, or a role's time begins or ends; or None."""
        times = [role.metadata.expires for role in self.roles.values()]
        times += [each.expires for each in self._users.values()]
        times += [
            next_change(role.spec.options.valid_times, now)
            for role in self.roles.values()
            if role.spec.options.valid_times
        ]
        return min((each for each in times if each is not None and each > now), default=None)
