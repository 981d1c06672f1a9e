"""What do the cluster's roles, locks and revocations say of a user or a host now?

A policy is made once of each state that auth tells, and answers for that state.

Invariants:

* An identity counts for what its certificate says, less what was revoked since; roles that were
  given since deny and restrict, and allow nothing.
* A lock or a revocation of a person or a host comes before every role.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from attrs import evolve

from tele.model.access import CertificateLimits, Denied, Grant, Reason
from tele.model.api.members import ClusterState
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.resources import Lock, Role
from tele.model.revocation import HostRevocation, UserRevocation
from tele.rbac import decision


class Policy:
    """Roles by name, locks in force, and what was revoked."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        locks: Iterable[Lock] = (),
        revoked_users: Iterable[UserRevocation] = (),
        revoked_hosts: Iterable[HostRevocation] = (),
        client_keepalive: timedelta | None = None,
    ) -> None:
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
        )

    # -- hosts ------------------------------------------------------------------------
    def refuses_host(self, host: HostIdentity, now: datetime) -> Denied | None:
        """Return why a host has no business in the cluster any more, or None."""
        revoked = self._hosts.get((host.role, host.host_id))
        if revoked is not None and host.issued < revoked.before:
            return Denied(
                Reason.REVOKED,
                f"{host.role.value} {host.name} ({host.host_id}) was removed from the cluster"
                " or replaced",
            )
        return self.locks_host(host.host_id, now)

    def locks_host(self, host_id: str, now: datetime) -> Denied | None:
        """Return the lock on a host whose certificate is not at hand, or None."""
        lock = decision.host_locked(self._on(("host_id", host_id)), host_id, now)
        if lock is None:
            return None
        return Denied(Reason.LOCKED, f"host {host_id} is locked by {lock.metadata.name}")

    def revoked_hosts(self, role: HostRole) -> frozenset[HostRevocation]:
        """Return what was revoked of hosts in one role."""
        return frozenset(each for each in self._hosts.values() if each.role is role)

    # -- users ------------------------------------------------------------------------
    def narrowed(self, identity: UserIdentity, now: datetime) -> UserIdentity | Denied:
        """Return ``identity`` as far as it still counts, or why it does not."""
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
        """Return who a certificate of now would say that ``identity`` is."""
        revoked = self._users.get(identity.user)
        if revoked is None or revoked.narrowed is None or identity.issued >= revoked.narrowed:
            return identity
        return evolve(identity, roles=revoked.roles, traits=revoked.traits)

    def refuses_user(self, identity: UserIdentity, now: datetime) -> Denied | None:
        """Return why a person has no business in the cluster now, whatever the node, or None."""
        counted = self.narrowed(identity, now)
        if isinstance(counted, Denied):
            return counted
        # A lock of a role stops who had it when it was taken away, and who was given it since.
        roles = (*identity.roles, *self._present(identity).roles)
        either = evolve(identity, roles=tuple(dict.fromkeys(roles)))
        lock = decision.locked(self._locks_on(either), either, now)
        if lock is None:
            return None
        return Denied(Reason.LOCKED, decision.explain(lock, identity.user))

    def _counted(self, identity: UserIdentity, now: datetime) -> UserIdentity | Denied:
        """Return ``identity`` for a decision about a node, which looks at the locks of the rest."""
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
            present,
        )  # fmt: skip
        if isinstance(decided, Grant) and decided.client_keepalive is None:
            return evolve(decided, client_keepalive=self._client_keepalive)
        return decided

    def client_keepalive(self, identity: UserIdentity, now: datetime) -> timedelta:
        """Return after how much silence the client of somebody is asked whether it is there, where
        they log in to no node: nought is never.
        """
        said = decision.keepalive_of(decision.roles_of(self._present(identity), self.roles, now))
        return self._client_keepalive if said is None else said

    def may_reach(
        self,
        identity: UserIdentity,
        node_labels: Mapping[str, str],
        now: datetime,
        host_id: str = "",
    ) -> Denied | None:
        """Decide about a node, whatever the login; None is yes."""
        counted = self._counted(identity, now)
        if isinstance(counted, Denied):
            return counted
        present = self._present(identity)
        locks = self._locks_on(present, host_id=host_id)
        return decision.may_reach(
            counted, node_labels, self.roles, locks, now, host_id, present=present
        )

    # -- locks ------------------------------------------------------------------------
    def _on(self, *targets: tuple[str, str]) -> list[Lock]:
        return [lock for target in targets for lock in self._locks.get(target, ())]

    def _locks_on(self, identity: UserIdentity, **more: str) -> list[Lock]:
        """Return the locks that can stop somebody: a decision costs no more for all the others."""
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
        """Return when time alone takes something away next: a role or a user expires."""
        times = [role.metadata.expires for role in self.roles.values()]
        times += [each.expires for each in self._users.values()]
        return min((each for each in times if each is not None and each > now), default=None)
